"""Superpixels are found once for all rounds."""
import sys

import numpy as np
import pytest

from cyborgs_plugin.ops.superpixels import find_superpixels
from cyborgs_plugin.segmentation import NetworkMasks
from cyborgs_plugin.segmentation.known_superpixels import (
    KnownSuperpixels,
    known_superpixels,
)

MODULE = sys.modules[KnownSuperpixels.__module__]


@pytest.fixture
def searches(monkeypatch):
    """The images whose superpixels were found."""
    found = []
    monkeypatch.setattr(
        MODULE, 'find_superpixels', lambda image, **options:
        found.append(image) or find_superpixels(image, **options))
    return found


def image_of(seed, size=(48, 64)):
    return np.random.default_rng(seed).integers(
        0, 256, (*size, 3), dtype=np.uint8)


def equal(found, expected):
    return all(mine.dtype == its.dtype and (mine == its).all()
               for mine, its in zip(found, expected, strict=True))


@pytest.mark.parametrize('options', [
    {}, dict(type='SLIC', n_segments=12), dict(stride=4, min_size=1)])
def test_the_same_as_found_anew(searches, options):
    known = KnownSuperpixels()
    for _ in range(3):
        for seed in (0, 1):
            assert equal(known(image_of(seed), **options),
                         find_superpixels(image_of(seed), **options))
    assert len(searches) == 2


def test_many_superpixels_keep_their_numbers():
    """More than 256, so more than a byte."""
    image = image_of(0, (256, 256))
    options = dict(stride=4, scale=1, min_size=1, sigma=0)
    known = KnownSuperpixels()
    found = known(image, **options)
    assert len(found.counts) > 256
    assert equal(known(image, **options), found)


def test_other_pixels_sizes_and_options_are_others(searches):
    known = KnownSuperpixels()
    image = image_of(0)
    changed = image.copy()
    changed[5, 7, 1] ^= 1
    asked = [(image, {}), (changed, {}), (image.reshape(64, 48, 3), {}),
             (image, dict(min_size=9)), (image[:, ::-1], {})]
    for picture, options in asked + asked:
        assert equal(known(picture, **options),
                     find_superpixels(picture, **options))
    assert len(searches) == len(asked)


def test_no_more_than_there_is_room_for(searches):
    found = find_superpixels(image_of(0))
    assert len(found.counts) < 256  # so that an id takes a byte
    size = found.ids.size + sum(values.nbytes for values in found[1:])
    known = KnownSuperpixels(most_bytes=size)
    for seed in (0, 1, 2, 0, 1, 2):
        known(image_of(seed))
    assert len(searches) == 5
    assert sum((image == image_of(0)).all() for image in searches) == 1


def test_what_is_forgotten_is_found_again(searches):
    image = image_of(0)
    size = sum(values.nbytes for values in find_superpixels(image))
    known = KnownSuperpixels(most_bytes=size)
    for _ in range(2):
        known(image)
        known(image)
        known.forget()
    assert len(searches) == 2


def test_a_later_round_does_not_search(searches):
    known_superpixels.forget()
    image = image_of(0)
    first, second = (
        NetworkMasks(superpixels=dict(type='Felzenszwalb')).preprocess(image)
        for _ in range(2))
    assert equal(first.superpixels, second.superpixels)
    assert len(searches) == 1
