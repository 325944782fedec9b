"""Turn a published backbone into a ``.pkl`` that detectron2 loads by name.

Run: python tools/model_converters/to_detectron2.py BACKBONE.pth --model fpn

The names are detectron2's own, so that nothing is guessed
(``matching_heuristics`` off); the values are numpy arrays:

=========================  ====================================
toolbox                    detectron2, after the model's prefix
=========================  ====================================
``conv1``                  ``stem.conv1``
``bn1``                    ``stem.conv1.norm``
``layerS.B.convN``         ``res{S+1}.B.convN``
``layerS.B.bnN``           ``res{S+1}.B.convN.norm``
``layerS.B.downsample.0``  ``res{S+1}.B.shortcut``
``layerS.B.downsample.1``  ``res{S+1}.B.shortcut.norm``
``num_batches_tracked``    left out
=========================  ====================================

The prefix is ``backbone.bottom_up.`` in an FPN, ``backbone.`` in a C4 model,
whose ``res5`` is ``roi_heads.res5``.
"""
import argparse
import os.path as osp
import pickle
import re
from typing import Any

from cyborgs_plugin.errors import reported
from cyborgs_plugin.transfer.backbone_file import (
    build_resnet,
    read_backbone,
    stem_of,
    write_hashed,
)
from cyborgs_plugin.transfer.recipe_check import pixels_of

PREFIXES = dict(fpn='backbone.bottom_up.', c4='backbone.')
SETTINGS = """\
MODEL:
  WEIGHTS: {file}
  PIXEL_MEAN: {mean}
  PIXEL_STD: {std}
  BACKBONE: {{FREEZE_AT: 0}}
  RESNETS: {{DEPTH: {depth}, NORM: SyncBN, STRIDE_IN_1X1: False}}
  FPN: {{NORM: SyncBN}}
INPUT: {{FORMAT: {order}}}"""


def detectron2_name(key: str, model: str = 'fpn') -> str:
    """The name of a tensor in a detector of detectron2.

    Args:
        key (str): Name in the toolbox.
        model (str): ``fpn`` or ``c4``. Defaults to ``fpn``.

    Returns:
        str: Name in the detector's state dict.

    Raises:
        ValueError: If there is no such tensor in a ResNet.
    """
    key = re.sub(r'\bbn(\d)\.', r'conv\1.norm.', key)
    key = key.replace('downsample.0.', 'shortcut.')
    key = key.replace('downsample.1.', 'shortcut.norm.')
    match = re.match(r'layer(\d)\.(\d+\.(?:conv\d|shortcut)\.(?:norm\.)?\w+)$',
                     key)
    if match:
        key = f'res{int(match[1]) + 1}.{match[2]}'
        if model == 'c4' and match[1] == '4':
            return f'roi_heads.{key}'
    elif re.match(r'conv1\.(norm\.)?\w+$', key):
        key = f'stem.{key}'
    else:
        raise ValueError(f'{key!r} is no tensor of a plain ResNet')
    return PREFIXES[model] + key


@reported()
def main() -> None:
    """Convert and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('backbone', help='file of publish_backbone.py')
    parser.add_argument(
        '--model',
        choices=list(PREFIXES),
        default='fpn',
        help='which detector loads it')
    parser.add_argument(
        '--out-dir', help="folder of the file (default: the backbone's)")
    args = parser.parse_args()
    tensors, made, arch = read_backbone(args.backbone)
    build_resnet(tensors, arch, args.backbone)  # whole and finite
    content: dict[str, Any] = {
        'model': {
            detectron2_name(key, args.model): value.numpy()
            for key, value in tensors.items()
            if not key.endswith('num_batches_tracked')
        },
        # with an author detectron2 takes the names as they are
        '__author__': 'cyborgs_plugin',
        'matching_heuristics': False
    }

    def write(path: str) -> None:
        with open(path, 'wb') as file:
            pickle.dump(content, file)

    file = write_hashed(
        args.out_dir or osp.dirname(args.backbone),
        f'{stem_of(args.backbone)}_detectron2-{args.model}', '.pkl', write)
    mean, std, order = pixels_of(made)
    print(f'Wrote {file}: {len(content["model"])} arrays. Use it with:\n' +
          SETTINGS.format(file=file, depth=arch[len('resnet'):], mean=mean,
                          std=std, order=order))


if __name__ == '__main__':
    main()
