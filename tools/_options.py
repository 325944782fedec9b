"""Options that the tools which read a config share."""
import argparse
import os
from collections.abc import Sequence

from mmengine.config import DictAction


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--cfg-options``, ``--launcher``."""
    parser.add_argument(
        '--work-dir', help='folder of logs, masks and checkpoints')
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


def parse(parser: argparse.ArgumentParser,
          words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and tell the rank to who asks for it."""
    args = parser.parse_args(words)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
