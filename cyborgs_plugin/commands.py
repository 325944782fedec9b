"""Commands that messages give: they run as they are copied."""
import os.path as osp
import shlex

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
