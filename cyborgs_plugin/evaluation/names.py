"""Which images of a folder or of a bank the names in a json mean."""
import posixpath
from collections.abc import Iterable

from ..datasets.image_files import match_names
from ..errors import UserError


def find_annotated(names: Iterable[str], files: Iterable[str], folder: str,
                   source: str) -> dict[str, str]:
    """Match names as training does, but into no subfolder unasked.

    A json of one split that names ``0.png`` does not mean
    ``other_split/0.png``.

    Args:
        names (Iterable[str]): The names in the json, each once.
        files (Iterable[str]): What there is, relative to the folder.
        folder (str): The folder, for names with an absolute path.
        source (str): The json, for messages.

    Returns:
        dict[str, str]: What there is, by name, in the order of the names;
        without those that are not there.

    Raises:
        UserError: If a name may mean several, or several names one.
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
    """Folders that a name has in front."""
    return posixpath.normpath(name.replace('\\', '/')).count('/')
