"""Which files of a folder are images, and which of them a json names."""
import os
import os.path as osp
import posixpath
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import UserError
from .image_io import HEIF_EXTENSIONS, IMG_EXTENSIONS, READS_HEIF, is_image

_NAMED = 5
# Thumbnails and deleted files of file servers, of macOS and of Windows.
_OF_SYSTEMS = {
    '@eaDir', '#recycle', '__MACOSX', 'lost+found', '$RECYCLE.BIN',
    'System Volume Information'
}
# Other files next to photographs, recognised by name without opening them.
_OTHERS = ('.txt', '.json', '.xml', '.csv', '.tsv', '.npy', '.npz', '.md',
           '.yaml', '.yml', '.xmp', '.aae', '.mp4', '.mov', '.zip', '.pdf',
           '.py', '.log', '.ini', '.db')


class Found(NamedTuple):
    """Content of a folder; all names are relative to it, with '/'."""

    files: list[str]
    skipped: list[str]
    """Folders that were not searched: hidden, or of a system."""
    unreadable: list[str]
    """Folders that may not be searched."""
    special: list[str]
    """Dead links, pipes and devices."""
    runs: list[str]
    """Work dirs of trainings, and what was drawn in them."""


def find_files(folder: str, hidden: bool = False) -> Found:
    """Search a local folder with all its subfolders.

    Each folder is searched once, under its own name rather than that of a
    link, so a link to a parent causes no loop. The listings of mmengine and
    torchvision follow such a link until the system refuses.

    Args:
        folder (str): The folder.
        hidden (bool): Whether hidden files and folders, and those of the
            system or of a training run, count. Defaults to False.
    """
    found, seen = Found([], [], [], [], []), set()
    folders, links = deque([(folder, '')]), deque[tuple[str, str]]()
    while folders or links:
        path, prefix = (folders or links).popleft()
        if (real := osp.realpath(path)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(path) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError:
            found.unreadable.append(prefix)
            continue
        if prefix and not hidden and is_of_run(
                osp.basename(path), {entry.name for entry in entries}):
            found.runs.append(prefix)
            continue
        for entry in entries:
            name = prefix + entry.name
            odd = not hidden and is_of_system(entry.name)
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if is_folder and odd:
                found.skipped.append(name)
            elif is_folder:
                (links if entry.is_symlink() else folders).append(
                    (entry.path, name + '/'))
            elif is_file and not odd:
                found.files.append(name)
            elif not is_file:
                found.special.append(name)
    return found


def is_of_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or of a system."""
    return name.startswith('.') or name in _OF_SYSTEMS


def is_of_run(name: str, entries: set[str]) -> bool:
    """Whether a folder of this name and content belongs to a training run."""
    # The lock of tools/train.py, the pointer of mmengine's CheckpointHook, and
    # the folder of its visualizer with the config that it writes first.
    return not entries.isdisjoint(('.training.lock', 'last_checkpoint')) or (
        name == 'vis_data' and 'config.py' in entries)


def images_of(folder: str, files: Sequence[str],
              extensions: tuple[str, ...] | None, local: bool) -> list[str]:
    """Choose the images of a listing, sorted.

    Args:
        folder (str): The folder.
        files (Sequence[str]): Its files.
        extensions (tuple[str, ...], optional): Endings of images; None for
            :data:`IMG_EXTENSIONS` and any other file that is an image by its
            content.
        local (bool): Whether files can be opened at little cost.
    """
    if extensions is not None:
        return sorted(
            name for name in files if name.lower().endswith(extensions))
    return sorted(
        name for name in files
        if name.lower().endswith(IMG_EXTENSIONS)
        or (local and not name.lower().endswith(_OTHERS)
            and is_image(osp.join(folder, name))))


def list_images(folder: str) -> list[str]:
    """List the paths of a local folder's images, in the order of their names.

    Args:
        folder (str): The folder; its subfolders are searched as well.

    Raises:
        UserError: If it is not a folder, or holds no image.
    """
    if not osp.isdir(folder):
        raise UserError(f'{folder} is no folder of images')
    names = images_of(folder, find_files(folder).files, None, True)
    if not names:
        raise UserError(f'{folder} holds no images')
    return [osp.join(folder, name) for name in names]


def left_out(found: Found, images: Iterable[str]) -> str:
    """Describe the files of a folder that are not used; '' if all are.

    Args:
        found (Found): Its content.
        images (Iterable[str]): The files that are used.
    """
    endings = Counter(
        osp.splitext(name)[1].lower() or 'without an ending'
        for name in set(found.files).difference(images))
    most = sorted(endings, key=lambda ending: (-endings[ending], ending))
    parts = [f'{endings[ending]} {ending}' for ending in most[:8]]
    if rest := sum(endings[ending] for ending in most[8:]):
        parts.append(f'{rest} of other endings')
    lines = [', '.join(parts)] if parts else []
    if not READS_HEIF and any(map(endings.get, HEIF_EXTENSIONS)):
        lines.append('HEIC is read after pip install pillow-heif')
    kinds = {
        'folders that are hidden or of a system': found.skipped,
        'folders that may not be read': found.unreadable,
        'dead links, pipes and devices': found.special,
        'folders of trainings (work_dir)': found.runs,
    }
    lines += [
        f'{kind}: {len(names)}, such as {names[:_NAMED]}'
        for kind, names in kinds.items() if names
    ]
    return '; '.join(lines)


def match_names(names: Sequence[str], files: Sequence[str], folder: str,
                source: str) -> dict[str, str]:
    """Find the files that a json names.

    A name matches a file exactly, or after both are normalised (slashes for
    backslashes, composed Unicode, no ``./``, an absolute path into the folder
    made relative to it), or if they agree except for the ending and upper or
    lower case, where one of the two paths may begin further up. A file with
    another ending must be in the folder that the name gives, or in one where
    other names were found, because masks are often stored next to images, as
    ``masks/x.png``.

    Args:
        names (Sequence[str]): The names in the json, each once.
        files (Sequence[str]): The files, relative to the folder.
        folder (str): The folder.
        source (str): The json, for messages.

    Returns:
        dict[str, str]: File by name, in the order of the names, without names
        that have no file.

    Raises:
        UserError: If a name fits several files, or several names one file,
            none of them exactly.
    """
    there = set(files)
    found = {name: name for name in names if name in there}
    if len(found) == len(names):
        return found
    roots = {osp.abspath(folder), osp.realpath(folder)}
    normal: dict[str, list[str]] = defaultdict(list)
    for file in files:
        normal[_normal(file, ())].append(file)
    for name in names:
        candidates = normal.get(_normal(name, roots), [])
        if name not in found and candidates:
            found[name] = _only(name, candidates, source)
    free = there.difference(found.values())
    stems: dict[str, list[str]] = defaultdict(list)
    for file in free:
        stems[_stem(_normal(file, ()))[-1]].append(file)
    users: dict[str, list[str]] = defaultdict(list)

    def take(name: str, candidates: list[str]) -> None:
        if candidates:
            found[name] = _only(name, sorted(candidates), source)
            users[found[name]].append(name)

    others: dict[str, list[str]] = {}
    for name in names:
        if name in found:
            continue
        wanted = _normal(name, roots)
        parts = _stem(wanted)
        others[name] = [
            file for file in stems.get(parts[-1], ())
            if _ends_alike(parts, _stem(_normal(file, ())))
        ]
        # The same ending, or none, is preferred.
        take(name, [
            file for file in others[name]
            if _ending(_normal(file, ())) == _ending(wanted)
        ])
    homes = {posixpath.dirname(file) for file in found.values()}
    for name in [name for name in others if name not in found]:
        parts = _stem(_normal(name, roots))
        take(name, [
            file for file in others[name]
            if file.lower().endswith(IMG_EXTENSIONS) and (
                not homes or posixpath.dirname(file) in homes
                or _stem(_normal(file, ())) == parts)
        ])
    for file, several in users.items():
        if len(several) > 1:
            raise UserError(
                f'{source} names {several[:_NAMED]}, and each may mean the '
                f'file {file!r} of {folder}: write its name as it is on the '
                'disk, and remove the others')
    return {name: found[name] for name in names if name in found}


def _only(name: str, candidates: list[str], source: str) -> str:
    if len(candidates) > 1:
        raise UserError(
            f'{source} names {name!r}, which may mean any of the files '
            f'{candidates[:_NAMED]}: write the name of one of them, as it is '
            'on the disk')
    return candidates[0]


def _normal(name: str, roots: Iterable[str]) -> str:
    """A name with slashes, in composed Unicode, without ``.`` and ``..``."""
    name = unicodedata.normalize('NFC', name).replace('\\', '/')
    name = posixpath.normpath(name)
    for root in roots:
        root = unicodedata.normalize('NFC', root).rstrip('/') + '/'
        if name.startswith(root):
            return name[len(root):]
    return name


def _stem(name: str) -> list[str]:
    """Parts of a normal name without its ending, in lower case."""
    return posixpath.splitext(name)[0].casefold().split('/')


def _ending(name: str) -> str:
    """Ending of a normal name with its dot, in lower case; '' if none."""
    return posixpath.splitext(name)[1].casefold()


def _ends_alike(first: list[str], second: list[str]) -> bool:
    """Whether one path is the end of the other."""
    short = min(len(first), len(second))
    return first[-short:] == second[-short:]
