"""Which images of a folder or bank match the names in a json."""
import posixpath
from collections.abc import Iterable

from ..datasets.image_files import match_names
from ..errors import UserError


def find_annotated(names: Iterable[str], files: Iterable[str], folder: str,
                   source: str) -> dict[str, str]:
    """Match names as in training, but not into other subfolders.

    ``0.png`` in the json of one split does not match ``other_split/0.png``.

    Args:
        names (Iterable[str]): The names in the json, each once.
        files (Iterable[str]): Existing files, relative to the folder.
        folder (str): The folder, for names with an absolute path.
        source (str): The json, for messages.

    Returns:
        dict[str, str]: Existing files by name, in the order of the names,
        without names that have no file.

    Raises:
        UserError: If a name fits several files, or several names one file.
    """
    depths = {name: _depth(name) for name in names}
    deepest = max(depths.values(), default=0)
    near = [file for file in files if file.count('/') <= deepest]
    found: dict[str, str] = {}
    users: dict[str, str] = {}
    for name, file in match_names(list(depths), near, folder, source).items():
        if file != name and file.count('/') > depths[name]:
            continue
        if users.setdefault(file, name) != name:
            raise UserError(
                f'{source} names {users[file]!r} and {name!r}, and both mean '
                f'the file {file!r}: give it one name, and it has the '
                'annotations of both')
        found[name] = file
    return found


def _depth(name: str) -> int:
    """Number of folders in a name."""
    return posixpath.normpath(name.replace('\\', '/')).count('/')
