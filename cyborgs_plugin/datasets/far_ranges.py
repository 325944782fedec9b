"""Some bytes of an object in S3, by a plain request to a signed URL.

s3fs takes more CPU time for a request than it takes to decode a photograph.
It signs a URL once per tar file instead, with its own credentials; urllib3
then reads from it. Whatever is unusual is left to s3fs.
"""
import time
from functools import lru_cache
from os import getpid
from typing import Any
from urllib.parse import urlsplit

from .file_systems import file_system

_VALID = 3600
"""Seconds for which a URL is used; it is valid for twice as long."""
_TIMEOUT = 60.
"""Seconds until a server that does not answer counts as a fault."""
_PASSED_ON: set[str] = set()
"""Buckets that refused a signed URL, which s3fs reads from then on."""


def read_range(url: str, start: int, stop: int) -> bytes | None:
    """Read some bytes of an object.

    Args:
        url (str): The object.
        start (int): Its first byte to be read.
        stop (int): The byte after the last one.

    Returns:
        bytes or None: Fewer if the object is shorter; None if the file system
        of fsspec has to read them.

    Raises:
        OSError: If the connection fails or the server has a fault.
    """
    parts = urlsplit(url)
    if parts.scheme not in ('s3', 's3a') or parts.netloc in _PASSED_ON:
        return None
    signed = _signed(url, getpid(), int(time.time() // _VALID))
    if signed is None:
        return None
    import urllib3  # s3fs needs it
    try:
        answer = _connections(getpid()).request(
            'GET', signed, retries=False, timeout=_TIMEOUT,
            headers={'Range': f'bytes={start}-{stop - 1}'})
    except urllib3.exceptions.HTTPError as error:
        # without its text, which may hold the URL and so the signature
        raise OSError(f'no answer ({type(error).__name__})') from None
    if answer.status == 206:
        return answer.data
    if answer.status == 429 or answer.status >= 500:
        raise OSError(f'the server answered {answer.status}')
    if answer.status not in (404, 416):
        _PASSED_ON.add(parts.netloc)
    return None


@lru_cache(maxsize=10_000)
def _signed(url: str, process: int, period: int) -> str | None:
    """A URL that needs no credentials, or None if there is none."""
    files, path = file_system(url)
    options = files.storage_options
    # by default, the old signature, which new buckets refuse
    config = {'signature_version': 's3v4',
              **options.get('config_kwargs', {})}
    try:
        return type(files)(**{**options, 'config_kwargs': config}).sign(
            path, expiration=2 * _VALID)
    except Exception:  # the libraries raise all kinds
        return None


@lru_cache(maxsize=1)
def _connections(process: int) -> Any:
    """Open connections of a process; those of its parent are not its own."""
    import urllib3
    return urllib3.PoolManager(maxsize=64)
