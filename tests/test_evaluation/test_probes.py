"""Frozen probes: exact parts against naive ones, the rest on easy data."""
import cv2
import numpy as np
import pytest
import torch
from mmpretrain.models import SelfSupDataPreprocessor
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation import CocoTruth, frozen_features, probes
from cyborgs_plugin.evaluation.frozen_features import collect
from cyborgs_plugin.evaluation.probes import (
    FrozenFeatures,
    ProbeImages,
    cell_classes,
    classify_images,
    classify_regions,
    fit_linear,
    pool_masks,
    run_probes,
    segment_linearly,
    segmentation_scores,
)

from ..annotations import SIZE


class Stages(nn.Module):
    """Two stages that tell the colours and their double, at 8 and 16."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        x = x * self.weight
        return (nn.functional.avg_pool2d(x, 8, ceil_mode=True),
                2 * nn.functional.avg_pool2d(x, 16, ceil_mode=True))


def test_features_fuse_stages_on_the_grid():
    image = np.random.default_rng(0).integers(
        0, 256, (32, 48, 3), dtype=np.uint8)
    features = FrozenFeatures(
        Stages().train(),
        SelfSupDataPreprocessor((1, 2, 3), (2, 4, 8), to_rgb=True),
        grid_stride=16)
    assert not features.backbone.training
    dense, whole = features(image)
    rgb = (image[..., ::-1] - np.array([1, 2, 3])) / np.array([2, 4, 8])
    cells = rgb.reshape(2, 16, 3, 16, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.allclose(dense, np.concatenate([cells, 2 * cells]), atol=1e-4)
    assert np.allclose(whole, 2 * rgb.mean((0, 1)), atol=1e-4)
    half = FrozenFeatures(Stages(), grid_stride=8, long_side=24)
    assert half(image)[0].shape == (6, 2, 3)


def test_pool_masks_weighs_cells_by_coverage():
    random = np.random.default_rng(0)
    features = random.normal(size=(3, 4, 5)).astype(np.float32)
    masks = random.random((6, 32, 40)) < 0.1
    masks[0] = False
    masks[0, 9, 17] = True  # one pixel: the feature of its cell
    pooled = pool_masks(features, masks)
    assert np.allclose(pooled[0], features[:, 1, 2], atol=1e-6)
    large = features.repeat(8, 1).repeat(8, 2)
    for mask, vector in zip(masks, pooled):
        assert np.allclose(vector, large[:, mask].mean(1), atol=1e-5)
    with pytest.raises(ValueError, match='empty'):
        pool_masks(features, np.zeros((1, 8, 8), bool))


def test_cell_classes_is_the_most_frequent():
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, (21, 30), dtype=np.uint8)
    classes[random.random(classes.shape) < 0.3] = 255
    cells = cell_classes(classes, (3, 5))
    for y in range(3):
        for x in range(5):
            count = np.bincount(
                classes[7 * y:7 * y + 7, 6 * x:6 * x + 6].reshape(-1),
                minlength=256)
            assert cells[y, x] == count.argmax()


def test_segmentation_scores():
    truth = np.array([0, 0, 0, 1, 1, 2])
    found = np.array([0, 0, 1, 1, 3, 2])
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (truth, found), 1)
    scores = segmentation_scores(confusion)
    assert scores['mIoU'] == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert scores['pixel_accuracy'] == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match='labelled'):
        segmentation_scores(np.zeros((2, 2), int))


def separable(random, count, scale=1.):
    labels = random.integers(0, 4, count)
    return (4 * np.eye(4)[labels] + scale * random.normal(size=(count, 4))
            ).astype(np.float32), labels


def test_regions_are_told_apart_or_not():
    random = np.random.default_rng(0)
    features, labels = separable(random, 300, 0.5)
    images = np.arange(300) // 3
    scores = classify_regions((features[:200], labels[:200], images[:200]),
                              (features[200:], labels[200:]))
    assert scores['accuracy'] > 0.98 < scores['balanced_accuracy']
    noise = random.normal(size=features.shape).astype(np.float32)
    scores = classify_regions((noise[:200], labels[:200], images[:200]),
                              (noise[200:], labels[200:]))
    assert scores['accuracy'] < 0.45
    majority = np.bincount(labels[:200]).argmax()
    assert scores['majority'] == np.mean(labels[200:] == majority)


def test_regularisation_is_chosen_on_other_images():
    """Most features tell the image: a trap unless images stay together."""
    random = np.random.default_rng(0)
    images = np.repeat(np.arange(40), 10)
    labels = random.integers(0, 2, 40)[images]
    names = random.normal(size=(40, 30))[images]
    hint = labels[:, None] * 2 + random.normal(size=(400, 1))
    features = np.hstack([names, hint]).astype(np.float32)
    costs = (1e-3, 1e3)
    found = fit_linear(features, labels, images, costs=costs)
    assert found['logisticregression'].C == 1e-3
    # each row an image of its own: as if images were torn apart
    found = fit_linear(features, labels, np.arange(400), costs=costs)
    assert found['logisticregression'].C == 1e3


def test_regularisation_is_the_best_on_average_over_splits():
    """One split of few noisy samples chooses by chance, several do not."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=120)
    features = random.normal(size=(120, 60)).astype(np.float32)
    features[np.arange(120), labels] += 1
    images = np.arange(120) // 3
    costs = (1e-3, 1e-1, 1e1)

    def chosen(num_splits, num_seeds):
        return {
            fit_linear(features, labels, images, costs, seed,
                       num_splits)[-1].C for seed in range(num_seeds)
        }

    assert len(chosen(1, num_seeds=6)) > 1
    found = chosen(20, num_seeds=2)
    assert len(found) == 1
    splits = GroupShuffleSplit(20, test_size=0.2, random_state=0)
    scores = {
        cost: np.mean([
            np.mean(
                make_pipeline(StandardScaler(), LogisticRegression(C=cost)).
                fit(features[learn], labels[learn]).predict(features[held])
                == labels[held])
            for learn, held in splits.split(features, labels, images)
        ]) for cost in costs
    }
    assert found == {max(scores, key=scores.__getitem__)}


