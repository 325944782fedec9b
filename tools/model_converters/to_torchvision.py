"""Turn a published backbone into a state dict of torchvision's ResNet.

Run: python tools/model_converters/to_torchvision.py BACKBONE.pth

Use: model = torchvision.models.resnet50()
     model.load_state_dict(torch.load(FILE), strict=False)  # only fc missing
"""
import argparse
import os.path as osp

import torch
import torchvision
from torchvision.models._utils import IntermediateLayerGetter

from cyborgs_plugin.errors import UserError, reported
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
    tensors, made, arch = read_backbone(args.backbone)
    # The toolbox took over torchvision's names: there is nothing to rename.
    model = torchvision.models.get_model(arch)
    missing, superfluous = model.load_state_dict(tensors, strict=False)
    if set(missing) != {'fc.weight', 'fc.bias'} or superfluous:
        raise UserError(f'{args.backbone} does not fit torchvision: missing '
                        f'{missing[:8]}, superfluous {superfluous[:8]}')
    layers = IntermediateLayerGetter(model.eval(), {'layer4': 'map'})
    difference = compare_features(
        build_resnet(tensors, arch, args.backbone),
        lambda images: layers(images)['map'], 'torchvision')
    file = write_hashed(
        args.out_dir or osp.dirname(args.backbone),
        stem_of(args.backbone) + '_torchvision', '.pth',
        lambda path: torch.save(tensors, path))
    print(f'Wrote {file}: {arch}, features equal to {difference:.1e}\n'
          f'Use it: torchvision.models.{arch}().load_state_dict(torch.load('
          f'{file!r}), strict=False), which misses only fc.*\n'
          f'{pixels_line(made)}')


if __name__ == '__main__':
    main()
