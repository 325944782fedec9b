"""MaskQuality against a naive version that follows its description."""
import itertools
import math

import numpy as np
import pytest
from mmpretrain.registry import METRICS

from cyborgs_plugin.datasets.mask_arrays import MaskBankWriter
from cyborgs_plugin.datasets.mask_bank import publish_round
from cyborgs_plugin.evaluation import CocoTruth, color_kmeans, mask_quality

from ..annotations import SIZE


def naive_boundary(ids):
    height, width = ids.shape
    found = []
    for y, x in itertools.product(range(height), range(width)):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                if ids[y + dy, x + dx] != ids[y, x]:
                    found.append((y, x))
                    break
    return found


def naive_scores(maps, truth, min_area, tolerance):
    """Pixel by pixel, pair by pair."""
    overlaps, areas = [], []
    ari, over, under, boundary = [], [], [], []
    for name, label_map in maps.items():
        height, width = truth.size(name)
        ids = np.array([[
            label_map[y * label_map.shape[0] // height,
                      x * label_map.shape[1] // width]
            for x in range(width)
        ] for y in range(height)])
        found = truth.instances(name)
        for mask, area, crowd in zip(found.masks, found.areas, found.crowd):
            pixels = set(zip(*mask.nonzero()))
            if crowd or len(pixels) < min_area:
                continue
            best = 0
            for region in np.unique(ids):
                other = set(zip(*(ids == region).nonzero()))
                best = max(best, len(pixels & other) / len(pixels | other))
            overlaps.append(best)
            areas.append(area)

        segments = truth.segments(name)
        pairs = [(int(segments[y, x]), int(ids[y, x]))
                 for y in range(height) for x in range(width)
                 if segments[y, x] > 0]
        if len({s for s, _ in pairs}) < 2:
            continue
        s, r = np.array(pairs).T
        same_s, same_r = s[:, None] == s, r[:, None] == r
        upper = np.triu(np.ones_like(same_s), 1)
        both, in_s, in_r = ((m & upper).sum()
                            for m in (same_s & same_r, same_s, same_r))
        chance = in_s * in_r / upper.sum()
        ari.append((both - chance) / ((in_s + in_r) / 2 - chance))

        def entropy(labels):
            values = [labels.count(v) / len(labels) for v in set(labels)]
            return -sum(p * math.log2(p) for p in values)

        joint = entropy(pairs)
        over.append(joint - entropy([a for a, _ in pairs]))
        under.append(joint - entropy([b for _, b in pairs]))

        reach = tolerance * math.hypot(height, width)
        mine, theirs = naive_boundary(ids), naive_boundary(segments)

        def near(point, others, reach=reach):
            return any(math.dist(point, other) <= reach for other in others)

        right = [near(point, theirs) for point in mine]
        counted = [hit for hit, point in zip(right, mine)
                   if hit or segments[point] > 0]
        precision = sum(counted) / len(counted) if counted else 0
        recall = sum(near(p, mine) for p in theirs) / len(theirs)
        boundary.append(0 if precision + recall == 0 else
                        2 * precision * recall / (precision + recall))
    scores = {'mBO': overlaps, 'ARI': ari, 'over_segmentation': over,
              'under_segmentation': under, 'boundary_F': boundary}
    for size, low, high in (('small', 0, 1024), ('medium', 1024, 9216)):
        part = [o for o, a in zip(overlaps, areas) if low <= a < high]
        if part:
            scores[f'mBO_{size}'] = part
    return {f'masks/{k}': np.mean(v) for k, v in scores.items()}


def build(annotated, panoptic, **extra):
    return METRICS.build(dict(
        type='MaskQuality', ann_file=str(annotated), **extra,
        panoptic_file=str(annotated.parent / 'panoptic_val2017.json')
        if panoptic else None))


@pytest.mark.parametrize('panoptic', [False, True])
@pytest.mark.parametrize('shape', [(5, 6), SIZE, (7, 9)])
def test_equals_the_naive_version(annotated, panoptic, shape):
    random = np.random.default_rng(1)
    metric = build(annotated, panoptic, min_area=30, tolerance=0.03)
    maps = {name: random.integers(0, 4, shape)
            for name in metric.truth.names}
    if shape == SIZE:  # smooth regions with gaps in the ids
        maps = {name: color_kmeans(np.kron(
            random.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))), 5) * 3
            for name in maps}
    found = metric.evaluate_maps(iter(maps.items()), len(maps))
    expected = naive_scores(maps, metric.truth, 30, 0.03)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert found['masks/images'] == len(maps)
    assert found['masks/regions'] == np.mean(
        [len(np.unique(m)) for m in maps.values()])
    assert set(found) == {*expected, 'masks/images', 'masks/regions',
                          'masks/objects'}


def test_the_truth_itself_is_perfect(annotated):
    metric = build(annotated, False, prefix='m')
    maps = {name: metric.truth.segments(name)
            for name in metric.truth.names}
    scores = metric.evaluate_maps(iter(maps.items()), len(maps))
    assert scores['m/ARI'] == 1 and scores['m/boundary_F'] == 1
    assert scores['m/over_segmentation'] == pytest.approx(0, abs=1e-9)
    assert scores['m/under_segmentation'] == pytest.approx(0, abs=1e-9)
    # one region, on the other hand
    maps = {name: np.zeros((1, 1), int) for name in maps}
    scores = metric.evaluate_maps(iter(maps.items()), len(maps))
    assert scores['m/ARI'] == 0 and scores['m/boundary_F'] == 0
    assert scores['m/over_segmentation'] == pytest.approx(0, abs=1e-9)
    assert scores['m/under_segmentation'] > 1


