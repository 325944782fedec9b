"""Pretrain on a folder of photographs, with settings chosen for it.

Run: cyborgs pretrain PHOTOS --out RUN

Looks at the photographs and the machine, times a few steps, prints a plan,
writes it to RUN/config.py, and trains.
"""
import argparse
import os
import os.path as osp
import shlex
import sys

import numpy as np
import torch
import train
from mmengine.config import Config

from cyborgs_plugin.advice.machine import (
    Machine,
    existing,
    free_disk,
    look_at_machine,
    size,
)
from cyborgs_plugin.advice.networks import (
    Network,
    network_of,
    weights_at_hand,
)
from cyborgs_plugin.advice.plan import Plan, describe, make_plan, read_budget
from cyborgs_plugin.advice.run_config import (
    NAME,
    config_text,
    refuse_changed,
    write_config,
)
from cyborgs_plugin.advice.trial import TOO_LARGE, Trial, measure
from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.commands import command
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.photo_survey import Survey, survey
from cyborgs_plugin.engine.work_dir_hook import latest_checkpoint, writing_to
from cyborgs_plugin.errors import MissingFileError, UserError, reported
from cyborgs_plugin.timm_cache import PREFIX, find_cached

_LOOKED_AT = 500
"""Photographs that are decoded before the run: it reports the others."""
_TRIED = 16
"""Photographs that steps and masks are timed with: a group of a round."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='cyborgs pretrain',
        description='Pretrain on a folder of photographs, with settings '
        'chosen for it')
    parser.add_argument(
        'photographs', metavar='PHOTOS',
        help='folder of the photographs, searched with its subfolders')
    parser.add_argument(
        '--out', required=True, metavar='RUN',
        help='folder of the run: config, log, masks, checkpoints')
    parser.add_argument(
        '--backbone', metavar='NAME',
        help='resnet18, resnet50, a recipe of configs/backbones such as '
        'convnext_tiny, any network of timm as timm:NAME, or one of your own '
        'as package.module:function (default: that of --start; else resnet50 '
        'on a GPU, resnet18 without)')
    parser.add_argument(
        '--outputs', nargs='+', metavar='LAYER',
        help='for a network of your own: the submodules whose outputs are '
        'feature maps, from fine to coarse')
    for option, what in (('--mean', 'mean'), ('--std', 'standard deviation')):
        parser.add_argument(
            option, nargs=3, type=float, metavar=tuple('RGB'),
            help=f'for a network of your own: the {what} with which it '
            "expects images to be normalised, 0 to 255 (default: ImageNet's)")
    parser.add_argument(
        '--start', metavar='FILE',
        help='weights to start from, of any common source, or as timm:NAME '
        'those that timm has on this machine; far better than none')
    parser.add_argument(
        '--gpus', type=at_least(1), default=1, metavar='N',
        help='how many to train on (default: 1); without GPUs so many '
        'processes on the CPU')
    parser.add_argument(
        '--budget', metavar='TIME',
        help='the longest that it may take, such as 30m or 2h (default: as '
        'long as the table of docs/small_data.md takes)')
    parser.add_argument(
        '--dry-run', action='store_true',
        help='print the plan and write the config, but do not train')
    parser.add_argument(
        '--resume', action='store_true',
        help='resume the run that --out holds, by its own plan')
    return parser.parse_args()


@reported()
def main() -> None:
    """Plan and train, or resume."""
    args = parse_args()
    budget = None if args.budget is None else read_budget(args.budget)
    if not args.out:
        raise UserError('--out is empty: name the folder of the run')
    out = osp.abspath(osp.expanduser(args.out))
    folder = osp.abspath(osp.expanduser(args.photographs))
    path = osp.join(out, NAME)
    again = command('pretrain', args.photographs, '--out', args.out,
                    *(['--gpus', str(args.gpus)] if args.gpus > 1 else []),
                    '--resume')
    if args.resume:
        check_resume(args, path, folder)
    else:
        check_new(out, args.out, again)
        refuse_changed(path)
        plan = make(args, folder, out, budget)
        with writing_to(out):
            os.makedirs(out, exist_ok=True)
            write_config(plan, path)
        print(f'Config: {path}')
        if args.dry_run:
            print('Nothing was trained (--dry-run). Train by it, changed or '
                  'not:\n  ' + (
                      command('train', path, '--work-dir', out)
                      if args.gpus == 1 else shlex.join(
                          ['python', *several(path, out, args.gpus)])))
            return
    print(f'Training. Interrupt it as you like; resume by\n  {again}\n'
          'Look at the masks, meanwhile or later, by\n  '
          + command('browse_masks', args.out), flush=True)
    run(path, out, args.gpus, args.resume)


def make(args: argparse.Namespace, folder: str, out: str,
         budget: float | None) -> Plan:
    """Look, measure, plan, and say all of it."""
    machine = look_at_machine()
    if machine.gpus and args.gpus > len(machine.gpus):
        raise UserError(f'--gpus {args.gpus}: this machine has '
                        f'{len(machine.gpus)}')
    start, backbone = args.start, args.backbone
    if start and start.startswith(PREFIX):
        start, backbone = find_cached(start), backbone or start
    elif start:
        start = osp.abspath(osp.expanduser(start))
    else:
        backbone = backbone or ('resnet50' if machine.gpus else 'resnet18')
    colours = {key: value for key in ('mean', 'std')
               if (value := getattr(args, key))}
    if (args.outputs or colours) and not backbone:
        raise UserError('--outputs, --mean and --std go with --backbone')
    wanted = backbone and Network(backbone, args.outputs, colours)
    network, how = network_of(start, wanted) if start else (wanted, '')
    print('Looking at the photographs ...', flush=True)
    seen = survey(folder, _LOOKED_AT)
    print(describe_photographs(seen))
    print(f'Machine: {machine.describe()}')
    if start:
        print(f'Start: {start}, a {network.name}, {how}')
    for line in advice(machine, network, bool(start), args.gpus):
        print(line)
    print('Timing a few steps and a part of a mask round ...', flush=True)
    plan = make_plan(seen, machine, network, start, args.gpus, budget,
                     lambda plan: measured(plan, out))
    free = free_disk(out)
    print(describe(plan, free))
    if sum(plan.disk) > free:
        raise UserError(
            f'The run writes about {size(sum(plan.disk))}, but '
            f'{existing(out)} has {size(free)} free: make room, or take '
            'another --out')
    return plan


def describe_photographs(seen: Survey) -> str:
    """What was seen of the photographs, in a few lines."""
    part = ('all were read' if seen.looked == len(seen.names) else
            f'{seen.looked} of them were read')
    lines = [f'Photographs: {len(seen.names):,}, {part}: '
             f'{seen.describe_sizes()} pixels; '
             f'{len(seen.broken) or "none"} unreadable']
    lines += [f'  unreadable, skipped: {reason}'
              for reason in seen.broken[:3]]
    if len(seen.broken) > 3:
        lines.append('  ... all of them: '
                     + command('doctor', '--data', seen.folder))
    if seen.left_out:
        lines.append(f'  not used: {seen.left_out}')
    return '\n'.join(lines)


def advice(machine: Machine, network: Network, start: bool,
           processes: int) -> list[str]:
    """What would make the run better, before anything is measured."""
    lines = []
    threads = torch.get_num_threads() * processes
    if machine.is_busy:
        lines.append(
            '  Other programs keep it busy: the times below are those of now')
    if not machine.gpus and threads > 1 and threads + machine.load > (
            1.5 * machine.cores):
        lines.append(
            f'  {threads} threads on {machine.cores} busy cores wait for one '
            'another, which can be many times slower: put OMP_NUM_THREADS='
            f'{max(1, machine.idle // processes)} before the command')
    found = None if start else weights_at_hand(network)
    if found:
        lines.append(f'Weights of ImageNet are at hand: --start {found} '
                     'starts from them, which is far better than from none')
    return lines


def measured(plan: Plan, out: str) -> Trial:
    """Measure what a plan costs here."""
    cfg = Config.fromstring(config_text(plan), '.py')
    cfg.work_dir = out
    count = plan.photographs
    chosen = np.random.default_rng(0).choice(
        count, min(_TRIED, count), replace=False)
    try:
        return measure(cfg, sorted(chosen.tolist()), plan.each)
    except torch.cuda.OutOfMemoryError:
        return TOO_LARGE
    finally:
        torch.cuda.empty_cache()  # the run looks at what is free


def check_new(out: str, shown: str, again: str) -> None:
    """Refuse a folder in which there is a run already.

    Args:
        out (str): The folder.
        shown (str): The folder as the user wrote it.
        again (str): The command that resumes the run.

    Raises:
        UserError: Says how to resume it.
    """
    checkpoint = latest_checkpoint(out) if osp.isdir(out) else None
    if checkpoint is not None:
        raise UserError(
            f'{shown} holds a run already, with {osp.basename(checkpoint)}. '
            f'To resume it: {again} ; for a new run take another --out')


def check_resume(args: argparse.Namespace, path: str, folder: str) -> None:
    """Refuse to resume what is not there, or is of other photographs.

    Raises:
        UserError: Says what is there, or which option makes a new plan.
    """
    for option in ('backbone', 'outputs', 'mean', 'std', 'start', 'budget',
                   'dry_run'):
        if getattr(args, option):
            raise UserError(
                f'--{option.replace("_", "-")} is for a new plan, but '
                f'--resume uses that of {path}: leave out one of them')
    if not osp.isfile(path):
        raise MissingFileError(
            f'--resume: there is no {path}, which `cyborgs pretrain` writes: '
            'leave --resume out to begin')
    prefix = load_config(path).train_dataloader.dataset.data_prefix
    if prefix.get('img_path') != folder:
        raise UserError(
            f'--resume: the run of {path} is of the photographs in '
            f'{prefix.get("img_path")}, not in {folder}. Where they were '
            'moved, change data_prefix in that file')


def run(path: str, out: str, processes: int, resume: bool) -> None:
    """Train by a config in this process, or in several new ones."""
    more = ['--resume'] * resume
    if processes == 1:
        sys.argv = [train.__file__, path, '--work-dir', out, *more]
        train.main()
        return
    sys.stdout.flush()
    # torchrun takes over: signals and the exit code are its own
    os.execv(sys.executable, [
        sys.executable, *several(path, out, processes), *more])


def several(path: str, out: str, processes: int) -> list[str]:
    """What Python trains by a config in several processes by."""
    return ['-m', 'torch.distributed.run', '--standalone',
            f'--nproc_per_node={processes}', train.__file__, path,
            '--work-dir', out, '--launcher', 'pytorch']


if __name__ == '__main__':
    main()
