r"""Check that a transfer config gets its backbone and its annotations.

Run: python tools/model_converters/check_backbone.py CONFIG \
         --cfg-options model.backbone.init_cfg.checkpoint=FILE

FILE lies on this machine, or is an address that begins with http://, https://,
torchvision://, open-mmlab:// or mmcls://. None of its code runs.

Builds the model, loads the pretrained weights as mmengine does, compares every
tensor with the file and stops with the list of those that are missing. It also
stops if images and strides are not those of the pretraining, or if the heads
and the data have other numbers of classes. What mmengine only logs, or does
not notice, is thereby an error, whatever trains afterwards.
"""
import argparse

from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.errors import reported
from cyborgs_plugin.safe_load import loading_safely
from cyborgs_plugin.transfer.annotation_check import (
    check_annotations,
    check_config,
    check_file_kinds,
)
from cyborgs_plugin.transfer.pretrained_check import (
    check_files,
    check_loaded,
    pretrained_modules,
)
from cyborgs_plugin.transfer.recipe_check import check_recipe
from cyborgs_plugin.transfer.segmentation_check import check_masks


@reported()
def main() -> None:
    """Check, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='path of the transfer config')
    parser.add_argument(
        '--no-data', action='store_true', help='check only the backbone')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings: key.sub_key=value')
    args = parser.parse_args()
    cfg = load_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    MMLogger.get_instance('check_backbone', log_level='ERROR')
    check_file_kinds(cfg)
    lines = check_config(cfg)
    if not args.no_data:
        lines += check_annotations(cfg) + check_masks(cfg)
    if cfg.get('data_preprocessor'):  # as mmengine's Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    check_files(model)
    lines += check_recipe(model, cfg)
    if any(pretrained_modules(model)):
        with loading_safely():
            model.init_weights()
        lines += check_loaded(model)
    else:
        lines.append(f'{args.config} starts from random weights')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
