"""The learning rate of every recipe, for runs of any length."""
import glob
import math
import os.path as osp

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

import cyborgs_plugin.engine  # noqa: F401

from ..helpers import PER_EPOCH, FewZeros, OneWeight
from ..needs import lacking

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))


def recipes():
    """One config of each different schedule that is ours, by its name."""
    found = {}
    # the recipes before what inherits from them
    for path in sorted(
            glob.glob(osp.join(ROOT, 'configs', '**', '*.py'),
                      recursive=True),
            key=lambda path: (path.count('/'), path)):
        name = osp.relpath(path, osp.join(ROOT, 'configs'))
        if '_base_' in name or 'transfer' in name and not any(
                part in name for part in ('toy', 'coco-mini', 'linear')):
            continue  # fragments, and protocols in iterations
        if 'transfer' in name and 'linear' not in name and lacking('ops'):
            continue  # inherits from mmdet or mmseg
        cfg = Config.fromfile(path)
        key = str((cfg.param_scheduler, cfg.optim_wrapper.optimizer.lr,
                   cfg.train_cfg))
        found.setdefault(key, (name, cfg))
    return dict(found.values())


RECIPES = recipes()


def runner(cfg, work_dir, **options):
    """A runner of one parameter with a config's schedule."""
    loader = dict(
        batch_size=1,
        num_workers=0,
        dataset=FewZeros(),
        sampler=dict(type='DefaultSampler', shuffle=False))
    return Runner(
        OneWeight(),
        str(work_dir),
        train_dataloader=loader,
        train_cfg={k: v for k, v in cfg.train_cfg.items()
                   if k != 'val_interval'},
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=cfg.optim_wrapper.optimizer.lr)),
        param_scheduler=cfg.param_scheduler,
        default_scope='mmpretrain',
        experiment_name=f'{work_dir}_{id(cfg)}',
        log_level='ERROR',
        **options)


def rates(run):
    """The rate of each iteration, as mmengine steps the schedulers."""
    run._train_loop = run.build_train_loop(run._train_loop)
    run.optim_wrapper = run.build_optim_wrapper(run.optim_wrapper)
    schedulers = run.build_param_scheduler(run.param_schedulers)
    found = []
    for step in range(1, run.max_iters + 1):
        found.append(run.optim_wrapper.param_groups[0]['lr'])
        run.optim_wrapper.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % PER_EPOCH == 0:
                scheduler.step()
    return found


def test_there_are_all():
    # cyborgs_distill.py stands for cyborgs_small_data.py, whose schedule it
    # shares, and class-agnostic for the fine-tunes
    assert {'cyborgs_coco.py', 'cyborgs_distill.py', 'cyborgs_toy.py',
            'transfer/mask-rcnn_r18_fpn_class-agnostic_toy.py'} <= set(RECIPES)


@pytest.mark.parametrize('name', RECIPES)
@pytest.mark.parametrize('length', [1, 2, 4, 22, None])
def test_rate_ends_with_the_run(name, length, tmp_path):
    cfg = RECIPES[name]
    key = 'max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'
    if key == 'max_iters' and length is not None:
        length *= PER_EPOCH
    cfg = Config(
        dict(cfg, train_cfg=dict(cfg.train_cfg)), filename=cfg.filename)
    if length is not None:
        cfg.train_cfg[key] = length
    found = rates(runner(cfg, tmp_path))
    base, total = cfg.optim_wrapper.optimizer.lr, len(found)
    assert total == cfg.train_cfg[key] * (
        1 if key == 'max_iters' else PER_EPOCH)
    *warm_up, last = cfg.param_scheduler
    expected = [base] * total
    for step in range(total):
        for part in warm_up:
            assert part.type == 'LinearLR' and part.start_factor == 0.01
            steps = part.end * (PER_EPOCH if part.by_epoch else 1)
            expected[step] *= min(1, 0.01 + 0.99 * step / (steps - 1))
        if last.type == 'LateStepLR':
            falls = [min(round(f * total), total - 1) for f in (0.96, 0.98)]
            expected[step] *= 0.1**sum(step >= fall for fall in falls)
        else:
            unit = PER_EPOCH if last.by_epoch and not last.get(
                'convert_to_iter_based') else 1
            turn = math.pi * (step // unit) / (total // unit)
            expected[step] *= (1 + math.cos(turn)) / 2
    assert found == pytest.approx(expected, rel=1e-6)
    # what that is for: the last steps have the lowest rate
    assert found[-1] == min(found[total // 2:])


def test_published_rate_of_800_epochs(tmp_path):
    found = rates(runner(RECIPES['cyborgs_coco.py'], tmp_path))
    warm = 10 * PER_EPOCH
    assert len(found) == 800 * PER_EPOCH
    for step, rate in enumerate(found):
        epoch = step // PER_EPOCH
        expected = 0.2 * 0.1**((epoch >= 768) + (epoch >= 784))
        if step < warm:
            expected = 0.2 * (0.01 + 0.99 * step / (warm - 1))
        assert rate == pytest.approx(expected, rel=1e-9), step


def test_published_fractions_of_other_lengths(tmp_path):
    cfg = RECIPES['cyborgs_coco.py']
    cfg = Config(dict(cfg, train_cfg=dict(by_epoch=True, max_epochs=100)))
    found = rates(runner(cfg, tmp_path))
    assert found[95 * PER_EPOCH] == pytest.approx(0.2)
    assert found[96 * PER_EPOCH] == pytest.approx(0.02)
    assert found[98 * PER_EPOCH] == pytest.approx(0.002)