def test_specks_and_crowds_are_no_objects(annotated):
    truth = CocoTruth(str(annotated))
    large = sum(
        int((~found.crowd & (found.masks.sum((1, 2)) >= 100)).sum())
        for found in map(truth.instances, truth.names))
    every = sum(
        int((~truth.instances(name).crowd).sum()) for name in truth.names)
    maps = [(name, np.zeros((1, 1), int)) for name in truth.names]
    assert build(annotated, False).evaluate_maps(
        iter(maps), 4)['masks/objects'] == large < every
    assert build(annotated, False, min_area=1).evaluate_maps(
        iter(maps), 4)['masks/objects'] == every


def write_bank(root, keys):
    writer = MaskBankWriter(str(root), 0)
    for index, key in enumerate(keys):
        writer.add(index, key, np.arange(30).reshape(5, 6) + index)
    writer.close()
    return publish_round(str(root), 0, len(keys), {})


def test_bank(annotated, tmp_path):
    keys = ['unlabeled/7.png', 'val/0.png', 'val/2.png', 'val/3.png']
    bank = write_bank(tmp_path / 'masks', keys)
    metric = build(annotated, False, key_prefix='val/')
    scores = metric.evaluate_bank(bank)
    assert scores['masks/images'] == 3
    maps = {key: bank.label_map(key) for key in keys[1:]}
    assert scores == metric.evaluate_maps(iter(maps.items()), 3)
    few = build(annotated, False, key_prefix='val/', max_images=2)
    assert few.keys() == ['val/0.png', 'val/3.png']
    assert few.evaluate_bank(bank)['masks/images'] == 2


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(mask_quality, 'print_log',
                        lambda text, **_: lines.append(text))
    return lines


def test_names_are_matched_as_in_training(annotated, tmp_path, logged):
    keys = ['val/0.png', 'val/1.png', 'val/2.png', 'val/3.png']
    bank = write_bank(tmp_path / 'masks', keys)
    expected = build(annotated, False, key_prefix='val/').evaluate_bank(bank)
    text = annotated.read_text()
    annotated.write_text(text.replace('"0.png"', r'".\\0.PNG"').replace(
        '"2.png"', '"/home/me/2.png"'))
    metric = build(annotated, False, key_prefix='val/')
    assert '.\\0.PNG' in metric.truth.names
    assert metric.evaluate_bank(bank) == expected
    assert metric.known_keys(keys, 'masks') == keys and logged == []


def test_images_without_masks_are_told(annotated, tmp_path, logged):
    bank = write_bank(tmp_path / 'masks', ['val/0.png', 'val/2.png'])
    metric = build(annotated, False, key_prefix='val/')
    assert metric.evaluate_bank(bank)['masks/images'] == 2
    line, = logged
    assert "no masks of 2 of 4 images" in line and "['1.png', '3.png']" in line


def test_mistakes(annotated, tmp_path):
    bank = write_bank(tmp_path / 'masks', ['train/0.png'])
    with pytest.raises(ValueError, match=r"'train/0.png'.*'0.png'"):
        build(annotated, False).evaluate_bank(bank)
    with pytest.raises(ValueError, match='no annotations of .9.png'):
        build(annotated, False).process(
            {}, [dict(key='9.png', label_map=np.zeros((2, 2), int))])
    with pytest.raises(ValueError, match='min_area'):
        build(annotated, False, min_area=0)


def test_color_kmeans_finds_flat_patches():
    patches = np.zeros((20, 24, 3), np.uint8)
    patches[:, 12:] = 200
    ids = color_kmeans(patches, 2)
    assert (ids[:, :12] == ids[0, 0]).all()
    assert (ids[:, 12:] == ids[0, -1]).all() and ids[0, 0] != ids[0, -1]


@pytest.fixture
def warnings(monkeypatch):
    """What the metric has logged."""
    logged = []
    monkeypatch.setattr(mask_quality, 'print_log',
                        lambda text, **_: logged.append(text))
    return logged


@pytest.mark.parametrize('shape', [(5, 6), SIZE, (10, 12)])
def test_images_that_lie_in_the_json_are_left_out(annotated, warnings, shape):
    """As of photographs with an EXIF rotation, or swapped sizes."""
    random = np.random.default_rng(0)
    metric = build(annotated, False)
    maps = {name: random.integers(0, 4, shape) for name in metric.truth.names}
    upright = [*maps.items()][1:]
    expected = metric.evaluate_maps(iter(upright), 3)
    assert not warnings
    maps['0.png'] = maps['0.png'].T
    assert metric.evaluate_maps(iter(maps.items()), 4) == expected
    assert expected['masks/images'] == 3
    assert len(warnings) == 1
    assert "1 of 4 images, such as ['0.png']" in warnings[0]
    assert 'EXIF' in warnings[0] and str(annotated) in warnings[0]
    # what was left out once is not told again
    assert metric.evaluate_maps(iter(upright), 3) == expected
    assert len(warnings) == 1
    lying = {name: ids.T if name != '0.png' else ids
             for name, ids in maps.items()}
    with pytest.raises(ValueError, match='4 of 4 images.*EXIF'):
        metric.evaluate_maps(iter(lying.items()), 4)
    assert metric.evaluate_maps(iter(upright), 3) == expected


def test_rectangles_that_are_the_same_for_all_images_lie_nowhere(annotated):
    metric = build(annotated, False)
    grid = np.arange(24).reshape(8, 3)
    assert metric.evaluate_maps(
        iter([('0.png', grid)]), 1)['masks/images'] == 1
