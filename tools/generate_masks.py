"""Make a mask round outside of training, alone or under torchrun.

Run: python tools/generate_masks.py CONFIG
     python tools/generate_masks.py CONFIG CHECKPOINT
     python tools/generate_masks.py CONFIG CHECKPOINT --again

The first makes the masks that training would begin with, the second those
that it would make next from the checkpoint; both go to
``{work_dir}/offline_masks`` and can be trained with by
``train_dataloader.dataset.mask_bank``. The third makes the round again
that the checkpoint continues with, where a resumed run looks for it.
"""
import argparse
import os.path as osp
import sys
import time
from typing import Any

from _options import add_options, parse
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model

from cyborgs_plugin.commands import command
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.engine import MaskUpdateHook
from cyborgs_plugin.engine.config_checks import (
    check_banks,
    check_data_root,
    check_load_from,
)
from cyborgs_plugin.engine.config_options import (
    complete_loaders,
    merge_options,
)
from cyborgs_plugin.engine.launch import (
    prepare_launch,
    runner_beside_training,
)
from cyborgs_plugin.engine.mask_update_hook import (
    HASH_KEY,
    ORIGIN_KEY,
    ROUND_KEY,
)
from cyborgs_plugin.errors import UserError, reported
from cyborgs_plugin.safe_load import load_weights, loading_safely
from cyborgs_plugin.segmentation.round_report import describe_round
from cyborgs_plugin.transfer.pretrained_check import (
    adapt_files,
    check_files,
    check_resumable,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Make a mask round outside of training')
    parser.add_argument('config', help='path of the training config')
    parser.add_argument(
        'checkpoint', nargs='?', help='checkpoint of a pretraining run')
    parser.add_argument(
        '--again',
        action='store_true',
        help='make the round again that the checkpoint continues with')
    parser.add_argument(
        '--out-dir',
        help='folder of the rounds (default: {work_dir}/offline_masks; with '
        '--again that of the training run)')
    add_options(parser)
    args = parse(parser)
    if args.again and args.checkpoint is None:
        parser.error('--again needs a CHECKPOINT')
    return args


def build_runner(args: argparse.Namespace,
                 checkpoint: dict[str, Any]) -> Runner:
    """A runner with model and data as training has them at its start."""
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options, args.launcher, args.work_dir)
    check_data_root(cfg)
    check_load_from(cfg)
    check_banks(cfg)
    complete_loaders(cfg, pin_memory=False, persistent_workers=False)
    cfg.resume = False
    seed = checkpoint.get('meta', {}).get('seed')
    if seed is not None:  # where the config has none, each run draws one
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    prepare_launch(cfg)
    runner = runner_beside_training(cfg)
    # In the order of Runner.train, so that the weights are those of training.
    runner.train_loop  # noqa: B018
    model = get_ori_model(runner.model)
    adapt_files(model, runner.work_dir)
    check_files(model)
    runner._init_model_weights()
    if args.checkpoint is None:
        runner.load_or_resume()
    return runner


def make_masks(runner: Runner, hook: MaskUpdateHook, checkpoint: dict[str,
                                                                     Any],
               args: argparse.Namespace) -> MaskBank:
    """Make the round that the arguments ask for."""
    if args.again:
        if ORIGIN_KEY not in checkpoint:
            raise UserError(
                f'{args.checkpoint} does not hold what a mask round can be '
                'made from again: expected a checkpoint of a run with '
                'MaskUpdateHook and without a fixed mask_bank')
        return hook.make_again(runner, checkpoint, args.checkpoint)
    if args.checkpoint is None:
        return hook.make(runner, 0, hook.initial_cfg, 0, 0)
    state = {
        name[len('backbone.'):]: tensor
        for name, tensor in checkpoint.get('state_dict', {}).items()
        if name.startswith('backbone.')
    }
    try:
        get_ori_model(runner.model).backbone.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f'{args.checkpoint} does not fit the model of {args.config}; '
            f'expected a checkpoint of its training: {error}') from error
    hook.after_load_checkpoint(runner, checkpoint)  # the format of its rounds
    meta = checkpoint.get('meta', {})
    hub = checkpoint.get('message_hub', {}).get('runtime_info', {})
    return hook.make(runner,
                     hub.get(ROUND_KEY, -1) + 1, hook.source_cfg,
                     meta.get('epoch', 0), meta.get('iter', 0))


@reported()
def main() -> None:
    """Make a round, and say what came of it."""
    args = parse_args()
    checkpoint = {} if args.checkpoint is None else load_weights(
        args.checkpoint, log=True)
    if args.again and ORIGIN_KEY in checkpoint:
        check_resumable(checkpoint, args.checkpoint)
    with loading_safely():
        runner = build_runner(args, checkpoint)
    hooks = [
        hook for hook in runner.hooks if isinstance(hook, MaskUpdateHook)
    ]
    if not hooks:
        raise UserError(f'{args.config} has no MaskUpdateHook: expected '
                        'a config that pretrains, as '
                        'cyborgs_plugin::cyborgs_coco.py')
    hook = hooks[0]
    hook.find_data(runner)
    if args.out_dir or not args.again:
        hook.root = args.out_dir or osp.join(runner.work_dir,
                                             'offline_masks')
    if not hook.scenes:
        raise UserError(f'{args.config}: the data have fixed masks '
                        '(train_dataloader.dataset.mask_bank)')
    start = time.perf_counter()
    bank = make_masks(runner, hook, checkpoint, args)
    if runner.rank == 0:
        report(bank, time.perf_counter() - start, checkpoint, args)


def report(bank: MaskBank, seconds: float, checkpoint: dict[str, Any],
           args: argparse.Namespace) -> None:
    """Say what was made and how to use it."""
    print_log(describe_round(bank, seconds, None))
    print_log(f'Wrote {bank.path}, hash {bank.hash}')
    if not args.again:
        print_log('Train with it: ' + command(
            'train', 'CONFIG', '--cfg-options',
            f'train_dataloader.dataset.mask_bank={bank.path}'))
        return
    expected = checkpoint['message_hub']['runtime_info'].get(HASH_KEY)
    if bank.hash == expected:
        print_log('It equals the round of the checkpoint: --resume continues '
                  'with it')
        return
    print_log(
        'It differs from the round of the checkpoint, whose hash is '
        f'{expected}: other images, hardware or versions of libraries give '
        'other masks. To continue with these: ' + command(
            'train', 'CONFIG', '--resume', '--cfg-options',
            'default_hooks.mask_update.exact_resume=False'),
        level=30)
    sys.exit(1)


if __name__ == '__main__':
    main()
