"""The table of a bank's rounds and of the floor."""
import importlib.util
import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from cyborgs_plugin.datasets.mask_arrays import MaskBankWriter
from cyborgs_plugin.datasets.mask_bank import publish_round
from cyborgs_plugin.evaluation import (
    MaskQuality,
    color_kmeans,
)
from cyborgs_plugin.segmentation import SuperpixelMasks

from ..annotations import SIZE

PATH = Path(__file__).parents[2] / 'tools' / 'evaluate_masks.py'


@pytest.fixture
def call(monkeypatch):
    spec = importlib.util.spec_from_file_location('evaluate_masks', PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr('sys.argv', ['x', *map(str, arguments)])
        module.main()

    return run


def write_round(tmp_path, number):
    maps = {f'val2017/{number}.png': np.arange(6).reshape(2, 3)
            for number in range(4)}
    writer = MaskBankWriter(str(tmp_path / 'masks'), number)
    for index, (key, label_map) in enumerate(maps.items()):
        writer.add(index, key, label_map // (number + 1))
    writer.close()
    publish_round(str(tmp_path / 'masks'), number, len(maps), {})
    return maps


def test_rounds(annotated, tmp_path, call, capsys):  # noqa: F811
    for number in range(2):
        maps = write_round(tmp_path, number)
    out = tmp_path / 'scores.json'
    call(tmp_path / 'masks', '--ann', annotated, '--out', out)
    metric = MaskQuality(str(annotated), 'val2017/')
    expected = {
        name.split('/')[-1]: value
        for name, value in metric.evaluate_maps(iter(maps.items()), 4).items()
    }
    scores = json.loads(out.read_text())
    assert scores['round 0'] == expected
    assert scores['round 1']['regions'] == 3
    printed = capsys.readouterr().out
    assert f'| round 0 | 6.000 | {expected["mBO"]:.3f} |' in printed


def test_a_floor_without_its_images_names_the_option(
        annotated, call, tmp_path):  # noqa: F811
    with pytest.raises(SystemExit, match='--data-root .now .*gone'):
        call('--floor', 3, '--ann', annotated, '--data-root',
             tmp_path / 'gone')


def test_floor(annotated, call, tmp_path):  # noqa: F811
    random = np.random.default_rng(0)
    (tmp_path / 'val2017').mkdir()
    images = {}
    for number in range(3):
        image = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / 'val2017' / f'{number}.png'), image)
        images[f'val2017/{number}.png'] = image
    out = tmp_path / 'scores.json'
    panoptic = annotated.parent / 'panoptic_val2017.json'
    call('--floor', 3, '--seeds', 2, '--ann', annotated, '--out', out,
         '--panoptic', panoptic, '--data-root', tmp_path,
         '--superpixels', 'reduction=4')
    metric = MaskQuality(str(annotated), 'val2017/', str(panoptic))
    scores = json.loads(out.read_text())
    assert len(scores) == 3

    def superpixels(image, k, seed, linkage=None):
        source = SuperpixelMasks(dict(type='Felzenszwalb', reduction=4), k,
                                 linkage=linkage)
        return source.label_maps([image], [''], (seed, ))[0]

    for name, cut in (('colour k-means', color_kmeans),
                      ('superpixels, colour and place', superpixels),
                      ('superpixels merged, colour and place',
                       partial(superpixels, linkage='average'))):
        runs = [metric.evaluate_maps(((key, cut(image, 3, seed))
                                      for key, image in images.items()), 3)
                for seed in range(2)]
        found = scores[f'{name}, K=3']
        assert found['mBO'] == np.mean([run['masks/mBO'] for run in runs])
        assert found['ARI'] == np.mean([run['masks/ARI'] for run in runs])


def test_no_object_is_no_table(annotated, call, tmp_path):
    content = json.loads(annotated.read_text())
    content['annotations'] = []
    annotated.write_text(json.dumps(content))
    write_round(tmp_path, 0)
    with pytest.raises(SystemExit, match='has no object of at least 100'):
        call(tmp_path / 'masks', '--ann', annotated)


def test_ids_as_text_and_no_areas(annotated, call, tmp_path):
    write_round(tmp_path, 0)
    scores = []
    for edited in (False, True):
        if edited:
            content = json.loads(annotated.read_text())
            for image in content['images']:
                image['id'] = str(image['id'])
            for annotation in content['annotations']:
                del annotation['area']
            annotated.write_text(json.dumps(content))
        out = tmp_path / f'{edited}.json'
        call(tmp_path / 'masks', '--ann', annotated, '--out', out)
        scores.append(json.loads(out.read_text()))
    assert scores[0] == scores[1]


@pytest.mark.parametrize('arguments, said', [
    ((), 'either a bank or --floor'),
    (('nowhere', ), 'No masks at nowhere'),
    (('--floor', '3', '--superpixels', 'scales=3'),
     '--superpixels: scales is no option of Felzenszwalb'),
    (('nowhere', '--floor', '3'), 'either a bank or --floor')])
def test_mistakes(annotated, call, capsys, arguments, said):  # noqa: F811
    with pytest.raises(SystemExit) as stopped:
        call(*arguments, '--ann', annotated)
    assert said in str(stopped.value) + capsys.readouterr().err
