"""Evaluate a checkpoint by a transfer config.

Run: python tools/test.py CONFIG CHECKPOINT
"""
import argparse
import os
import os.path as osp

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from cyborgs_plugin.engine.launch import prepare_launch
from cyborgs_plugin.version import require_mmcv_ops


def main() -> None:
    """Evaluate."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--work-dir', help='folder of the log')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={})
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    if cfg.get('test_dataloader') is None:
        parser.error(f'{args.config} has no test_dataloader: pretraining '
                     'configs have nothing to evaluate; take a transfer one')
    cfg.launcher, cfg.load_from = args.launcher, args.checkpoint
    stem = osp.splitext(osp.basename(args.config))[0]
    cfg.work_dir = args.work_dir or osp.join('work_dirs', stem)
    if cfg.get('default_scope') != 'mmpretrain':
        require_mmcv_ops()
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    prepare_launch(cfg)
    Runner.from_cfg(cfg).test()


if __name__ == '__main__':
    main()
