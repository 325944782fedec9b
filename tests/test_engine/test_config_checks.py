"""Schedules against the length of a run."""
import glob
import os.path as osp

import pytest
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR

from cyborgs_plugin.engine.config_checks import (
    check_mask_interval,
    check_numbers,
    check_schedule,
)
from cyborgs_plugin.errors import UserError

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
FILES = sorted(
    osp.relpath(path, ROOT)
    for path in glob.glob(
        osp.join(ROOT, 'configs', '**', '*.py'), recursive=True))
RECIPES = [
    name for name in FILES if '_base_' not in name and (
        'transfer' not in name or 'toy' in name or 'linear' in name)
]


@pytest.mark.parametrize('name', FILES)
def test_shipped_configs_fit(name):
    lines = check_schedule(Config.fromfile(osp.join(ROOT, name)))
    if 'yolox' in name and 'transfer' in name:
        line, = lines  # of mmdet's own recipe, which is left as it is
        assert 'T_max=285' in line
    else:
        assert lines == []


@pytest.mark.parametrize('name', RECIPES)
def test_masks_that_are_never_renewed_are_told_of(name):
    cfg = Config.fromfile(osp.join(ROOT, name))
    assert check_mask_interval(cfg) == []
    hook = cfg.default_hooks.get('mask_update') or {}
    interval = hook.get('interval', -1)
    if interval > 0:
        cfg.train_cfg.max_epochs = interval + 1  # an epoch with the next ones
        assert check_mask_interval(cfg) == []
    for epochs in {2, interval} - {1, -1}:
        cfg.train_cfg.max_epochs = epochs
        found = check_mask_interval(cfg)
        assert len(found) == (interval > 0)
        for line in found:
            assert f'mask_update.interval={interval}: the ' in line
            assert f'train_cfg.max_epochs is {epochs}' in line


def test_the_first_update_may_be_set():
    hook = dict(interval=100, start=3)
    cfg = Config(dict(train_cfg=dict(max_epochs=4),
                      default_hooks=dict(mask_update=hook)))
    assert check_mask_interval(cfg) == []
    hook['start'] = 4
    line, = check_mask_interval(
        Config(dict(train_cfg=dict(max_epochs=4),
                    default_hooks=dict(mask_update=hook))))
    assert 'mask_update.start=4' in line


@pytest.mark.parametrize('key, value', [
    ('train_cfg.max_epochs', 0), ('train_cfg.max_epochs', -3),
    ('train_cfg.max_epochs', 2.5), ('train_dataloader.batch_size', 0),
    ('train_dataloader.num_workers', -1), ('val_dataloader.batch_size', 'a'),
    ('model.neck.grid_stride', 0), ('optim_wrapper.optimizer.lr', -1),
    ('optim_wrapper.optimizer.lr', 'abc')])
def test_numbers_that_cannot_be(key, value):
    cfg = Config(dict(model=dict(), train_cfg=dict(max_epochs=3)))
    check_numbers(cfg)
    cfg.merge_from_dict({key: value})
    with pytest.raises(UserError, match=f'^{key} must be .*{value}'):
        check_numbers(cfg)


@pytest.mark.parametrize('name', FILES)
def test_numbers_of_shipped_configs(name):
    check_numbers(Config.fromfile(osp.join(ROOT, name)))


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_follow_another_length(name):
    """What is left to say is that a warm-up takes the whole of a short run."""
    cfg = Config.fromfile(osp.join(ROOT, name))
    warm_up = cfg.param_scheduler[0]
    for epochs in (1, 2, 4, 22, 1000):
        cfg.train_cfg.max_epochs = epochs
        found = check_schedule(cfg)
        if (warm_up.type == 'LinearLR' and warm_up.by_epoch
                and warm_up.end >= epochs):
            assert len(found) == 1
            assert f'param_scheduler.0.end={warm_up.end}: the ' in found[0]
            assert f'train_cfg.max_epochs is {epochs}' in found[0]
        else:
            assert found == []


