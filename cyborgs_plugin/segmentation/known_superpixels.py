"""Superpixels found once, for all mask rounds of a process."""
import hashlib
from typing import Any

import numpy as np

from ..ops.superpixels import Superpixels, find_superpixels


class KnownSuperpixels:
    """A memory of :func:`~cyborgs_plugin.ops.superpixels.find_superpixels`.

    The network changes from round to round, but photographs do not, and much
    of the time of a round with superpixels is spent on finding them. An image
    is known by its pixels, so a changed file is never taken for the old one.
    Each process knows those that it has seen: of W processes, which divide
    the photographs anew for each round, 1 / W of them in the second round.

    Args:
        most_bytes (int): What the superpixels may take, about 15 kB for
            a photograph of 640x480. Those that find no room are found again
            each time. Defaults to 256 MiB.
    """

    def __init__(self, most_bytes: int = 1 << 28) -> None:
        self._most = self._room = most_bytes
        self._found: dict[bytes, Superpixels] = {}

    def __call__(self, image: np.ndarray, **options: Any) -> Superpixels:
        """Find the superpixels of an image, or remember them.

        Args:
            image (np.ndarray): BGR, shape (H, W, 3), uint8.
            **options: Arguments of ``find_superpixels``.

        Returns:
            Superpixels: What that function returns.
        """
        name = hashlib.blake2b(
            np.ascontiguousarray(image).data, digest_size=16)
        name.update(repr((image.shape, sorted(options.items()))).encode())
        key = name.digest()
        known = self._found.get(key)
        if known is not None:
            return known._replace(ids=known.ids.astype(np.int64))
        found = find_superpixels(image, **options)
        kept = found._replace(
            ids=found.ids.astype(np.min_scalar_type(len(found.counts))))
        size = sum(values.nbytes for values in kept)
        if size <= self._room:
            self._room -= size
            self._found[key] = kept
        return found

    def forget(self) -> None:
        """Forget all of them."""
        self._found.clear()
        self._room = self._most


ROOM_FOR = 17_000
"""About as many photographs of 640x480 find room by default."""
known_superpixels = KnownSuperpixels()
"""That of this process."""
