"""Masks of the same images, and how they change with the network."""
import numpy as np
import pytest

from cyborgs_plugin.segmentation.fixed_masks import (
    agreement_with_before,
    fixed_masks,
)
from cyborgs_plugin.segmentation.round_report import agreement_of_maps

from ..helpers import IMAGENET, checkpoint, images_of, network

SOURCE = dict(type='NetworkMasks', layer='layer2.1', num_clusters=(2, 30),
              num_clusterings=3)


def maps_of(photo_root, seed=0, **options):
    return fixed_masks(dict(SOURCE, **options), network(seed), IMAGENET,
                       images_of(photo_root)[:3], 5)


def test_only_the_network_matters(photo_root):
    first, again, other = (maps_of(photo_root, seed) for seed in (0, 0, 1))
    assert list(first) == [key for key, _ in images_of(photo_root)[:3]]
    for key, ids in first.items():
        assert ids.shape in ((6, 8), (8, 6))
        assert len(np.unique(ids)) == 5
        assert np.array_equal(ids, again[key])
    pairs = [(ids, other[key]) for key, ids in first.items()]
    assert agreement_of_maps(pairs) < 0.9


def test_of_masks_that_do_not_change_there_is_none(photo_root, tmp_path):
    checkpoint(tmp_path / 'other.pth')
    assert not maps_of(photo_root, checkpoint=str(tmp_path / 'other.pth'))
    assert not fixed_masks(dict(type='GridMasks'), network(), IMAGENET,
                           images_of(photo_root), 5)


def test_rounds_are_compared_also_after_a_resume(tmp_path):
    file = str(tmp_path / 'masks.npz')
    random = np.random.default_rng(0)
    rounds = [{'a/b.png': random.integers(0, 4, (9, 9), dtype=np.uint8)}
              for _ in range(3)]
    assert agreement_with_before(rounds[0], 0, file) is None
    first = agreement_with_before(rounds[1], 1, file)
    assert first == pytest.approx(
        agreement_of_maps([(rounds[0]['a/b.png'], rounds[1]['a/b.png'])]))
    # the run was killed, and makes round 1 once more
    assert agreement_with_before(rounds[1], 1, file) == first
    assert agreement_with_before(rounds[1], 2, file) == 1
    assert agreement_with_before(rounds[2], 2, file) < 0.5
    # a damaged file does not end the run
    (tmp_path / 'masks.npz').write_bytes(b'PK')
    assert agreement_with_before(rounds[2], 2, file) is None
    assert agreement_with_before(rounds[2], 3, file) == 1
    # another run in the folder
    assert agreement_with_before(rounds[0], 0, file) is None
    assert agreement_with_before(rounds[0], 5, file) is None
