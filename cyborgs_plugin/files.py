"""Files: their hashes, and writing them so that a kill spoils none."""
import hashlib
import os
import os.path as osp
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .errors import UserError


def check_name_hash(path: str) -> None:
    """Compare a file with the hash in its name, if there is one.

    Args:
        path (str): Such as ``x-0123abcd.pth``: the beginning of the SHA-256.

    Raises:
        ValueError: If the file is not the one that got this name.
    """
    match = re.search(r'-([0-9a-f]{8})\.(pth|safetensors|pkl)$', path)
    if match is None:
        return
    found = sha256(path)[:8]
    if found != match[1]:
        raise UserError(
            f'{path} is truncated or altered: by its name its SHA-256 begins '
            f'with {match[1]}, but it begins with {found}. Copy or publish it '
            'again')


def sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def sync(path: str) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: str, path: str) -> None:
    """Give a written file its name, once it is on the disk.

    Args:
        partial (str): Where it is, in the same folder.
        path (str): Its name; a file of that name is replaced.
    """
    sync(partial)
    os.replace(partial, path)
    sync(osp.dirname(path) or '.')


@contextmanager
def written_aside(path: str) -> Iterator[str]:
    """Write a file that is never seen half written under its name.

    Args:
        path (str): Its name; a file of that name is replaced at the end.

    Yields:
        str: Where to write it, in the same folder. It is removed if the block
        fails.
    """
    folder, name = osp.split(path)
    partial = osp.join(folder, f'.{name}.partial')
    try:
        yield partial
        publish(partial, path)
    except BaseException:
        with suppress(OSError):
            os.remove(partial)
        raise
