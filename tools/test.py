"""Evaluate a checkpoint by a transfer config.

Run: python tools/test.py CONFIG CHECKPOINT
"""
import argparse
import os
import sys

from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from train import (
    USER_ERRORS,
    _is_ours,
    check_keys,
    check_load_from,
    complete_loaders,
    merge_options,
)

from cyborgs_plugin.config_path import find_config
from cyborgs_plugin.engine import PretrainedCheckHook
from cyborgs_plugin.engine.launch import prepare_launch
from cyborgs_plugin.version import require_mmcv_ops


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--work-dir', help='folder of the log')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings, as of tools/train.py')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Evaluate."""
    args = parse_args()
    try:
        cfg = Config.fromfile(find_config(args.config))
        check_keys(cfg)
        if cfg.get('test_dataloader') is None:
            raise ValueError(
                f'{args.config} has no test_dataloader: pretraining configs '
                'have nothing to evaluate; take one of configs/transfer')
        merge_options(cfg, args)
        complete_loaders(cfg)
        cfg.load_from, cfg.resume = args.checkpoint, False
        check_load_from(cfg)
        if cfg.get('default_scope') != 'mmpretrain':
            require_mmcv_ops()
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        prepare_launch(cfg)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(PretrainedCheckHook())
        runner.test()
    except USER_ERRORS as error:
        if _is_ours(error):
            print_log(f'{type(error).__name__}: {error}', level=40)
            sys.exit(1)
        raise


if __name__ == '__main__':
    main()
