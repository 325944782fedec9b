"""Turn a published backbone into a checkpoint of timm's ResNet.

Run: python tools/model_converters/to_timm.py BACKBONE.pth

Use: timm.create_model('resnet50', num_classes=0, checkpoint_path=FILE)
"""
import argparse
import os.path as osp
from typing import Any

from safetensors.torch import save_file

from cyborgs_plugin.errors import MissingPackageError, UserError, reported
from cyborgs_plugin.transfer.backbone_file import (
    build_resnet,
    compare_features,
    read_backbone,
    stem_of,
    write_hashed,
)
from cyborgs_plugin.transfer.recipe_check import pixels_line


@reported()
def main() -> None:
    """Convert, compare the features and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('backbone', help='file of publish_backbone.py')
    parser.add_argument(
        '--out-dir', help="folder of the file (default: the backbone's)")
    args = parser.parse_args()
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(
            'The conversion is compared with timm itself, which is missing '
            f'({error}): pip install timm') from error
    tensors, made, arch = read_backbone(args.backbone)
    # timm's resnet* have torchvision's names as well, its resnet*d have not.
    model: Any = timm.create_model(arch, num_classes=0)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise UserError(f'{args.backbone} does not fit timm: {error}'
                        ) from error
    difference = compare_features(
        build_resnet(tensors, arch, args.backbone),
        model.eval().forward_features, 'timm')
    file = write_hashed(
        args.out_dir or osp.dirname(args.backbone),
        stem_of(args.backbone) + '_timm', '.safetensors',
        lambda path: save_file(tensors, path, {'format': 'pt'}))
    print(f'Wrote {file}: {arch}, features equal to {difference:.1e}\n'
          f'Use it: timm.create_model({arch!r}, num_classes=0, '
          f'checkpoint_path={file!r})\n{pixels_line(made)}')


if __name__ == '__main__':
    main()
