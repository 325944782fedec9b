"""Commands that messages give, and numbers that commands take."""
import argparse
import os.path as osp
import shlex
from collections.abc import Callable

_CHECKOUT = osp.dirname(osp.dirname(osp.abspath(__file__)))


def command(tool: str, *arguments: str) -> str:
    """The command that runs a tool from the current folder.

    Args:
        tool (str): Its path in ``tools/``, without ``.py``.
        *arguments (str): Its arguments; quoted where the shell needs it.

    Returns:
        str: With the path of the tool inside a checkout, else with
        ``python -m cyborgs_plugin``, which runs anywhere.
    """
    path = osp.join('tools', f'{tool}.py')
    # '.' exists even where the current folder was removed
    if osp.isfile(osp.join(_CHECKOUT, path)) and osp.samefile('.', _CHECKOUT):
        words = ['python', path]
    else:
        words = ['python', '-m', 'cyborgs_plugin', osp.basename(tool)]
    return shlex.join([*words, *arguments])


def at_least(least: int) -> Callable[[str], int]:
    """The ``type`` of an argument that is a whole number.

    Args:
        least (int): The smallest one that makes sense.

    Returns:
        Callable: What argparse reads it by.
    """

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f'{text!r} is no whole number from {least} on')
        return value

    return number
