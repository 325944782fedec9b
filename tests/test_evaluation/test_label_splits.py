"""Label splits: nested, stratified, the same whoever asks."""
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyborgs_plugin.datasets.coco_truth import load_coco
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation.label_splits import (
    count_of,
    frequent_classes,
    nested_order,
    strata_of,
    subset,
    with_classes,
    write_splits,
)


def content(kinds):
    """A json whose images hold the categories of a list of lists."""
    return dict(
        images=[dict(id=10 + number, file_name=f'{number}.png', height=9,
                     width=9) for number in range(len(kinds))],
        categories=[dict(id=number, name=f'c{number}', supercategory='x')
                    for number in range(5)],
        annotations=[
            dict(id=100 * number + place, image_id=10 + number,
                 category_id=kind, iscrowd=0, bbox=[1, 1, 3, 3], area=9,
                 segmentation=[[1, 1, 4, 1, 4, 4, 1, 4]])
            for number, found in enumerate(kinds)
            for place, kind in enumerate(found)
        ])


strata = st.lists(st.integers(0, 4), min_size=1, max_size=60)
images = st.lists(
    st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=20)


@settings(deadline=None)
@given(strata, st.integers(0, 99), st.integers(0, 60))
def test_each_beginning_has_its_share_of_each_stratum(kinds, seed, cut):
    order = nested_order(kinds, seed)
    assert sorted(order) == [*range(len(kinds))]
    assert order == nested_order(kinds, seed)
    totals = Counter(kinds)
    found = Counter(kinds[number] for number in order[:cut])
    for one in totals:
        for other in totals:
            assert abs(found[one] / totals[one] - found[other] / totals[other]
                       ) < 1 / totals[one] + 1 / totals[other] + 1e-9


def test_seeds_draw_other_images():
    orders = {tuple(nested_order([0] * 50, seed)[:5]) for seed in range(10)}
    assert len(orders) > 5


@settings(deadline=None)
@given(images)
def test_the_stratum_is_the_rarest_category(kinds):
    counts = Counter(kind for found in kinds for kind in {*found})
    for found, stratum in zip(kinds, strata_of(content(kinds)), strict=True):
        if not found:
            assert stratum is None
        else:
            assert stratum in found
            assert counts[stratum] == min(counts[kind] for kind in found)


@settings(deadline=None)
@given(images, st.data())
def test_a_part_keeps_the_annotations_of_its_images(kinds, data):
    whole = content(kinds)
    chosen = data.draw(st.sets(st.integers(0, len(kinds) - 1)))
    part = subset(whole, [*chosen])
    assert [image['id'] - 10 for image in part['images']] == sorted(chosen)
    expected = [each for each in whole['annotations']
                if each['image_id'] - 10 in chosen]
    assert part['annotations'] == expected
    assert part['categories'] == whole['categories']


def test_files_are_nested_for_each_seed_and_all_is_the_same(tmp_path):
    whole = content([[number % 3, number % 2] for number in range(40)])
    sizes = write_splits(whole, [5, 10, 50, 100], 3, str(tmp_path))
    read = {
        path.stem: load_coco(str(path))
        for path in tmp_path.iterdir()
    }
    assert sizes == {name: len(part['images']) for name, part in read.items()}
    assert sizes['labels_5_s1'] == 2 and sizes['labels_100'] == 40
    assert read['labels_100']['annotations'] == load_coco(
        str(tmp_path / 'labels_100.json'))['annotations']
    for seed in range(3):
        parts = [{image['id'] for image in read[name]['images']}
                 for name in (f'labels_5_s{seed}', f'labels_10_s{seed}',
                              f'labels_50_s{seed}', 'labels_100')]
        assert parts == sorted(parts, key=len)
        assert all(small < large for small, large in zip(parts, parts[1:]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_splits(whole, [5, 10, 50, 100], 3, str(tmp_path))
    assert before == {
        path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_other_annotations_do_not_replace_files(tmp_path):
    write_splits(content([[0]] * 9), [50], 1, str(tmp_path))
    with pytest.raises(UserError, match='labels_50_s0.json was made from'):
        write_splits(content([[1]] * 9), [50], 1, str(tmp_path))


@pytest.mark.parametrize('share', [0, -1, 101])
def test_shares_are_per_cent(tmp_path, share):
    with pytest.raises(UserError, match='above 0 and up to 100'):
        write_splits(content([[0]]), [share], 1, str(tmp_path))


def test_a_share_is_at_least_one_image():
    assert [count_of(share, 343) for share in (0.1, 1, 10, 100)] == [
        1, 3, 34, 343]


def test_classes_as_one_and_the_most_frequent():
    whole = content([[3, 3, 1], [3, 2], [1]])
    assert frequent_classes(whole, 2) == ['c3', 'c1']
    one = with_classes(whole, None)
    assert one['categories'] == [dict(id=1, name='object')]
    assert [each['category_id'] for each in one['annotations']] == [1] * 6
    two = with_classes(whole, ['c3', 'c1'])
    assert [each['name'] for each in two['categories']] == ['c3', 'c1']
    assert [each['category_id'] for each in two['annotations']] == [
        1, 1, 2, 1, 2]
    json.dumps(two)
    assert whole['annotations'][0]['category_id'] == 3  # as it was