@pytest.mark.parametrize('schedule', [
    [dict(type='LinearLR', start_factor=.1, begin=0, end=3),
     dict(type='CosineAnnealingLR', begin=3, end=25),
     dict(type='ConstantLR', factor=1., begin=25, end=30)],
    [dict(type='mmdet.QuadraticWarmupLR', begin=0, end=5),
     dict(type='CosineAnnealingLR', begin=5, end=None)],
    [dict(type='MultiStepLR', milestones=[20, 27], end=None)],
])
def test_constant_ends_and_open_ends_fit(schedule):
    """As mmdet's YOLOX ends, and where the Runner fills in the end."""
    assert check_schedule(
        Config(
            dict(train_cfg=dict(max_epochs=30),
                 param_scheduler=schedule))) == []


def cosine(**changes):
    return dict(type='CosineAnnealingLR', by_epoch=True, **changes)


def steps(**changes):
    return dict(type='MultiStepLR', by_epoch=True, **changes)


@pytest.mark.parametrize('schedule, epochs, expected', [
    # as adamw_18e.py was: 4 and 22 epochs instead of 18
    ([cosine(begin=2, end=18)], 4, ['param_scheduler.0.end=18', 'to 4']),
    ([cosine(begin=2, end=18)], 22, ['param_scheduler.0.end=18', 'to 22']),
    ([cosine(begin=2)], 2, ['param_scheduler.0.begin=2', 'never', 'below 2']),
    ([cosine(T_max=18)], 4, ['param_scheduler.0.T_max=18', 'to 4']),
    ([cosine(T_max=18)], 22, ['param_scheduler.0.T_max=18', 'to 22']),
    # as lars_800e.py was
    ([steps(milestones=[768, 784])], 2,
     ['param_scheduler.0.milestones=[768, 784]', 'to [1, 1]']),
    ([steps(milestones=[768, 784])], 2000, ['.milestones', 'half']),
    # the reach of mmdet's 12 epochs in 24
    ([steps(end=12, milestones=[8, 11])], 24, ['param_scheduler.0.end=12',
                                               'to 24']),
    ([steps(end=12, milestones=[8, 11])], 36, ['.end=12', 'to [24, 33]']),
    ([dict(type='StepLR', step_size=30)], 20, ['.step_size=30', 'below 20']),
    (cosine(end=18), 4, ['param_scheduler.end=18', 'to 4']),
    ([dict(type=CosineAnnealingLR, end=18)], 4, ['0.end=18', 'to 4']),
    (dict(one=[cosine(end=9)], two=cosine(end=4)), 4,
     ['param_scheduler.one.0.end=9']),
])
def test_names_key_and_value(schedule, epochs, expected):
    cfg = Config(
        dict(train_cfg=dict(max_epochs=epochs), param_scheduler=schedule))
    text = '\n'.join(check_schedule(cfg))
    for part in (*expected, f'train_cfg.max_epochs is {epochs}'):
        assert part in text


@pytest.mark.parametrize('schedule, loop', [
    ([cosine(end=6), cosine(begin=6, end=12)], dict(max_epochs=12)),
    ([dict(type='LinearLR', end=4), cosine(begin=4)], dict(max_epochs=12)),
    ([steps(milestones=[8, 11])], dict(max_epochs=12)),
    # in other units than the loop's
    ([dict(type='LinearLR', by_epoch=False, end=500)], dict(max_epochs=12)),
    ([steps(end=12, milestones=[8])], dict(max_iters=90000)),
    (None, dict(max_epochs=12)),
    ([cosine(end=6)], None),
])
def test_says_nothing_of_what_fits(schedule, loop):
    cfg = Config(dict(train_cfg=loop, param_scheduler=schedule))
    assert check_schedule(cfg) == []


def test_iterations():
    cfg = Config(
        dict(
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=45000),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, end=500),
                dict(
                    type='MultiStepLR',
                    by_epoch=False,
                    end=90000,
                    milestones=[60000, 80000])
            ]))
    found = check_schedule(cfg)
    assert [line.split(':')[0] for line in found] == [
        'param_scheduler.1.end=90000',
        'param_scheduler.1.milestones=[60000, 80000]'
    ]
    assert '[30000, 40000]' in found[1]
