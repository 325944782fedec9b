"""Some bytes of an object in S3, by a plain request to a signed URL.

s3fs takes more CPU time for a request than it takes to decode a photograph.
It signs a URL once per tar file instead, with its own credentials; urllib3
then reads from it. Whatever is unusual is left to s3fs.
"""
import logging
import time
from functools import lru_cache
from os import getpid
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from .file_systems import file_system

_VALID = 300
"""Seconds for which a URL is used; it is valid for twice as long.

A URL ends with the credentials that signed it. botocore renews those at the
latest ten minutes before their end.
"""
_TIMEOUTS = 10., 60.
"""Seconds to connect and to answer, after which a server has a fault."""
_PASSED_ON: dict[str, int] = {}
"""Buckets that s3fs reads, with the period in which one refused a URL."""


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
    parts, period = urlsplit(url), int(time.time() // _VALID)
    if (parts.scheme not in ('s3', 's3a')
            or _PASSED_ON.get(parts.netloc) == period):
        return None
    signed = _signed(url, getpid(), period)
    if signed is None:
        return None
    from urllib3 import Timeout, exceptions  # s3fs needs it
    try:
        answer = _connections(getpid()).request(
            'GET', signed, retries=False, timeout=Timeout(*_TIMEOUTS),
            decode_content=False,  # the bytes as they are stored
            headers={'Range': f'bytes={start}-{stop - 1}'})
    except (exceptions.SSLError, exceptions.NewConnectionError,
            exceptions.ConnectTimeoutError):
        # s3fs may know other certificates or a way
        _PASSED_ON[parts.netloc] = period
        return None
    except exceptions.HTTPError as error:
        # without its text, which may hold the URL and so the signature
        raise OSError(f'no answer ({type(error).__name__})') from None
    if answer.status == 206:
        return answer.data
    if answer.status == 429 or answer.status >= 500:
        raise OSError(f'the server answered {answer.status}')
    if answer.status not in (404, 416):
        _PASSED_ON[parts.netloc] = period
    return None


@lru_cache(maxsize=10_000)
def _signed(url: str, process: int, period: int) -> str | None:
    """A URL that needs no credentials, or None if there is none."""
    try:
        files, path = file_system(url)
        options = files.storage_options
        # by default, the old signature, which new buckets refuse
        config = {'signature_version': 's3v4',
                  **options.get('config_kwargs', {})}
        signed = type(files)(**{**options, 'config_kwargs': config}).sign(
            path, expiration=2 * _VALID)
    except Exception:  # the libraries raise all kinds, and s3fs will again
        return None
    parts = urlsplit(signed)
    by_proxy = config.get('proxies') or (
        parts.scheme in getproxies() and not proxy_bypass(parts.netloc))
    return None if by_proxy else signed


@lru_cache(maxsize=1)
def _connections(process: int) -> Any:
    """Open connections of a process; those of its parent are not its own."""
    import urllib3
    for name in ('urllib3.connection', 'urllib3.connectionpool'):
        logging.getLogger(name).addFilter(_tells_no_signature)
    return urllib3.PoolManager(maxsize=64)


def _tells_no_signature(record: logging.LogRecord) -> bool:
    """Whether a line of urllib3, such as on odd headers, may be logged."""
    return 'Signature=' not in record.getMessage()
