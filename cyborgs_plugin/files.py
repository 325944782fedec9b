"""Hashes of files."""
import hashlib
import re

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
