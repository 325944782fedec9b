"""Time of a training step with each backbone, against ResNet-50's.

Run: OMP_NUM_THREADS=1 python tools/benchmarks/backbone_speed.py

Processor time, on drawn pictures: the steps of a recipe and of
configs/cyborgs_coco.py take turns, so that what else the machine does counts
for both.
"""
import argparse
import os.path as osp
import statistics
import time
from collections.abc import Callable
from glob import glob

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from step_speed import draw_batch

from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.engine.timm_option import use_timm
from cyborgs_plugin.errors import reported
from cyborgs_plugin.segmentation.layer_choice import choose_layer

CONFIGS = osp.join(osp.dirname(osp.abspath(__file__)), '../../configs')
BASE = 'cyborgs_coco.py'


def steps_of(cfg: Config, data: dict) -> tuple[Callable[[], float], str]:
    """What makes a step and gives its seconds, and what is trained."""
    torch.manual_seed(0)
    # Not that of a recipe: the projectors are the same, the backbones differ.
    cfg.model.neck.projector.update(hid_channels=4096, out_channels=256)
    cfg.model.head.predictor.update(
        in_channels=256, hid_channels=4096, out_channels=256)
    cfg.model.backbone.pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    model.update_target()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    source = cfg.default_hooks.mask_update.source
    layer = source.get('layer') or choose_layer(model.backbone)
    width = model.neck.projector.fc0.in_features
    size = sum(one.numel() for one in model.backbone.parameters()) / 1e6

    def step() -> float:
        start = time.process_time()
        model.train_step(data, optimizer)
        model.update_target()
        return time.process_time() - start

    return step, (f'{size:.1f} M parameters, {width} channels to '
                  f'{cfg.model.neck.grid_stride} pixels per cell, masks of '
                  f'{layer}')


@reported()
def main() -> None:
    """Time the recipes in turn with that of ResNet-50."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'configs', nargs='*', help='(default: those of configs/backbones)')
    parser.add_argument(
        '--view-size', type=at_least(32), default=128,
        help='pixels on each side of a view (default: %(default)s)')
    parser.add_argument(
        '--batch', type=at_least(2), default=4,
        help='images per step (default: %(default)s)')
    parser.add_argument(
        '--steps', type=at_least(1), default=3,
        help='of each backbone, whose median counts (default: %(default)s)')
    args = parser.parse_args()
    init_default_scope('mmpretrain')
    MMLogger.get_instance('backbone_speed', log_level='ERROR')
    data = draw_batch(args.batch, args.view_size, ids=16)
    base, _ = steps_of(load_config(osp.join(CONFIGS, BASE)), data)
    base()  # what is made once
    for path in args.configs or sorted(glob(
            osp.join(CONFIGS, 'backbones', '*.py'))):
        cfg = load_config(path)
        use_timm(cfg)
        step, what = steps_of(cfg, data)
        step()
        ratios = [step() / base() for _ in range(args.steps)]
        print(f'{osp.basename(path)}: {statistics.median(ratios):.2f} times '
              f'{BASE} ({min(ratios):.2f} to {max(ratios):.2f}); {what}',
              flush=True)


if __name__ == '__main__':
    main()
