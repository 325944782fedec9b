"""Examine environment, photographs and config, and say how to fix them.

Run: cyborgs doctor [CONFIG] [--data PHOTOS] [--json]

The exit code is 1 if anything is found by which a run would fail, else 0.
"""
import argparse
import os.path as osp
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout

import torch
from _options import add_settings
from mmengine.config import Config

from cyborgs_plugin.advice.environment import examine_environment, guarded
from cyborgs_plugin.advice.photographs import draw_views, examine_photographs
from cyborgs_plugin.advice.settings import examine_config
from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.datasets.scene_dataset import SceneDataset
from cyborgs_plugin.engine.config_options import (
    complete_loaders,
    merge_options,
)
from cyborgs_plugin.findings import Finding, as_json, as_text, exit_code

_RECIPE = 'cyborgs_plugin::cyborgs_small_data.py'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog='cyborgs doctor',
        description='Examine environment, photographs and config, and say '
        'how to fix them. The exit code is 1 if a run would fail')
    parser.add_argument(
        'config', nargs='?', help='config to examine, as train takes it')
    parser.add_argument(
        '--data', metavar='PHOTOS',
        help='folder of photographs to examine (default: those of CONFIG)')
    parser.add_argument(
        '--json', action='store_true', help='print JSON, for scripts')
    parser.add_argument(
        '--views', default='doctor_views.png', metavar='PNG',
        help='where views and masks are drawn, if photographs are examined '
        '(default: %(default)s); "" for none')
    parser.add_argument(
        '--gpus', type=at_least(1), default=max(1, torch.cuda.device_count()),
        help='how many the run would have (default: all, or 1)')
    parser.add_argument(
        '--work-dir', help='folder of the run that is meant')
    add_settings(parser)
    return parser.parse_args()


def examine(args: argparse.Namespace) -> Iterator[Finding]:
    """Everything that was asked for, one after the other."""
    cfg: Config | None = None

    def read() -> Iterator[Finding]:
        nonlocal cfg
        found = load_config(args.config or _RECIPE)
        merge_options(found, settings(args), work_dir=args.work_dir)
        complete_loaders(found)
        cfg = found
        yield from ()

    unread = list(guarded('config', read))
    place = args.work_dir or (
        cfg.work_dir if cfg and args.config else 'work_dirs')
    yield from examine_environment(place)
    folder = args.data or photographs_of(cfg if args.config else None)
    if folder:
        found = list(guarded('data', lambda: examine_photographs(folder)))
        yield from found
        hooks = (cfg or {}).get('default_hooks') or {}
        if args.views and photographs_of(cfg) and (
                'mask_update' in hooks) and not exit_code(found):
            yield from guarded('data', lambda: draw_views(
                cfg, folder, args.views))
    yield from unread
    if cfg and args.config:
        yield from examine_config(cfg, args.gpus)


def settings(args: argparse.Namespace) -> dict:
    """The options of the command line, the photographs among them."""
    return {**({'data': args.data} if args.data else {}), **args.cfg_options}


def photographs_of(cfg: Config | None) -> str | None:
    """The one folder that a config pretrains on; None of others."""
    dataset = ((cfg or {}).get('train_dataloader') or {}).get('dataset') or {}
    if dataset.get('type') != SceneDataset.__name__:
        return None
    prefix = (dataset.get('data_prefix') or {}).get('img_path')
    if not isinstance(prefix, str):
        return None
    return osp.join(dataset.get('data_root') or '', prefix)


def main() -> None:
    """Examine, and print the findings."""
    args = parse_args()
    # what packages print as they are imported is no part of the JSON
    with redirect_stdout(sys.stderr):
        findings = list(guarded('environment', lambda: examine(args)))
    print((as_json if args.json else as_text)(findings))
    sys.exit(exit_code(findings))


if __name__ == '__main__':
    main()
