"""Photographs in tar files: their addresses, and reading one of them."""
import os
import re
import tarfile
from typing import NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_ADDRESS = re.compile(r'(.+)::(.+)@(\d+)\+(\d+)', re.DOTALL)


class MisplacedError(ValueError):
    """A tar file has no such photograph where an index says so.

    Attributes:
        short (bool): Whether too few bytes were read.
    """

    def __init__(self, message: str, short: bool = False) -> None:
        super().__init__(message)
        self.short = short


class Address(NamedTuple):
    """A photograph in a tar file."""

    shard: str
    """Path or URL of the tar file."""
    member: str
    """Key of the photograph."""
    start: int
    """Its first byte in the tar file."""
    length: int
    """Its number of bytes."""


def address(shard: str, member: str, start: int, length: int) -> str:
    """Name a photograph in a tar file, as :func:`parse_address` reads it."""
    return f'{shard}::{member}@{start}+{length}'


def parse_address(path: str) -> Address | None:
    """Read what :func:`address` wrote; None for another path."""
    if '::' not in path:
        return None
    match = _ADDRESS.fullmatch(path)
    return match and Address(match[1], match[2], int(match[3]), int(match[4]))


def check_member(content: bytes, place: Address) -> bytes:
    """The photograph in what was read of a tar file.

    Args:
        content (bytes): The member with the block before it, its header.
        place (Address): What should be there.

    Returns:
        bytes: The photograph.

    Raises:
        MisplacedError: If the tar file is truncated, or another member lies
            there.
    """
    expected = _BLOCK + place.length
    if len(content) < expected:
        raise MisplacedError(
            f'the tar file is truncated: expected {expected} bytes at '
            f'{place.start - _BLOCK}, found {len(content)}', short=True)
    try:
        header = tarfile.TarInfo.frombuf(content[:_BLOCK], 'utf-8',
                                         'surrogateescape')
    except tarfile.HeaderError as error:
        raise MisplacedError(f'no member of a tar file begins at '
                         f'{place.start - _BLOCK} ({error})') from error
    if header.size != place.length:
        raise MisplacedError(
            f'the member {header.name!r} of {header.size} bytes lies there, '
            f'not one of {place.length} bytes')
    return content[_BLOCK:expected]


def span(place: Address) -> tuple[int, int]:
    """First byte of a photograph's header in the tar file, and its end."""
    return place.start - _BLOCK, place.start + place.length


def read_local(place: Address) -> bytes:
    """Read a photograph of a tar file on a local or mounted disk."""
    start, stop = span(place)
    descriptor = os.open(place.shard, os.O_RDONLY)
    try:
        return check_member(os.pread(descriptor, stop - start, start), place)
    finally:
        os.close(descriptor)
