r"""Take the backbone out of a training checkpoint.

Run: python tools/model_converters/publish_backbone.py CHECKPOINT \
         [--blend 0.5 --start FILE] [--recalibrate FOLDER --config CONFIG]

Writes a ``.pth`` and a ``.safetensors`` file, each with its hash in the name
and with how it was made. What the ``.pth`` holds, see
cyborgs_plugin/transfer/backbone_file.py. The
last line of the output is the path of the ``.pth``, for scripts.
"""
import argparse
import os.path as osp
import shlex
from typing import Any

import numpy as np

from cyborgs_plugin.arguments import share
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.image_files import list_images
from cyborgs_plugin.datasets.image_io import BrokenImageError, read_image
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.files import sha256
from cyborgs_plugin.safe_load import Tensors, load_weights, tensors_of
from cyborgs_plugin.start_file import read_start
from cyborgs_plugin.transfer.backbone_file import (
    is_foreign,
    prefix_of,
    write_backbone,
)
from cyborgs_plugin.transfer.blending import (
    MIN_PICTURES,
    blend,
    centre,
    recalibrated,
)
from cyborgs_plugin.transfer.recipe_check import (
    backbone_settings,
    recipe_of,
)
from cyborgs_plugin.version import __version__

PREFIXES = dict(online='backbone.', target='target_net.module.0.')


def backbone_of(checkpoint: dict[str, Any], path: str,
                network: str) -> Tensors:
    """The tensors of one network's backbone, without their prefix.

    Raises:
        UserError: If there are none; names the prefixes that there are.
    """
    state = tensors_of(checkpoint, path)
    prefix = PREFIXES[network]
    tensors = {
        key[len(prefix):]: value.clone()
        for key, value in state.items() if key.startswith(prefix)
    }
    if not tensors:
        found = sorted({key.split('.')[0] for key in state})
        raise UserError(
            f'{path} holds no keys that begin with {prefix!r}, but such as '
            f'begin with {found[:10]}: give a checkpoint of a pretraining '
            'config; from_published.py takes those of others')
    return tensors


def start_of(hub: dict[str, Any]) -> dict[str, Any]:
    """What the run started from, and how far it went from it."""
    drift = hub.get('drift')
    drift = drift if isinstance(drift, dict) else {}
    known = dict(
        start=hub.get('start'),
        start_sha256=hub.get('start_sha256'),
        drift=drift.get('drift'),
        drift_cka=drift.get('cka'),
        drift_recovered=drift.get('recovered'))
    return {key: value for key, value in known.items() if value is not None}


def read_pictures(folder: str, number: int) -> list[np.ndarray]:
    """Read some pictures of a folder, each (H, W, 3), BGR, uint8."""
    files = list_images(folder)
    pictures: list[np.ndarray] = []
    # Mixed, so that a batch is not of one scene or camera.
    for index in np.random.default_rng(0).permutation(len(files)):
        if len(pictures) == number:
            break
        try:
            pictures.append(centre(read_image(files[index])))
        except BrokenImageError as error:
            print(f'Left out: {error}')
    return pictures


def in_its_library(file: str, timm_name: str | None) -> str:
    """Say how another library's network takes the file."""
    if timm_name:
        return (f'Use it in timm: timm.create_model({timm_name!r}, '
                f'num_classes=0, checkpoint_path={file!r})')
    return ('Use it in the network itself: module.load_state_dict('
            f'safetensors.torch.load_file({file!r}), strict=False)')


@reported()
def main() -> None:
    """Write the files and say how to use them."""
    parser = argparse.ArgumentParser(
        description='Take the backbone out of a training checkpoint')
    parser.add_argument('checkpoint', help='checkpoint of a pretraining run')
    parser.add_argument(
        '--out-dir', help="folder of the files (default: the checkpoint's)")
    parser.add_argument(
        '--network',
        choices=list(PREFIXES),
        default='online',
        help='online, as in the paper, or target, its moving average')
    parser.add_argument(
        '--blend',
        type=share,
        metavar='SHARE',
        help='average with the weights of --start: the share, 0 to 1, of the '
        'trained ones')
    parser.add_argument('--start', help='the file that the run started from')
    parser.add_argument(
        '--recalibrate',
        metavar='FOLDER',
        help='recompute the statistics of batch norms on its pictures as '
        'they are')
    parser.add_argument(
        '--config', help='of the run; --recalibrate builds its backbone')
    parser.add_argument(
        '--num-images', type=int, default=512, help='for --recalibrate')
    args = parser.parse_args()
    if (args.blend is None) != (args.start is None):
        raise UserError('--blend and --start go together')
    if args.recalibrate and not args.config:
        raise UserError('--recalibrate needs --config: the config of the run, '
                        'which lies in its work_dir')
    if args.num_images < MIN_PICTURES:
        raise UserError(f'--num-images must be {MIN_PICTURES} or more, but is '
                        f'{args.num_images}')
    path = args.checkpoint
    checkpoint = load_weights(path, log=True)
    tensors = backbone_of(checkpoint, path, args.network)
    meta = checkpoint.get('meta', {})
    hub = checkpoint.get('message_hub', {}).get('runtime_info')
    hub = hub if isinstance(hub, dict) else {}
    made = dict(
        source=osp.basename(path),
        source_sha256=sha256(path),
        network=args.network,
        epoch=meta.get('epoch'),
        iter=meta.get('iter'),
        seed=meta.get('seed'),
        mask_round=hub.get('mask_round'),
        **start_of(hub),
        time=meta.get('time'),
        mmengine=meta.get('mmengine_version'),
        cyborgs_plugin=__version__)
    made = {
        key: value if isinstance(value, (int, float, str)) else None
        for key, value in made.items()
    }
    if args.blend is not None:
        tensors = blend(
            read_start(args.start), tensors, args.blend, args.start,
            made.get('start_sha256'))
        made['blend'] = args.blend
    if args.recalibrate:
        try:
            pictures = read_pictures(args.recalibrate, args.num_images)
            tensors, made['recalibrated_on'] = recalibrated(
                tensors, load_config(args.config), pictures, path)
        except UserError as error:
            raise UserError(f'--recalibrate {args.recalibrate}: {error}'
                            ) from error
    backbone = backbone_settings(meta)
    made['backbone'] = backbone.get('type')
    if backbone.get('type') == 'TimmNetwork':
        made['timm_name'] = backbone.get('model_name')
    # what a fine-tuning must do alike: mean, std, to_rgb, style
    made.update(recipe_of(meta))
    folder = args.out_dir or osp.dirname(path)
    stem = osp.splitext(osp.basename(path))[0] + f'_{args.network}-backbone'
    files = write_backbone(
        tensors, dict(made, config=str(meta.get('cfg', ''))), folder, stem)
    print(f'Wrote {files[0]} and {osp.basename(files[1])}: {len(tensors)} '
          f'tensors, {made}')
    file = osp.abspath(files[0])  # configs anywhere name it
    init = dict(
        type='Pretrained', checkpoint=file, prefix=prefix_of(tensors))
    key = 'model.backbone.init_cfg'
    words = ', '.join(f'{name}={value!r}' for name, value in init.items())
    options = ' '.join(
        shlex.quote(f'{key}.{name}={value}') for name, value in init.items())
    print(f'Use it in mmdet or mmpretrain: {key}=dict({words}) in a config, '
          f'or\n--cfg-options {options}')
    if is_foreign(tensors):
        print(in_its_library(osp.abspath(files[1]), made.get('timm_name')))
    print(file)


if __name__ == '__main__':
    main()
