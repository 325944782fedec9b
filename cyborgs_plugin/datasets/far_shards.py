"""Reading tar files of a store: retries, and a cache on the local disk.

fsspec reads http, s3 and gcs. Credentials come from the environment, as its
file systems read them, and from nowhere else.
"""
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache, partial
from random import SystemRandom
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from mmengine.logging import print_log

from ..errors import MissingFileError, MissingPackageError, UserError
from .daemons import begin
from .far_ranges import read_range
from .file_systems import file_system
from .kept_tars import read_kept
from .shards import Address, MisplacedError, check_member, span

Result = TypeVar('Result')
TRIES = 5
_PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long."""
_SECRET = re.compile(r'SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL')
_AHEAD: dict[Address, Future] = {}
"""Photographs whose reading was begun."""


def is_far(path: str) -> bool:
    """Whether a path is the URL of a store."""
    return '://' in path


def check_url(url: str) -> None:
    """Refuse a URL with credentials, which an index and logs would hold.

    Raises:
        UserError: Without the credentials.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query:
        raise UserError(
            f'The URL of {parts.scheme}://{parts.hostname} has a user, a '
            'password or a query, which an index and the logs of a run would '
            'hold: give credentials by the environment (docs/data.md), and '
            'the URL without them')


def read_far(place: Address, cache: str | None = None,
             cache_gb: float = 50.,
             tars: str | None = None) -> bytes:
    """Read a photograph of a tar file in a store.

    Args:
        place (Address): Where it lies.
        cache (str, optional): Folder on a local disk that keeps what was read,
            for all processes. Defaults to None, nothing is kept.
        cache_gb (float): The most that the folder takes, in GB: what was
            stored first is removed first. Defaults to 50.
        tars (str, optional): Keep whole tar files instead: 'fetch' those that
            are not kept, or 'use' the kept ones only. Defaults to None, single
            photographs.

    Returns:
        bytes: The photograph.

    Raises:
        OSError: If it cannot be read, after :data:`TRIES` tries.
        MisplacedError: If the tar file is truncated, or holds something else.
    """
    begun = _AHEAD.pop(place, None)
    return (_read_now(place, cache, cache_gb, tars) if begun is None else
            begun.result())


def _read_now(place: Address, cache: str | None = None, cache_gb: float = 50.,
              tars: str | None = None) -> bytes:
    if cache is not None and tars is not None:
        return _read_by_tars(place, cache, cache_gb, tars == 'fetch')
    kept = None if cache is None else open_cache(cache, cache_gb)
    key = _key(place)
    content = None if kept is None else kept.get(key)
    if content is None:
        content = tried(lambda: _read(place))
        if kept is not None:
            _keep(kept, key, content)
    return content


def _key(place: Address) -> str:
    """What the cache keeps a photograph by."""
    return f'{place.shard}@{place.start}+{place.length}'


@contextmanager
def reading_ahead(places: Iterable[Address], cache: str | None = None,
                  cache_gb: float = 50., **options: Any) -> Iterator[None]:
    """Begin to read photographs, for which :func:`read_far` then waits.

    Args:
        places (Iterable[Address]): Where they lie.
        cache (str, optional): As of :func:`read_far`. What it keeps is left to
            be read when it is asked for, which is faster.
            Defaults to None.
        cache_gb (float): As of :func:`read_far`. Defaults to 50.
        **options: Others of :func:`read_far`.
    """
    kept = () if cache is None else open_cache(cache, cache_gb)
    begun: dict[Address, Future] = {}
    try:
        for place in dict.fromkeys(places):
            if _key(place) not in kept:
                begun[place] = begin(partial(
                    _read_now, place, cache, cache_gb, **options))
        _AHEAD.update(begun)
        yield
    finally:
        for place, future in begun.items():
            _AHEAD.pop(place, None)
            future.cancel()


def open_cache(folder: str, gigabytes: float) -> Any:
    """Open the cache of :func:`read_far`, or find that it is open.

    Raises:
        UserError: If diskcache is missing, or the folder cannot be written.
    """
    return _opened(folder, gigabytes, os.getpid())


def tried(read: Callable[[], Result]) -> Result:
    """Call a function that reads from a store, again where that may help.

    Raises:
        FileNotFoundError: At once, without another try.
        PermissionError: At once.
        OSError: What the last try raised, without credentials.
    """
    pause = _PAUSE
    for left in reversed(range(TRIES)):
        try:
            return read()
        except (FileNotFoundError, PermissionError, UserError):
            raise
        except Exception as error:  # the libraries raise all kinds
            if isinstance(error, MisplacedError) and not error.short:
                raise
            if not left:
                if isinstance(error, MisplacedError):
                    raise
                raise OSError(
                    f'{TRIES} tries failed, the last with '
                    + _without_secrets(repr(error))) from None
        # Not a generator that training draws from.
        time.sleep(pause * SystemRandom().uniform(0.5, 1))
        pause *= 2
    raise RuntimeError('no try is left')


