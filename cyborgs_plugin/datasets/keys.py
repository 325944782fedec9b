"""Keys of photographs, as a mask bank and an index store them."""
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError


@runtime_checkable
class SortedKeys(Protocol):
    """Keys that need no sorting; each is there once."""

    def __len__(self) -> int:
        ...

    def encoded(self, first: int, stop: int) -> list[bytes]:
        """The bytes of some keys, in the order of all keys' bytes."""

    def indices(self, first: int, stop: int) -> NDArray[np.int64]:
        """Where these keys are in the list of images, (stop - first, )."""


def encode(key: str) -> bytes:
    """The bytes of a key, by which keys are sorted."""
    return key.encode('utf-8', 'surrogateescape')


def decode(key: bytes) -> str:
    """A key from its bytes."""
    return key.decode('utf-8', 'surrogateescape')


def check_key(key: str) -> None:
    """Refuse a key that cannot be stored."""
    if not key or '\0' in key:
        raise UserError('A key must be a path relative to data_root, '
                        f'without NUL; found {key!r}')
