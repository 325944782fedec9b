"""Train from a config: pretraining, or fine-tuning of the transfer configs.

Run: python tools/train.py configs/cyborgs_coco.py
     bash tools/dist_train.sh configs/cyborgs_coco.py 8
"""
import argparse
import errno
import logging
import os
import os.path as osp
import re
import shutil
import sys

import _interrupt  # noqa: F401  first of what takes long
from _options import add_options, parse
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner

from cyborgs_plugin.commands import command
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.engine import (
    FiniteHook,
    PreemptionHook,
    PretrainedCheckHook,
    ScheduleHook,
    WorkDirHook,
    WorkerExitHook,
)
from cyborgs_plugin.engine.batch_check import check_batches
from cyborgs_plugin.engine.brief_runner import BriefRunner
from cyborgs_plugin.engine.config_checks import (
    check_banks,
    check_data_root,
    check_keys,
    check_load_from,
    check_mask_interval,
    check_numbers,
    check_schedule,
)
from cyborgs_plugin.engine.config_options import (
    complete_loaders,
    merge_options,
    use_mixed_precision,
)
from cyborgs_plugin.engine.launch import prepare_launch
from cyborgs_plugin.engine.start_check import check_inits, check_start
from cyborgs_plugin.engine.work_dir_hook import latest_checkpoint, writing_to
from cyborgs_plugin.errors import INTERRUPTED, UserError, reported
from cyborgs_plugin.precision import warn_if_bfloat16_is_slow
from cyborgs_plugin.safe_load import loading_safely
from cyborgs_plugin.transfer.annotation_check import (
    check_annotations,
    check_config,
    check_file_kinds,
)
from cyborgs_plugin.transfer.segmentation_check import check_masks
from cyborgs_plugin.version import require_mmcv_ops


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train from a config')
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume this checkpoint or, without a path, the latest one '
        'in the work dir')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='automatic mixed precision; on a CPU bfloat16')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the global batch')
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='do not pin memory')
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='start new data workers for each epoch')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='read the checkpoint even if reading it runs its code; without '
        'it such a file is refused')
    add_options(parser)
    return parse(parser)


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Put the command line into the config."""
    merge_options(cfg, args.cfg_options, args.launcher, args.work_dir)
    if args.amp:
        use_mixed_precision(cfg)
    if args.resume == '':
        raise UserError('--resume is empty: give the path of a checkpoint, '
                        'or nothing to take the latest one')
    restarts = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))
    if args.resume is None and restarts:
        print_log(f'Restart {restarts} by torchrun: the run is resumed',
                  logger='current')
        args.resume = 'auto'
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        if not cfg.load_from and not latest_checkpoint(cfg.work_dir):
            print_log(
                f'--resume: {cfg.work_dir} holds no checkpoint, so the run '
                'starts over',
                logger='current',
                level=logging.WARNING)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError('--auto-scale-lr needs '
                            'auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    complete_loaders(cfg, not args.no_pin_memory,
                     not args.no_persistent_workers)


def check(cfg: Config) -> None:
    """Refuse what would train for nothing; warn of what may."""
    check_data_root(cfg)
    check_load_from(cfg)
    check_banks(cfg)
    check_numbers(cfg)
    check_inits(cfg)
    check_file_kinds(cfg)
    if cfg.get('default_scope') != 'mmpretrain':
        require_mmcv_ops()
    if cfg.get('default_scope') in ('mmdet', 'mmseg'):
        check_config(cfg)
    if cfg.get('default_scope') == 'mmdet':
        check_annotations(cfg)
    check_masks(cfg)
    if 'bfloat16' in str((cfg.get('optim_wrapper') or {}).get('dtype')):
        warn_if_bfloat16_is_slow("Take optim_wrapper.dtype='float16'",
                                 get_device())
    for line in [*check_schedule(cfg), *check_mask_interval(cfg),
                 *check_start(cfg)]:
        print_log(line, logger='current', level=logging.WARNING)


@reported()
def main() -> None:
    """Read the command line and train."""
    args = parse_args()
    with loading_safely(args.trust_checkpoint):
        train(args)


def train(args: argparse.Namespace) -> None:
    """Train, and say what came of it."""
    cfg = load_config(args.config)
    check_keys(cfg)
    merge_args(cfg, args)
    check(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    prepare_launch(cfg)
    keep_config(cfg)
    folder = WorkDirHook()
    with writing_to(cfg.work_dir):
        if cfg.launcher == 'none':
            # Before the config is written into it; other launchers' ranks
            # are known only later.
            folder.lock(cfg.work_dir)
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = BriefRunner.from_cfg(cfg)
    # Pretraining has most of these in its config.
    for hook in (folder, PretrainedCheckHook(), ScheduleHook(), FiniteHook(),
                 WorkerExitHook(), PreemptionHook()):
        if not any(isinstance(other, type(hook)) for other in runner.hooks):
            runner.register_hook(hook)
    for hook in runner.hooks:
        if isinstance(hook, PretrainedCheckHook):
            hook.trust_checkpoint |= args.trust_checkpoint
    check_batches(runner)
    if runner.rank == 0:
        print_log(f'Environment, config and hooks are in {log_file(runner)}',
                  logger='current')
    try:
        runner.train()
    except KeyboardInterrupt:
        sys.exit(interrupted(runner))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(disk_full(runner, error)) from error
        raise
    if runner.rank == 0:
        report(runner)


def interrupted(runner: Runner) -> int:
    """Say what Ctrl-C leaves; give the exit code."""
    checkpoint = latest_checkpoint(runner.work_dir)
    if runner.rank == 0:
        print_log(
            f'Interrupted at step {runner.iter}. '
            + (f'The same command with --resume continues from {checkpoint}'
               if checkpoint else 'No checkpoint was saved yet'))
    return INTERRUPTED


def keep_config(cfg: Config) -> None:
    """Leave a config alone that lies in its own work_dir.

    The toolbox writes all settings to ``{work_dir}/{file name}``, over what
    inherits, and its comments. They go to ``{name}_full.py`` then. A file
    without a base is as good as what replaces it.
    """
    path = osp.abspath(cfg.filename)
    if osp.dirname(path) != osp.abspath(cfg.work_dir):
        return
    with open(path, encoding='utf-8') as file:
        inherits = re.search(r'^_base_\s*=', file.read(), re.M)
    if inherits:
        stem, ending = osp.splitext(path)
        # Config's own __setattr__ would make a setting of it
        object.__setattr__(cfg, '_filename', f'{stem}_full{ending}')


def disk_full(runner: Runner, error: OSError) -> str:
    """Say where there is no room, and how to continue."""
    folders = [runner.work_dir] + [
        hook.out_dir for hook in runner.hooks
        if isinstance(hook, CheckpointHook) and osp.isdir(hook.out_dir or '')
    ]
    free = ', '.join(
        f'{folder} has {shutil.disk_usage(folder).free} bytes free'
        for folder in dict.fromkeys(folders))
    return (f'{error}: {free}. Make room (default_hooks.checkpoint.'
            'max_keep_ckpts keeps fewer checkpoints), then continue with '
            '--resume')


def log_file(runner: Runner) -> str:
    """Path of the run's log."""
    return osp.join(runner.log_dir, f'{runner.timestamp}.log')


def report(runner: Runner) -> None:
    """Say what was written and what to do next."""
    checkpoint = latest_checkpoint(runner.work_dir) or 'none'
    lines = [
        f'Done. Checkpoint: {checkpoint}',
        f'Log: {log_file(runner)}'
    ]
    masks = osp.join(runner.work_dir, 'masks')
    if osp.isdir(masks):
        lines += [
            f'Mask rounds: {masks}',
            'Look: ' + command('browse_masks', runner.work_dir) + '; '
            + command('report', runner.work_dir),
            'Next: '
            + command('model_converters/publish_backbone', checkpoint)
        ]
    print_log('\n'.join(lines))


if __name__ == '__main__':
    main()
