"""Take the backbone out of a training checkpoint.

Run: python tools/model_converters/publish_backbone.py CHECKPOINT

Writes a ``.pth`` and a ``.safetensors`` file, each with its hash in the name
and with how it was made. What the ``.pth`` holds, see
cyborgs_plugin/transfer/backbone_file.py. The
last line of the output is the path of the ``.pth``, for scripts.
"""
import argparse
import os.path as osp
import shlex
from typing import Any

from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.files import sha256
from cyborgs_plugin.safe_load import Tensors, load_weights, tensors_of
from cyborgs_plugin.transfer.backbone_file import find_arch, write_backbone
from cyborgs_plugin.transfer.recipe_check import recipe_of
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
            f'begin with {found[:10]}: give a checkpoint of tools/train.py '
            'on a pretraining config; from_published.py takes those of '
            'others')
    return tensors


@reported()
def main() -> None:
    """Write the files and say how to use them."""
    parser = argparse.ArgumentParser(
        description='Take the backbone out of a training checkpoint')
    parser.add_argument('checkpoint', help='checkpoint of tools/train.py')
    parser.add_argument(
        '--out-dir', help="folder of the files; by default the checkpoint's")
    parser.add_argument(
        '--network',
        choices=list(PREFIXES),
        default='online',
        help='online, as the paper transfers, or its moving average')
    args = parser.parse_args()
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
        time=meta.get('time'),
        mmengine=meta.get('mmengine_version'),
        cyborgs_plugin=__version__)
    made = {
        key: value if isinstance(value, (int, float, str)) else None
        for key, value in made.items()
    }
    # what a fine-tuning must do alike: mean, std, to_rgb, style
    made.update(recipe_of(meta))
    folder = args.out_dir or osp.dirname(path)
    stem = osp.splitext(osp.basename(path))[0] + f'_{args.network}-backbone'
    files = write_backbone(
        tensors, dict(made, config=str(meta.get('cfg', ''))), folder, stem)
    print(f'Wrote {files[0]} and {osp.basename(files[1])}: {len(tensors)} '
          f'tensors, {made}')
    arch = find_arch(tensors)
    file = osp.abspath(files[0])  # configs anywhere name it
    init = dict(type='Pretrained', checkpoint=file)
    if arch:
        init['prefix'] = f'{arch}.'
    key = 'model.backbone.init_cfg'
    words = ', '.join(f'{name}={value!r}' for name, value in init.items())
    options = ' '.join(
        shlex.quote(f'{key}.{name}={value}') for name, value in init.items())
    print(f'Use it in mmdet or mmpretrain: {key}=dict({words}) in a config, '
          f'or\n--cfg-options {options}\n{file}')


if __name__ == '__main__':
    main()
