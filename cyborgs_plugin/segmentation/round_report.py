"""A description of a mask round: in one line, and in numbers."""
import shutil
from collections.abc import Sequence

import numpy as np

from ..datasets.mask_bank import MaskBank
from ..ops.label_maps import resize_label_map


def describe_round(bank: MaskBank, seconds: float,
                   previous: MaskBank | None) -> str:
    """Describe a round in one line.

    Args:
        bank (MaskBank): A round from
            :func:`~cyborgs_plugin.segmentation.make_round`.
        seconds (float): How long that took.
        previous (MaskBank, optional): The round before.
    """
    counts, number = bank.manifest['counts'], len(bank)
    low, mean, high = counts['clusters']
    parts = [
        f'Mask round {bank.round}: {number} images',
        f'{len(bank.manifest["broken_images"])} broken',
        f'K {low} to {high} (mean {mean:.1f})',
        f'{counts["regions"]:.1f} regions per image',
        f'{seconds:.1f} s ({seconds / number:.4f} s per image)'
    ]
    if previous is not None:
        index, compared = agreement(previous, bank)
        parts.append(f'ARI {index:.3f} with round {previous.round} '
                     f'({compared} images)')
    free = shutil.disk_usage(bank.disk).free / 1e9
    return ', '.join([*parts, f'{free:.1f} GB free'])


def agreement(first: MaskBank, second: MaskBank,
              num_images: int = 100) -> tuple[float, int]:
    """Mean adjusted Rand index of images in two rounds.

    Maps of different grids are compared on the finer one. With several
    clusterings, the first one is compared.

    Args:
        first (MaskBank): A round.
        second (MaskBank): Another one.
        num_images (int): Largest number of images to compare, evenly spaced.
            Defaults to 100, which takes less than a second at stride 8.

    Returns:
        tuple[float, int]: The mean (NaN if no image is in both), and the
        number of images.
    """
    pairs = [(first.label_map(key), second.label_map(key))
             for key in second.keys(num_images) if key in first]
    return agreement_of_maps(pairs), len(pairs)


def agreement_of_maps(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean adjusted Rand index of label maps of the same images.

    Args:
        pairs (Sequence[tuple[np.ndarray, np.ndarray]]): Two maps (h, w) of
            each image, integer; on the finer grid of both they are compared.

    Returns:
        float: NaN of no image.
    """
    from sklearn.metrics import adjusted_rand_score
    scores = []
    for maps in pairs:
        height, width = np.max([ids.shape for ids in maps], axis=0)
        scores.append(
            adjusted_rand_score(*(
                resize_label_map(ids, (height, width)).ravel()
                for ids in maps)))
    return float(np.mean(scores)) if scores else float('nan')


def shape_of_regions(bank: MaskBank,
                     num_images: int = 100) -> dict[str, float]:
    """Say how the regions of a round lie in their images.

    Args:
        bank (MaskBank): The round; of several clusterings the first counts.
        num_images (int): Images that are looked at, at most, evenly spaced.
            Defaults to 100.

    Returns:
        dict[str, float]: Means over the images: ``regions_per_image``;
        ``largest_region``, the part of an image that its largest region
        covers; ``border_share``, the part of the outermost cells that lie in
        one region, the commonest there.
    """
    found = []
    for key in bank.keys(num_images):
        ids = bank.label_map(key)
        areas = np.bincount(ids.ravel())
        ring = np.ones(ids.shape, bool)
        ring[1:-1, 1:-1] = False
        border = np.bincount(ids[ring])
        found.append((np.count_nonzero(areas), areas.max() / ids.size,
                      border.max() / ring.sum()))
    names = ('regions_per_image', 'largest_region', 'border_share')
    return {name: float(value)
            for name, value in zip(names, np.mean(found, axis=0))}
