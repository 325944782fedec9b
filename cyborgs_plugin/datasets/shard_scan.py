"""Finding the photographs of a tar file.

The layout is WebDataset's: members whose names agree up to the first dot of
the file name are a sample, of which one is a picture.
"""
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from ..errors import UserError
from .image_files import is_of_system

_BLOCK = tarfile.BLOCKSIZE
_COMPRESSED = {b'\x1f\x8b': 'gunzip', b'BZh': 'bunzip2', b'\xfd7zXZ': 'unxz',
               b'\x28\xb5\x2f\xfd': 'unzstd'}


@dataclass
class Shard:
    """The photographs of a tar file."""

    names: list[str] = field(default_factory=list)
    """Of the members, in the order of the file."""
    starts: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """How many other files there are, by ending."""


def scan_shard(file: BinaryIO, name: str,
               extensions: tuple[str, ...]) -> Shard:
    """Find the photographs of a tar file by the headers of its members.

    Args:
        file (BinaryIO): The tar file, which is read from where it is and must
            support ``seek``.
        name (str): Its name, for messages.
        extensions (tuple[str, ...]): Endings of photographs, such as '.jpg'.

    Returns:
        Shard: The photographs.

    Raises:
        UserError: If it is no tar file, compressed or truncated, or a sample
            has several pictures.
    """
    found, samples = Shard(), dict[str, int]()
    plain: list[bool] = []  # whether a name has just one dot
    try:
        for info in _members(file):
            member = posixpath.normpath(info.name).lstrip('/')
            parts = member.split('/')
            if not info.isreg() or not info.size or (
                    info.sparse is not None) or any(
                        map(is_of_system, parts)) or (
                            not member.lower().endswith(extensions)):
                found.others[_ending(parts[-1])] += not info.isdir()
                continue
            stem = parts[-1].partition('.')[0]
            sample = posixpath.join(*parts[:-1], stem)
            place = samples.setdefault(sample, len(found.names))
            is_plain = parts[-1].count('.') == 1
            if place == len(found.names):
                plain.append(is_plain)
                found.names.append(member)
                found.starts.append(info.offset_data)
                found.lengths.append(info.size)
            elif plain[place] == is_plain:
                raise UserError(
                    f'{name}: the sample {sample!r} has two pictures, '
                    f'{found.names[place]!r} and {member!r}, and a sample is '
                    'what agrees up to the first dot. Choose one kind by '
                    '--extensions, or rename them')
            else:
                found.others[_ending(parts[-1])] += 1
                if is_plain:  # x.jpg, rather than x.depth.png before it
                    plain[place] = True
                    found.names[place] = member
                    found.starts[place] = info.offset_data
                    found.lengths[place] = info.size
    except tarfile.TarError as error:
        raise UserError(f'{name}: {_fault(file, error)}') from error
    return found


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file, without keeping them."""
    with tarfile.open(fileobj=file, mode='r:') as tar:
        while (info := tar.next()) is not None:
            yield info
            tar.members = []  # type: ignore[attr-defined]
        # tarfile also stops, and says nothing, where a header is damaged.
        end = tar.offset
        file.seek(end)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f'no member and no end at byte {end}')


def _fault(file: BinaryIO, error: tarfile.TarError) -> str:
    """What is wrong with a file that tarfile cannot read."""
    file.seek(0)
    begin = file.read(6)
    for magic, tool in _COMPRESSED.items():
        if begin.startswith(magic):
            return ('a compressed tar file, of which no single photograph can '
                    f'be read: decompress it by {tool}')
    if not begin:
        return 'an empty file, no tar file: copy it again'
    return f'no tar file, or a truncated one ({error}): copy it again'


def _ending(name: str) -> str:
    return '.' + name.partition('.')[2] if '.' in name else 'without an ending'
