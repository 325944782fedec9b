"""Options that the tools which read a config share."""
import argparse
import os
import re
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

_PATHS = re.compile(
    r'(^|[._])(data|root|path|prefix|file|dir|checkpoint|pretrained|load_from|'
    r'mask_bank)$')


class _Settings(DictAction):
    """mmengine's ``key=value``, whose paths are taken as they are.

    It takes ``2017`` for a number and ``Holiday, 2024`` for a list, and drops
    spaces.
    """

    def __call__(self,
                 parser: argparse.ArgumentParser,
                 namespace: argparse.Namespace,
                 values: Any,
                 option_string: str | None = None) -> None:
        options = dict(getattr(namespace, self.dest))
        for word in values:
            key, equals, text = word.partition('=')
            if not equals:
                parser.error(f'{option_string}: {word!r} is no key=value; '
                             'quote a value with spaces: "key=a b"')
            bracketed = text[:1] in ('[', '(') and not os.path.exists(text)
            if not _PATHS.search(key) or text == 'None' or bracketed:
                text = self._parse_iterable(text)
            elif text[:1] in ('"', "'") and text[-1] == text[0]:
                text = text[1:-1]
            options[key] = text
        setattr(namespace, self.dest, options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--cfg-options``, ``--launcher``."""
    parser.add_argument(
        '--work-dir', help='folder of logs, masks and checkpoints')
    add_settings(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes')
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0,
        help=argparse.SUPPRESS)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options`` alone."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Settings,
        default={},
        help='override settings: key.sub_key=value; lists as key="[a,b]". '
        'data_root=PATH moves every data set')


def parse(parser: argparse.ArgumentParser,
          words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and tell the rank to who asks for it."""
    args = parser.parse_args(words)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
