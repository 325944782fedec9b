"""Train from a config: pretraining, or fine-tuning of the transfer configs.

Run: python tools/train.py configs/cyborgs_coco.py
     bash tools/dist_train.sh configs/cyborgs_coco.py 8
"""
import argparse
import difflib
import inspect
import os
import os.path as osp
import sys
from typing import Any, List

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from cyborgs_plugin.engine.launch import prepare_launch
from cyborgs_plugin.engine.transfer_check import (
    PretrainedCheckHook,
    check_annotations,
)
from cyborgs_plugin.segmentation import MaskRoundError
from cyborgs_plugin.version import require_mmcv_ops

# Mistakes of a user, which these name with a way out.
USER_ERRORS = (FileNotFoundError, ImportError, MaskRoundError, PermissionError,
               ValueError)
RUNNER_KEYS = {
    *inspect.signature(Runner.__init__).parameters,
    # what the Runner and this script read from the config by themselves
    'auto_scale_lr',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn'
}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train from a config')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint, or without a path from the latest '
        'one in the work dir')
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
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='override settings: key.sub_key=value; lists as key="[a,b]". '
        'data_root=PATH moves every data set')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Put the command line into the config."""
    check_options(cfg, args.cfg_options)
    old_root = cfg.get('data_root')
    cfg.merge_from_dict(args.cfg_options)
    if cfg.get('custom_imports'):  # an option may have named more
        import_modules_from_strings(**cfg.custom_imports)
    if 'data_root' in args.cfg_options:
        move_data(cfg, old_root, args.cfg_options['data_root'])
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        stem = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('work_dirs', stem)
    if args.amp:
        if get_device() == 'cpu':
            if cfg.get('default_scope') == 'mmdet':
                raise ValueError(
                    f'--amp with {args.config} needs a GPU: on a CPU it means '
                    'bfloat16, which the ops of mmcv (NMS, RoIAlign) do not '
                    'take there. Leave --amp out')
            cfg.optim_wrapper.type = 'mmpretrain.BFloat16OptimWrapper'
            for key in ('loss_scale', 'dtype'):  # AmpOptimWrapper's
                cfg.optim_wrapper.pop(key, None)
        else:
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError('--auto-scale-lr needs '
                             'auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if not loader:
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            loader.setdefault('collate_fn', dict(type='default_collate'))
        loader.setdefault('pin_memory', True)
        loader.setdefault('persistent_workers', True)
        if args.no_pin_memory:
            loader.pin_memory = False
        if args.no_persistent_workers or loader.get('num_workers', 0) == 0:
            loader.persistent_workers = False


def check_keys(cfg: Config) -> None:
    """Refuse a misspelt setting of the Runner, which nothing would read.

    Other names are a config's own variables. Below the top level the
    components' constructors refuse what they do not know.

    Raises:
        ValueError: Names the setting that was meant.
    """
    for key in cfg:
        near = difflib.get_close_matches(
            key, RUNNER_KEYS, n=1, cutoff=0.9)
        if key not in RUNNER_KEYS and near:
            raise ValueError(
                f'{cfg.filename}: nothing reads the key {key!r}; did you mean '
                f'{near[0]!r}? (A variable of your own needs a name that '
                'differs more.)')


def check_options(cfg: Config, options: dict) -> None:
    """Refuse options that nothing would read.

    An option is known if the config has it, if it is an argument of a
    component (whose constructor checks it) or of the Runner.

    Raises:
        ValueError: Names the nearest key.
    """
    for option in options:
        node: Any = cfg._cfg_dict
        parts = option.split('.')
        for depth, part in enumerate(parts):
            if isinstance(node, (list, tuple)):
                if not part.isdigit() or int(part) >= len(node):
                    raise ValueError(_unknown(option, depth, parts,
                                              range(len(node))))
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, dict) and ('type' not in node and not (
                    depth == 0 and part in RUNNER_KEYS)):
                raise ValueError(_unknown(option, depth, parts, node))
            else:
                break


def _unknown(option: str, depth: int, parts: List[str], known: Any) -> str:
    names = [str(name) for name in known]
    near = difflib.get_close_matches(parts[depth], names, n=3, cutoff=0.5)
    place = '.'.join(parts[:depth]) or 'the config'
    return (f'--cfg-options {option}: {place} has no {parts[depth]!r}'
            + (f'; did you mean {", ".join(near)}?' if near else
               f'; it has {", ".join(sorted(names)[:20])}'))


def move_data(cfg: Config, old: Any, new: str) -> None:
    """Give a new data root to all that was made from the old one.

    A config file has built its nested settings before an override of its
    top-level ``data_root`` comes.

    Raises:
        ValueError: If nothing was made from it.
    """
    moved: List[str] = []

    def visit(node: Any, path: str) -> None:
        items = enumerate(node) if isinstance(node, list) else list(
            node.items())
        for key, value in items:
            here = f'{path}.{key}' if path else str(key)
            if isinstance(value, (dict, list)):
                visit(value, here)
            elif isinstance(value, str) and path and value.startswith(old):
                node[key] = osp.join(new, value[len(old):])
                moved.append(here)

    if old:
        visit(cfg._cfg_dict, '')
    if not moved:
        raise ValueError(f'--cfg-options data_root={new}: nothing in the '
                         f'config was made from data_root={old!r}; set the '
                         'data sets themselves')
    print_log(f'data_root {new} is used by {", ".join(moved)}')


def main() -> None:
    """Train, and say what came of it."""
    args = parse_args()
    try:
        cfg = Config.fromfile(args.config)
        check_keys(cfg)
        merge_args(cfg, args)
        if cfg.get('default_scope') != 'mmpretrain':
            require_mmcv_ops()
        if cfg.get('default_scope') == 'mmdet':
            check_annotations(cfg)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        prepare_launch(cfg)
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = Runner.from_cfg(cfg)
        runner.register_hook(PretrainedCheckHook())
        runner.train()
    except USER_ERRORS as error:
        if _is_ours(error):
            print_log(f'{type(error).__name__}: {error}', level=40)
            sys.exit(1)
        raise
    if runner.rank == 0:
        report(runner)


def _is_ours(error: BaseException) -> bool:
    """Whether our code raised an error on purpose, with its own message."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if isinstance(error, MaskRoundError) or last is None:
        return True
    raiser = osp.abspath(last.tb_frame.f_code.co_filename)
    import cyborgs_plugin
    package = osp.dirname(osp.abspath(cyborgs_plugin.__file__))
    return raiser.startswith(package) or raiser == osp.abspath(__file__) or (
        raiser.endswith(osp.join('mmengine', 'utils', 'path.py')))


def report(runner: Runner) -> None:
    """Say what was written and what to do next."""
    last = osp.join(runner.work_dir, 'last_checkpoint')
    checkpoint = 'none'
    if osp.isfile(last):
        with open(last, encoding='utf-8') as file:
            checkpoint = file.read().strip()
    lines = [
        f'Done. Checkpoint: {checkpoint}',
        f'Log: {osp.join(runner.log_dir, runner.timestamp + ".log")}'
    ]
    masks = osp.join(runner.work_dir, 'masks')
    if osp.isdir(masks):
        lines += [
            f'Mask rounds: {masks}',
            'Next: python tools/model_converters/publish_backbone.py '
            f'{checkpoint}'
        ]
    print_log('\n'.join(lines))


if __name__ == '__main__':
    main()