def find_far(url: str) -> list[str]:
    """The tar files below a URL, sorted."""
    check_url(url)
    with explained_far(url):
        files, path = file_system(url)
        found = tried(lambda: files.find(path))
        return sorted(files.unstrip_protocol(name) for name in found
                      if name.endswith('.tar'))


def with_far(url: str, read: Callable[[BinaryIO], Result]) -> Result:
    """Open a tar file of a store, and let a function read from it.

    Args:
        url (str): The tar file.
        read (Callable): Gets the file, which can be read at any place.

    Returns:
        Any: What the function returned.

    Raises:
        UserError: If it cannot be read.
    """
    check_url(url)

    def once() -> Result:
        with files.open(path, 'rb') as file:
            return read(file)

    with explained_far(url):
        files, path = file_system(url)
        return tried(once)


@contextmanager
def explained_far(url: str, done: str = 'read') -> Iterator[None]:
    """Raise errors of a store as those of a user, with the URL.

    Args:
        url (str): What is used.
        done (str): What is done with it, as a participle. A missing object
            means a missing bucket unless it is 'read'. Defaults to 'read'.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries raise all kinds
        if isinstance(error, FileNotFoundError) and done == 'read':
            raise MissingFileError(f'{url} does not exist') from error
        raise UserError(f'{url} cannot be {done}: '
                        + _without_secrets(repr(error))) from None


def _read_by_tars(place: Address, folder: str, gigabytes: float,
                  fetch: bool) -> bytes:
    """Read a photograph from its kept tar file, or alone."""

    def get(path: str) -> None:
        files, source = file_system(place.shard)
        files.get_file(source, path)
        size = files.info(source).get('size')
        if size not in (None, os.path.getsize(path)):
            raise OSError(f'{place.shard}: {os.path.getsize(path)} of {size} '
                          'bytes came')

    kept = tried(lambda: read_kept(place, folder, gigabytes,
                                   get if fetch else None))
    if kept is not None:
        return kept
    if fetch:
        _warn_once(
            f'The cache {folder} has no room for whole tar files: the disk is '
            'full, or more are read at a time than cache_gb holds. '
            'Photographs of the others are read from the store one by one')
    return tried(lambda: _read(place))


def _read(place: Address) -> bytes:
    start, stop = span(place)
    content = read_range(place.shard, start, stop)
    if content is None:
        files, path = file_system(place.shard)
        content = files.cat_file(path, start=start, end=stop)
    if len(content) > stop - start:
        raise UserError(
            f'{place.shard}: the server sent {len(content)} bytes where '
            f'{stop - start} were asked for: it must support range requests')
    return check_member(content, place)


@lru_cache(maxsize=4)
def _opened(folder: str, gigabytes: float, process: int) -> Any:
    """The cache in a folder, as a process has opened it."""
    try:
        import diskcache
    except ImportError as error:
        raise MissingPackageError(
            'SceneDataset.cache needs diskcache: pip install diskcache, or '
            'leave out cache') from error
    if not gigabytes > 0:
        raise UserError('SceneDataset.cache_gb must be a positive number, but '
                        f'is {gigabytes!r}')
    try:
        return diskcache.FanoutCache(
            folder, shards=8, timeout=1, size_limit=int(gigabytes * 1e9),
            eviction_policy='least-recently-stored')
    except (OSError, sqlite3.Error) as error:
        raise UserError(f'SceneDataset.cache={folder!r} cannot be used '
                        f'({error}): name a folder on a local disk') from error


def _keep(cache: Any, key: str, content: bytes) -> None:
    """Store a photograph; a full disk costs only time."""
    try:
        cache.set(key, content)
    except (OSError, sqlite3.Error) as error:
        _warn_once(f'The cache {cache.directory} cannot be written ({error}): '
                   'photographs that are not in it are read from the store '
                   'each time')


@lru_cache(maxsize=16)
def _warn_once(message: str) -> None:
    print_log(message, logger='current', level=logging.WARNING)


def _without_secrets(text: str) -> str:
    """Replace what the environment holds of credentials."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) > 7:
            text = text.replace(value, '***')
    return text
