"""Commands in messages, ready to be copied and run."""
import os.path as osp
import shlex

_CHECKOUT = osp.dirname(osp.dirname(osp.abspath(__file__)))


def command(tool: str, *arguments: str) -> str:
    """The command that runs a tool from the current folder.

    Args:
        tool (str): Path of the tool in ``tools/``, without ``.py``.
        *arguments (str): Its arguments; they are quoted if the shell needs it.

    Returns:
        str: The command, with the path of the tool in a checkout, otherwise
        with ``python -m cyborgs_plugin``, which runs anywhere.
    """
    path = osp.join('tools', f'{tool}.py')
    # '.' exists even if the current folder was removed
    if osp.isfile(osp.join(_CHECKOUT, path)) and osp.samefile('.', _CHECKOUT):
        words = ['python', path]
    else:
        words = ['python', '-m', 'cyborgs_plugin', osp.basename(tool)]
    return shlex.join([*words, *arguments])
