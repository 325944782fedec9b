r"""Check that a transfer config gets its backbone and its annotations.

Run: python tools/model_converters/check_backbone.py CONFIG \
         --cfg-options model.backbone.init_cfg.checkpoint=FILE

Builds the model, loads the pretrained weights as mmengine does, compares every
tensor with the file and stops with the list of those that are missing. What
mmengine itself only logs is thereby an error, whatever trains afterwards.
"""
import argparse
import sys

from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from cyborgs_plugin.engine.transfer_check import (
    check_annotations,
    check_files,
    check_loaded,
    pretrained_modules,
)


def main() -> None:
    """Check, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='path of the transfer config')
    parser.add_argument(
        '--no-data', action='store_true', help='check the backbone alone')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings: key.sub_key=value')
    args = parser.parse_args()
    try:
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        MMLogger.get_instance('check_backbone', log_level='ERROR')
        lines = [] if args.no_data else check_annotations(cfg)
        model = MODELS.build(cfg.model)
        check_files(model)
        if any(pretrained_modules(model)):
            model.init_weights()
            lines += check_loaded(model)
        else:
            lines.append(f'{args.config} starts from random weights')
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
