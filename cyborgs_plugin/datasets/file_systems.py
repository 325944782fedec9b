"""The file system of fsspec for a URL."""
from typing import Any
from urllib.parse import urlsplit

from ..errors import MissingPackageError, UserError

_EXTRAS = {'s3': 's3fs', 's3a': 's3fs', 'gs': 'gcsfs', 'gcs': 'gcsfs',
           'http': 'aiohttp', 'https': 'aiohttp'}


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, which fsspec keeps, and the path in it."""
    import fsspec  # not before a run needs it
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = urlsplit(url).scheme
        package = _EXTRAS.get(scheme, 'the file system of fsspec for it')
        raise MissingPackageError(
            f'{url}: reading {scheme}:// needs {package}: pip install '
            f'{package}') from error
    except ValueError as error:
        raise UserError(f'{url}: {error}') from error
