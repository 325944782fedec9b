"""Outlines against what was drawn, and those that pycocotools trusts."""
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from cyborgs_plugin.datasets.coco_outlines import encode_outline

SIZE = 64, 48


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40),
              elements=st.integers(0, 1)))
def test_run_lengths_are_those_of_the_mask(mask):
    size = mask.shape
    runs = [(value, len([*run]))
            for value, run in itertools.groupby(mask.T.ravel())]
    counts = [0] * int(runs[0][0]) + [length for _, length in runs]
    text = coco_mask.encode(np.asfortranarray(mask))['counts']
    for given_as in (counts, text, text.decode()):
        found = encode_outline(dict(counts=given_as, size=list(size)), size)
        assert (coco_mask.decode(found) == mask).all()


def test_long_run_lengths_in_text():
    mask = np.zeros((3000, 2000), dtype=np.uint8, order='F')
    mask[100:200, 500:1900] = 1
    text = coco_mask.encode(mask)['counts']
    found = encode_outline(dict(counts=text, size=[3000, 2000]), (3000, 2000))
    assert (coco_mask.decode(found) == mask).all()


@pytest.mark.parametrize('counts, said', [
    ([10, 5], 'of 15 pixels together: expected 3072'), ([], 'of 0 pixels'),
    ('', 'of 0 pixels'), ('ooooo', 'end in a number'),
    ('zzzzzzzz', "none of COCO's"),
    ('o' * 10**6, "none of COCO's"), ('!', "none of COCO's"),
    ([-10, 3082], 'from 0 to 3072'), ([2**32, 3072], 'from 0 to 3072'),
    ([3072.5], 'whole numbers'), ([True, 3071], 'whole numbers'),
    (None, 'whole numbers')])
def test_run_lengths_that_do_not_fill_the_image(counts, said):
    with pytest.raises(ValueError, match=said) as refused:
        encode_outline(dict(counts=counts, size=list(SIZE)), SIZE)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize('value', [
    float('nan'), float('inf'), -float('inf'), 1e9, -1e9, 1e18, 10**400])
@pytest.mark.parametrize('place', [0, 3])
def test_coordinates_that_are_no_places(value, place):
    part = [1, 1, 30, 1, 30, 40]
    part[place] = value
    with pytest.raises(ValueError, match='the coordinate [xy]'):
        encode_outline([part], SIZE)


def test_an_outline_without_end():
    zigzag = [[0, 0, 9000, 9000]] * 1000
    with pytest.raises(ValueError, match='more than 10000000'):
        encode_outline([sum(zigzag, [])], (9000, 9000))


def test_a_slight_overhang_is_cut_off():
    found = encode_outline([[-3, -3, 51, -3, 51, 66, -3, 66]], SIZE)
    assert coco_mask.area(found) == 64 * 48
