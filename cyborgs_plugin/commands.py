"""Commands in messages, ready to be copied and run."""
import os.path as osp
import shlex

DOOR: list[str] = []
"""What runs the tools by their names, where this program came by it."""
SHORT = {
    'pretrain': 'pretrain',
    'doctor': 'doctor',
    'index-photos': 'index_photos',
    'masks': 'browse_masks',
    'report': 'report',
    'publish': 'publish_backbone',
    'check': 'check_backbone',
    'compare': 'compare',
    'export-masks': 'export_masks'
}
"""What one types behind `cyborgs`, in the order in which one does, and the
tool that it is."""
_CHECKOUT = osp.dirname(osp.dirname(osp.abspath(__file__)))


def command(tool: str, *arguments: str) -> str:
    """The command that runs a tool from the current folder.

    Args:
        tool (str): Path of the tool in ``tools/``, without ``.py``.
        *arguments (str): Its arguments; they are quoted if the shell needs it.

    Returns:
        str: ``cyborgs NAME`` if this program is ``cyborgs`` itself. Otherwise
        with the path of the tool in a checkout, or with
        ``python -m cyborgs_plugin``, which runs anywhere.
    """
    path = osp.join('tools', f'{tool}.py')
    if DOOR:
        name = osp.basename(tool)
        short = {tool: word for word, tool in SHORT.items()}
        return shlex.join([*DOOR, short.get(name, name), *arguments])
    # '.' exists even if the current folder was removed
    if osp.isfile(osp.join(_CHECKOUT, path)) and osp.samefile('.', _CHECKOUT):
        words = ['python', path]
    else:
        words = ['python', '-m', 'cyborgs_plugin', osp.basename(tool)]
    return shlex.join([*words, *arguments])
