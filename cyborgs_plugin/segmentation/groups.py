"""Which images are segmented together, and by which rank.

The first does not depend on the number of ranks, so that masks do not either.
"""
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..datasets.keys import SortedKeys, check_key, decode, encode
from ..datasets.mask_blocks import Layout, place
from ..datasets.mask_files import same_key
from ..errors import UserError

_PART = 1 << 16
"""Images of a part, about: neighbours by name, from which groups are drawn."""
_BLOCKS = 1 << 10
"""At most so many blocks, and over half as many if there are as many groups:
ranks take whole blocks, and many small ones are shared out more evenly ..."""
_BLOCK = 1 << 13
"""... unless a block would hold more images than this, 40 MB at 640x480."""


class ShuffledGroups:
    """Groups of any images, which ranks take in turn: format 1 of a bank.

    Args:
        num_images (int): Number of images.
        seed (int): Seed of the run.
        mask_round (int): Number of the round.
        group_size (int): Images of a group; the last may have fewer.
    """

    def __init__(self, num_images: int, seed: int, mask_round: int,
                 group_size: int) -> None:
        self._order = np.random.default_rng(
            [seed, mask_round]).permutation(num_images)
        self._group_size = group_size
        self.num_groups = -(-num_images // group_size)

    def of_rank(self, rank: int, world_size: int) -> range:
        """The groups of a rank."""
        return range(rank, self.num_groups, world_size)

    def members(self, group: int) -> list[int]:
        """Indices of the images of a group."""
        first = group * self._group_size
        return self._order[first:first + self._group_size].tolist()


class KeyedGroups:
    """Groups of images whose names are near: format 2 of a bank.

    The images, sorted by key, are cut into parts. Within a part, a hash of the
    key, the seed and the round sorts them anew; groups are cut from that
    order, and blocks of whole groups. A rank takes neighbouring blocks. So it
    reads neighbouring files, while the groups of up to 65,536 images are drawn
    from all of them.

    Args:
        keys (Iterable[str] or SortedKeys): Key of each image. Those of an
            index are sorted, and neither copied nor compared.
        seed (int): Seed of the run.
        mask_round (int): Number of the round.
        group_size (int): Images of a group; the last may have fewer.

    Raises:
        UserError: If two images have the same key, or there are none.
    """

    def __init__(self, keys: Iterable[str] | SortedKeys, seed: int,
                 mask_round: int, group_size: int) -> None:
        self.salt = hashlib.sha256(f'{seed} {mask_round}'.encode()).digest(
        )[:16]
        self._keys = keys if isinstance(keys, SortedKeys) else _Sorted(keys)
        count = len(self._keys)
        self._group_size = group_size
        self.num_groups = -(-count // group_size)
        self._per_block = max(1, min(-(-self.num_groups // _BLOCKS),
                                     _BLOCK // group_size))
        self._num_blocks = -(-self.num_groups // self._per_block)
        # A part ends with a block, and a block with a group.
        self._per_part = -(-self._num_blocks // -(-count // _PART))
        self._part_images = self._per_part * self._per_block * group_size
        self._part: tuple[int, Sequence[int]] = -1, []

    def of_rank(self, rank: int, world_size: int) -> range:
        """The groups of a rank."""
        first, end = (self._num_blocks * number // world_size
                      * self._per_block for number in (rank, rank + 1))
        return range(min(first, self.num_groups), min(end, self.num_groups))

    def members(self, group: int) -> list[int]:
        """Indices of the images of a group."""
        part, first = divmod(group * self._group_size, self._part_images)
        if self._part[0] != part:
            self._part = part, self._hashed(part)
        return list(self._part[1][first:first + self._group_size])

    def block(self, group: int) -> int:
        """The block that holds a group."""
        return group // self._per_block

    def layout(self) -> Layout:
        """What a reader needs to find the block of a key."""
        count = len(self._keys)
        return Layout(
            num_images=count,
            num_blocks=self._num_blocks,
            salt=self.salt.hex(),
            parts=[decode(self._keys.encoded(first, first + 1)[0])
                   for first in range(0, count, self._part_images)],
            blocks_per_part=self._per_part)

    def _hashed(self, part: int) -> list[int]:
        """Indices of the images of a part, in the order of their hashes."""
        first = part * self._part_images
        stop = min(first + self._part_images, len(self._keys))
        places = [place(key, self.salt)
                  for key in self._keys.encoded(first, stop)]
        order = sorted(range(len(places)), key=places.__getitem__)
        return self._keys.indices(first, stop)[order].tolist()


class _Sorted:
    """Keys in any order, and how to read them sorted."""

    def __init__(self, keys: Iterable[str]) -> None:
        encoded = []
        for key in keys:
            check_key(key)
            encoded.append(encode(key))
        if not encoded:
            raise UserError('A mask round needs at least one image')
        listed = np.array(encoded)
        self._order = listed.argsort(kind='stable')
        self._keys = listed[self._order]
        same = self._keys[1:] == self._keys[:-1]
        if same.any():
            first = int(same.argmax())
            raise same_key(self._order[first:first + 2].tolist(),
                           self._keys[first], int(same.sum()))

    def __len__(self) -> int:
        return len(self._keys)

    def encoded(self, first: int, stop: int) -> list[bytes]:
        return self._keys[first:stop].tolist()

    def indices(self, first: int, stop: int) -> NDArray[np.int64]:
        return self._order[first:stop]