def test_too_little_to_learn_from():
    with pytest.raises(ValueError, match='got 1 and 5'):
        fit_linear(np.zeros((5, 2)), np.zeros(5, int), np.arange(5))
    with pytest.raises(ValueError, match='NaN'):
        fit_linear(np.full((6, 2), np.nan), np.arange(6) % 2, np.arange(6))


def test_locations_are_told_apart_and_scored_on_pixels():
    random = np.random.default_rng(0)

    def images(count):
        for _ in range(count):
            cells = random.integers(0, 3, (4, 5))
            feature = 4 * np.eye(4)[cells] + random.normal(size=(4, 5, 4))
            pixels = cells.astype(np.uint8).repeat(16, 0).repeat(16, 1)
            pixels[:5] = 255
            yield feature.transpose(2, 0, 1).astype(np.float32), pixels

    scores = segment_linearly(images(30), images(10), 4)
    assert 0.7 < scores['mIoU'] < 1  # bilinear enlargement blurs edges
    thinned = segment_linearly(images(30), images(10), 4, max_locations=200)
    assert 0.5 < thinned['mIoU'] < 1


def test_image_labels():
    random = np.random.default_rng(0)
    presence = random.random((90, 4)) < 0.4
    presence[:, 3] = False
    presence[:3, 3] = True  # too few to count
    features = (presence + 0.2 * random.normal(size=presence.shape)
                ).astype(np.float32)
    train, val = ((features[part], presence[part])
                  for part in (slice(60), slice(60, 90)))
    scores = classify_images(train, val)
    assert scores['mAP'] > 0.95 and scores['num_classes'] == 3
    assert scores['chance'] == pytest.approx(val[1][:, :3].mean())
    one = classify_images((train[0], train[1][:, :1]),
                          (val[0], val[1][:, :1]))
    assert one['mAP'] > 0.95
    with pytest.raises(ValueError, match='min_positive'):
        classify_images(train, val, min_positive=80)


