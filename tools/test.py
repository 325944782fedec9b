"""Evaluate a checkpoint by a transfer config.

Run: python tools/test.py CONFIG CHECKPOINT
"""
import argparse

from _options import add_options, parse
from mmengine.registry import init_default_scope

from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.engine import PretrainedCheckHook
from cyborgs_plugin.engine.config_checks import (
    check_keys,
    check_load_from,
    check_numbers,
)
from cyborgs_plugin.engine.config_options import (
    complete_loaders,
    merge_options,
)
from cyborgs_plugin.engine.launch import (
    prepare_launch,
    runner_beside_training,
)
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.safe_load import loading_safely
from cyborgs_plugin.transfer.annotation_check import check_file_kinds
from cyborgs_plugin.version import require_mmcv_ops


@reported()
def main() -> None:
    """Evaluate."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read the checkpoint even if reading it runs its code; without '
        'it such a file is refused')
    add_options(parser)
    args = parse(parser)
    with loading_safely(args.trust_checkpoint):
        test(args)


def test(args: argparse.Namespace) -> None:
    """Build what the config says and evaluate it."""
    cfg = load_config(args.config)
    check_keys(cfg)
    if cfg.get('test_dataloader') is None:
        raise UserError(
            f'{args.config} has no test_dataloader: pretraining configs have '
            'nothing to evaluate; take one of cyborgs_plugin::transfer/')
    merge_options(cfg, args.cfg_options, args.launcher, args.work_dir)
    complete_loaders(cfg)
    cfg.load_from, cfg.resume = args.checkpoint, False
    check_load_from(cfg)
    check_numbers(cfg)
    check_file_kinds(cfg)
    if cfg.get('default_scope') != 'mmpretrain':
        require_mmcv_ops()
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    prepare_launch(cfg)
    runner = runner_beside_training(cfg)
    runner.register_hook(PretrainedCheckHook(args.trust_checkpoint))
    runner.test()


if __name__ == '__main__':
    main()
