"""Files: their hashes, and writing that survives a kill."""
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
        path (str): A name such as ``x-0123abcd.pth``, with the beginning of
            the SHA-256.

    Raises:
        ValueError: If the content of the file does not fit its name.
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
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: str, path: str) -> None:
    """Rename a written file once it is on the disk.

    Args:
        partial (str): Its current path, in the same folder.
        path (str): Its final path; an existing file is replaced.
    """
    sync(partial)
    os.replace(partial, path)
    sync(osp.dirname(path) or '.')


@contextmanager
def written_aside(path: str) -> Iterator[str]:
    """Write a file that never appears half written under its name.

    Args:
        path (str): Its final path; an existing file is replaced at the end.

    Yields:
        str: Path to write to, in the same folder. It is removed if the block
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
