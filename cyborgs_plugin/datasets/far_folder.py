"""A folder of a store: the objects whose names begin with a URL."""
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import EDQUOT, ENOSPC, EROFS
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import UserError
from .daemons import begin
from .far_shards import check_url, explained_far, tried
from .file_systems import file_system

Item = TypeVar('Item')
Result = TypeVar('Result')


def for_each(function: Callable[[Item], Result],
             items: Iterable[Item]) -> list[Result]:
    """Call a function that waits for a store, several times at once.

    Args:
        function (Callable): What is called, in another thread. It must not
            call this function.
        items (Iterable): What it is called with, one by one.

    Returns:
        list: The results, in the order of the items.

    Raises:
        Exception: What the function raises for the first item of which it
            fails. Items that it has not begun with are left out.
    """
    futures = [begin(partial(function, item)) for item in items]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


class FarFolder:
    """The objects below a URL, as files of a folder.

    Whatever fails is tried again where that may help, and is then a
    ``UserError`` that names the object and holds no credentials.

    Args:
        url (str): The folder.

    Raises:
        UserError: If the URL holds credentials, or is of no store.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        parts = urlsplit(url)
        if parts.scheme in ('file', 'local'):
            raise UserError(f'{url} is on a local or mounted disk: give the '
                            f'path alone, {parts.path}')
        self.url = url.rstrip('/')

    def sizes(self) -> dict[str, int]:
        """Bytes of each object, by name; empty if there is none."""
        return {_name(entry): entry['size'] for entry in self._entries()
                if entry['type'] != 'directory'}

    def names(self) -> list[str]:
        """Names of objects and folders, sorted."""
        return sorted(map(_name, self._entries()))

    def read(self, name: str) -> bytes:
        """The content of an object."""
        return self._done('read', name,
                          lambda files, path: files.cat_file(path))

    def write(self, name: str, content: bytes) -> None:
        """Write an object, at once; it replaces another."""
        self._done('written', name,
                   lambda files, path: files.pipe_file(path, content))

    def get(self, name: str, local: str,
            check: Callable[[], None] = lambda: None) -> None:
        """Copy an object into a local file.

        Args:
            name (str): The object.
            local (str): Path of the file.
            check (Callable): Raises an error of another kind than UserError if
                the copy should be tried again. Defaults to no check.
        """

        def copied(files: Any, path: str) -> None:
            try:
                files.get_file(path, local)
            except OSError as error:
                if error.errno not in (EDQUOT, ENOSPC, EROFS):
                    raise
                raise UserError(f'{self.url}/{name} cannot be copied to '
                                f'{local} ({error})') from error
            check()

        self._done('read', name, copied)

    def put(self, name: str, local: str) -> None:
        """Copy a local file into an object, which appears when it is whole."""
        self._done('written', name,
                   lambda files, path: files.put_file(local, path))

    def copy(self, name: str, target: 'FarFolder') -> None:
        """Copy an object to another folder of the store, within the store."""
        _, goal = file_system(f'{target.url}/{name}')
        self._done('copied', name,
                   lambda files, path: files.cp_file(path, goal))

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, as far as they are there."""

        def removed(files: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                files.rm_file(path)

        # s3fs is silent about a failure if many are removed by one request.
        for_each(lambda name: self._done('removed', name, removed), names)

    def _entries(self) -> list[dict]:
        def listed(files: Any, path: str) -> list[dict]:
            files.invalidate_cache(path)  # another process may have written
            try:
                return files.ls(path, detail=True)
            except FileNotFoundError:
                return []

        return self._done('listed', '', listed)

    def _done(self, done: str, name: str,
              act: Callable[[Any, str], Result]) -> Result:
        """Act on an object, by fsspec's file system and the path in it."""
        url = f'{self.url}/{name}'.rstrip('/')
        with explained_far(url, done):
            files, path = file_system(url)
            return tried(lambda: act(files, path))


def _name(entry: dict) -> str:
    return entry['name'].rstrip('/').rpartition('/')[2]