@pytest.fixture
def pictures(annotated):
    """Eight copies of the four images, painted by class."""
    import json
    content = json.loads(annotated.read_text())
    images, annotations = [], []
    truth = CocoTruth(str(annotated))
    for copy in range(3):
        for image in content['images']:
            name = f'{copy}-{image["file_name"]}'
            image_id = image['id'] + 100 * copy
            images.append(dict(image, file_name=name, id=image_id))
            annotations += [
                dict(a, image_id=image_id, id=1000 * copy + a['id'])
                for a in content['annotations']
                if a['image_id'] == image['id']
            ]
            classes = truth.semantic(image['file_name'])
            colours = np.array([[40, 90, 160], [200, 60, 20], [90, 200, 90]])
            picture = colours[np.minimum(classes, 2)].astype(np.uint8)
            cv2.imwrite(str(annotated.parent / name), picture)
    annotated.write_text(json.dumps(dict(
        content, images=images, annotations=annotations)))
    return annotated


def test_all_probes_on_pictures(pictures, monkeypatch):
    truth = CocoTruth(str(pictures))
    side = ProbeImages(str(pictures.parent), truth, truth)
    logged = []
    monkeypatch.setattr(probes, 'print_log',
                        lambda text, **_: logged.append(text))
    # every image holds both classes: nothing to tell apart
    scores = run_probes(FrozenFeatures(Stages(), grid_stride=8), side, side)
    assert set(scores) == {'regions', 'segments'}
    assert logged == [
        'No scores of images: No class tells the images apart. Each must be '
        'in min_positive=5 images of both sets at least, and not in all of '
        'one, but of 12 and 12 images found animal in 12 and 12, thing in 12 '
        'and 12: give more images, or others'
    ]


class Diverged(Stages):

    def forward(self, x):
        return tuple(stage * float('nan') for stage in super().forward(x))


def test_no_probe_is_left(pictures):
    truth = CocoTruth(str(pictures))
    side = ProbeImages(str(pictures.parent), truth, truth)
    with pytest.raises(
            UserError, match='regions.*diverged.*segments.*images.*diverged'):
        run_probes(FrozenFeatures(Diverged(), grid_stride=8), side, side)


@pytest.mark.parametrize('give', [
    lambda stages: tuple(stage.flatten(2) for stage in stages),
    lambda stages: tuple([stage] for stage in stages),
    lambda stages: stages[0], lambda stages: ()
])
def test_what_gives_no_maps_is_refused(give):

    class Odd(Stages):

        def forward(self, x):
            return give(super().forward(x))

    with pytest.raises(UserError, match=r'Odd gives .*\(B, C, H, W\)'):
        FrozenFeatures(Odd())(np.zeros((32, 32, 3), np.uint8))


def test_broken_pictures_are_left_out_by_name(pictures, monkeypatch):
    import os
    logged = []
    monkeypatch.setattr(frozen_features, 'print_log',
                        lambda text, **_: logged.append(text))
    (pictures.parent / '0-1.png').write_bytes(b'no image')
    (pictures.parent / '1-2.png').unlink()
    os.mkfifo(pictures.parent / '1-2.png')  # which would be waited for
    truth = CocoTruth(str(pictures))
    side = ProbeImages(str(pictures.parent), truth, truth)
    features = FrozenFeatures(Stages(), grid_stride=8)
    assert len(collect(features, side, 100, None).images[0]) == 10
    assert len(logged) == 1
    assert '2 of 12 images' in logged[0] and str(pictures) in logged[0]
    assert '0-1.png' in logged[0] and '1-2.png' in logged[0]
    with pytest.raises(UserError, match='12 of 12 images.*0-0.png'):
        collect(features, side._replace(root='nowhere'), 100, None)


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def collected(path):
    truth = CocoTruth(str(path))
    return collect(
        FrozenFeatures(Stages(), grid_stride=8),
        ProbeImages(str(path.parent), truth, truth), 30, None)


def test_names_in_the_json_are_matched_with_the_files(pictures):
    expected = collected(pictures)
    edited(pictures, '"0-1.png"', r'".\\0-1.PNG"')
    edited(pictures, '"1-2.png"', '"/home/me/1-2.png"')
    found = collected(pictures)
    np.testing.assert_array_equal(found.images[0], expected.images[0])
    np.testing.assert_array_equal(found.regions[0], expected.regions[0])


