"""What the recipes' pipelines say, as laws."""
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cyborgs_plugin.datasets.view_laws import (
    colour_law,
    decoded_side,
    laws_of,
    source_side,
    view_law,
)
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.ops.view_draws import ViewLaw

from ..helpers import RECIPE, ROOT, TOY

BYOL = f'{ROOT}/configs/baselines/byol_r18_coco-mini.py'


def laws_in(path):
    init_default_scope('mmpretrain')
    pipeline = Config.fromfile(path).train_dataloader.dataset.pipeline
    return laws_of(Compose(pipeline).transforms)


def test_laws_of_the_recipe():
    shared = dict(
        size=(224, 224), area=(0.08, 1.), aspect=(3 / 4, 4 / 3), attempts=10,
        flip=0.5, jitter=0.8, brightness=(0.6, 1.4), contrast=(0.6, 1.4),
        saturation=(0.8, 1.2), hue=(-0.1, 0.1), grey=0.2,
        grey_weights=(0.114, 0.587, 0.2989), sigma=(0.1, 2.), threshold=128.)
    first, second = laws_in(RECIPE)
    assert first == ViewLaw(blur=1., solarise=0., **shared)
    assert second == ViewLaw(blur=0.1, solarise=0.2, **shared)


def test_laws_of_small_views_and_of_a_baseline():
    laws = laws_in(TOY)
    assert [law.size for law in laws] == [(96, 96)] * 2
    assert {law.area for law in laws} == {(0.2, 1.)}
    assert {law.sigma for law in laws} == {(0.1, 0.9)}
    assert laws_in(BYOL) == laws


def test_photographs_are_kept_at_twice_what_the_smallest_crop_needs():
    assert source_side(laws_in(TOY)) == 430  # 2 * 96 / sqrt(0.2)
    assert source_side(laws_in(RECIPE)) == 1584


CROP = dict(type='RandomResizedCrop', scale=8, interpolation='bicubic',
            backend='pillow')
JITTER = dict(type='ColorJitter', hue=0.1)


def law_of(*steps):
    init_default_scope('mmpretrain')
    return view_law(Compose(list(steps)).transforms)


@pytest.mark.parametrize('steps, words', [
    ([CROP, dict(type='Posterize', bits=4)], 'Posterize'),
    ([dict(CROP, interpolation='nearest')], 'bicubic'),
    ([dict(CROP, backend='cv2')], 'by pillow'),
    ([CROP, dict(type='RandomFlip', prob=0.5, direction='vertical')],
     'horizontal'),
    ([CROP, dict(type='RandomGrayscale')], 'keep_channels'),
    ([CROP, dict(type='Solarize', magnitude_range=(0, 256))], 'thr'),
    ([CROP, dict(type='Solarize', thr=128), JITTER],
     'ColorJitter comes too late'),
    ([CROP, JITTER, JITTER], 'each once'),
    ([JITTER], 'begins with a RandomResizedCrop'),
])
def test_what_the_device_cannot_do_is_refused_by_name(steps, words):
    with pytest.raises(UserError, match=words):
        law_of(*steps)


def test_a_pipeline_of_other_parts_is_refused():
    init_default_scope('mmpretrain')
    with pytest.raises(UserError, match="'RandomFlip'"):
        laws_of(Compose([dict(type='RandomFlip', prob=0.5)]).transforms)


def test_probabilities_multiply():
    law = law_of(
        CROP,
        dict(type='RandomApply', prob=0.5,
             transforms=[dict(type='Solarize', thr=9, prob=0.5)]),
        dict(type='RandomFlip', prob=0.25))
    assert (law.solarise, law.threshold, law.flip) == (0.25, 9., 0.25)
    assert law_of(CROP, dict(type='GaussianBlur', radius=1.5, prob=1.)
                  ).sigma == (1.5, 1.5)


def test_colours_alone():
    init_default_scope('mmpretrain')
    view = Config.fromfile(TOY).train_dataloader.dataset.pipeline[
        1].transforms[1]
    assert colour_law(view[2:]) == dict(
        jitter=0.8, brightness=(0.6, 1.4), contrast=(0.6, 1.4),
        saturation=(0.8, 1.2), hue=(-0.1, 0.1), grey=0.2, blur=0.1,
        sigma=(0.1, 0.9), solarise=0.2)
    assert colour_law([]) == {}
    with pytest.raises(UserError, match='RandomFlip'):
        colour_law(view[1:])


def test_photographs_are_decoded_for_their_smallest_crop():
    init_default_scope('mmpretrain')

    def side(*steps):
        return decoded_side(Compose(list(steps)).transforms)

    assert side(*Config.fromfile(TOY).train_pipeline) == 430
    assert side(*Config.fromfile(RECIPE).train_pipeline) == 1584
    load, pack = dict(type='LoadSceneImage'), dict(type='PackInputs')
    small = dict(CROP, scale=(8, 4), crop_ratio_range=(0.25, 1.))

    def views(*firsts):
        return dict(type='MultiView', num_views=[1] * len(firsts),
                    transforms=[[first] for first in firsts])

    assert side(load, views(small, dict(small, scale=6)), pack) == 32
    flip = dict(type='RandomFlip', prob=0.5)
    for steps in ([load, small, pack], [load, flip, views(small)],
                  [load, views(small, flip)], [load], [],
                  [load, views(dict(small, crop_ratio_range=(0., 1.)))]):
        assert side(*steps) is None