def test_pictures_of_other_proportions_are_left_out(pictures, monkeypatch):
    logged = []
    monkeypatch.setattr(frozen_features, 'print_log',
                        lambda text, **_: logged.append(text))
    for name, size in ('0-1.png', (96, 80)), ('1-2.png', (48, 30)):
        path = str(pictures.parent / name)
        cv2.imwrite(path, cv2.resize(cv2.imread(path), size))
    assert len(collected(pictures).images[0]) == 11  # twice as large: used
    line, = logged
    assert '1 of 12 images' in line
    assert '1-2.png ((40, 48), but its file (30, 48))' in line


def test_both_sides_choose_their_classes_together(pictures):
    """Where all objects of one are of one supercategory, and not of both."""
    import json
    content = json.loads(pictures.read_text())
    first = min(image['id'] for image in content['images'])
    content['annotations'] = [
        a for a in content['annotations']
        if a['category_id'] != 3 or a['image_id'] != first
    ]
    pictures.write_text(json.dumps(content))
    things = pictures.parent / 'things_val2017.json'
    content['annotations'] = [
        a for a in content['annotations'] if a['category_id'] != 3]
    things.write_text(json.dumps(content))
    train, val = (CocoTruth(str(path)) for path in (things, pictures))
    assert train.classes != val.classes
    assert train.beside(val).classes == val.beside(train).classes == [
        'animal', 'thing']
    assert train.classes == ['cat', 'dog', 'box']  # is left as it was
    sides = [ProbeImages(str(pictures.parent), truth, truth)
             for truth in (train, val)]
    features = FrozenFeatures(Stages(), grid_stride=8)
    assert 'segments' in run_probes(features, *sides, min_area=30)


def test_all_probes_with_images_that_differ(pictures):
    import json
    content = json.loads(pictures.read_text())
    bare = {image['id'] for image in content['images'][:6]}
    content['annotations'] = [
        a for a in content['annotations']
        if a['image_id'] not in bare or a['category_id'] != 3
    ]
    pictures.write_text(json.dumps(content))
    truth = CocoTruth(str(pictures))
    side = ProbeImages(str(pictures.parent), truth, truth)
    scores = run_probes(
        FrozenFeatures(Stages(), grid_stride=8), side, side, min_area=30)
    assert scores['regions']['accuracy'] > 0.9
    assert scores['segments']['mIoU'] > 0.5
    assert scores['images']['mAP'] > 0.6
    other = json.loads(pictures.read_text())
    other['categories'][0]['supercategory'] = 'plant'
    path = pictures.parent / 'other_val2017.json'
    path.write_text(json.dumps(other))
    odd = CocoTruth(str(path))
    with pytest.raises(ValueError, match='same classes'):
        run_probes(FrozenFeatures(Stages()), side,
                   ProbeImages(side.root, odd, odd))
    assert SIZE == truth.size(truth.names[0])


def test_images_that_lie_in_the_json_are_left_out(pictures, monkeypatch):
    """The scores are those without them, and a warning says so."""
    import json
    content = json.loads(pictures.read_text())
    bare = {image['id'] for image in content['images'][:6]}
    content['annotations'] = [
        a for a in content['annotations']
        if a['image_id'] not in bare or a['category_id'] != 3
    ]
    for image in content['images'][5:7]:
        path = str(pictures.parent / image['file_name'])
        cv2.imwrite(path, cv2.imread(path).transpose(1, 0, 2))
    lying = {image['id'] for image in content['images'][5:7]}

    def scores(images):
        pictures.write_text(json.dumps(dict(content, images=images)))
        truth = CocoTruth(str(pictures))
        side = ProbeImages(str(pictures.parent), truth, truth)
        return run_probes(FrozenFeatures(Stages(), grid_stride=8), side, side,
                          min_area=30)

    expected = scores([i for i in content['images'] if i['id'] not in lying])
    logged = []
    monkeypatch.setattr(frozen_features, 'print_log',
                        lambda text, **_: logged.append(text))
    assert scores(content['images']) == expected
    assert len(logged) == 2  # of either side
    name = content['images'][5]['file_name']
    assert f'2 of {len(content["images"])} images' in logged[0]
    assert name in logged[0] and 'EXIF' in logged[0]
    with pytest.raises(ValueError, match=r'2 of 2 images.*EXIF'):
        scores([i for i in content['images'] if i['id'] in lying])
