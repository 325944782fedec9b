"""Masks made in the step, against loops and against the same masks given."""
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from cyborgs_plugin.engine.launch import prepare_launch
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.models import InStepMasks

from ..helpers import (
    ROOT,
    fake_batch,
    in_processes,
    model_config,
    small_config,
)
from ..test_ops.test_kmeans_of_each import by_loops
from ..warm_python import python

GRIDS = [(4, 4), (2, 3)]


def feats_of(seed, batch=3):
    """Two stages of two views of other sizes."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(batch, 2, 16, 12, generator=generator),
             torch.randn(batch, 5, *size, generator=generator))
            for size in ((8, 8), (4, 6))]


def masks_of(feats, seed=0, **settings):
    torch.manual_seed(seed)
    return InStepMasks(**{'num_clusters': 4, **settings})(feats, GRIDS)


def naive_masks(feats, count, num_iters, seed):
    """One image, view and cell at a time, in double precision."""
    points = []
    for image in range(len(feats[0][0])):
        vectors = []
        for maps, (h, w) in zip(feats, GRIDS):
            stage = maps[1][image].double()
            height, width = (stage.shape[1] // h, stage.shape[2] // w)
            cells = [stage[:, i * height:(i + 1) * height,
                           j * width:(j + 1) * width].mean(dim=(1, 2))
                     for i in range(h) for j in range(w)]
            mean = sum(cells) / len(cells)
            vectors += [(cell - mean) / (cell - mean).norm()
                        for cell in cells]
        points.append(torch.stack(vectors))
    labels = by_loops(torch.stack(points), count, num_iters, seed)
    return [labels[:, :16].view(-1, 4, 4), labels[:, 16:].view(-1, 2, 3)]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12),
       num_iters=st.integers(0, 5))
def test_equals_loops(seed, count, num_iters):
    feats = feats_of(seed)
    found = masks_of(feats, seed, num_clusters=count, num_iters=num_iters)
    wanted = naive_masks(feats, count, num_iters, seed)
    for ours, theirs in zip(found, wanted):
        assert ours.dtype == torch.int64 and torch.equal(ours, theirs)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_change_of_all_of_a_view_changes_nothing(seed):
    """Such as another brightness, which would tell the views apart."""
    feats = feats_of(seed)
    shift = torch.randn(5, 1, 1, generator=torch.Generator().manual_seed(seed))
    other = [feats[0], (feats[1][0], 2 * feats[1][1] + 4 * shift)]
    for ours, theirs in zip(masks_of(feats), masks_of(other)):
        assert torch.equal(ours, theirs)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_permuted_images_have_the_same_masks(seed):
    feats = feats_of(seed)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    other = [tuple(maps[order] for maps in view) for view in feats]
    for ours, theirs in zip(masks_of(feats), masks_of(other)):
        assert torch.equal(ours[order], theirs)


def test_it_clusters_in_float32():
    feats = [tuple(maps.bfloat16() for maps in view) for view in feats_of(1)]
    exact = [tuple(maps.float() for maps in view) for view in feats]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = masks_of(feats)
    for ours, theirs in zip(found, masks_of(exact)):
        assert torch.equal(ours, theirs)


def test_clusters_fall_along_half_a_cosine():
    masks = InStepMasks((16, 4))
    assert masks.clusters_now() == 16  # outside of a run
    hub = MessageHub.get_instance('run')
    hub.update_info('max_iters', 200)
    found = []
    for step in range(200):
        hub.update_info('iter', step)
        found.append(masks.clusters_now())
    assert found == [round(float(value)) for value in np.interp(
        np.cos(np.pi * np.arange(200) / 200), [-1, 1], [4, 16])]
    assert (found[0], found[100], found[-1]) == (16, 10, 4)
    assert {InStepMasks(7).clusters_at(part) for part in (0, 0.3, 1)} == {7}


@pytest.mark.parametrize('settings, named', [
    (dict(num_clusters=0), 'num_clusters'),
    (dict(num_clusters=(4, 2.5)), 'num_clusters'),
    (dict(num_clusters=(4, 3, 2)), 'num_clusters'),
    (dict(num_iters=-1), 'num_iters')])
def test_wrong_settings(settings, named):
    with pytest.raises(UserError, match=f'model.in_step_masks.{named}'):
        InStepMasks(**settings)


def test_an_output_that_is_not_there():
    with pytest.raises(UserError, match='in_index=2, but the backbone gives'):
        masks_of(feats_of(0), in_index=2)


def models(**masks):
    """A model that makes masks of few enough regions, and its like."""
    found = []
    for config in (dict(type='InStepMasks', **{'num_clusters': 4, **masks}),
                   None):
        torch.manual_seed(0)
        cfg = model_config()
        cfg.in_step_masks = config
        found.append(MODELS.build(cfg))
        found[-1].init_weights()
        found[-1].update_target()
    assert found[0].state_dict().keys() == found[1].state_dict().keys()
    return found


def losses_of(model, data, seed=0):
    data = model.data_preprocessor(data, True)
    torch.manual_seed(seed)
    return model(**data, mode='loss')


def without_masks(data):
    return dict(data, data_samples=[DataSample() for _ in range(3)])


def test_the_step_is_that_of_the_same_masks_given():
    """The same loss and gradient, to the last bit."""
    ours, plain = models()
    kept, make = [], ours.in_step_masks.forward
    ours.in_step_masks.forward = lambda *args: kept.append(
        make(*args)) or kept[-1]
    data = fake_batch()
    losses = losses_of(ours, without_masks(data))
    losses['loss_contrast'].backward()
    for sample, *views in zip(data['data_samples'], *kept[0]):
        sample.set_mask(torch.stack([
            view.repeat_interleave(16, 0).repeat_interleave(16, 1)
            for view in views]))
    given = plain.data_preprocessor(data, True)
    torch.manual_seed(0)
    torch.rand(2 * 4 * 4)  # the first points of k-means
    wanted = plain(**given, mode='loss')
    wanted['loss_contrast'].backward()
    assert losses.pop('num_clusters') == 4
    assert losses.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(value, losses[name]), name
    for (name, one), other in zip(plain.named_parameters(),
                                  ours.parameters()):
        if one.requires_grad:
            assert torch.equal(one.grad, other.grad), name


@pytest.mark.parametrize('seed', range(3))
def test_ids_and_order_of_images_change_no_loss(seed):
    """All regions are drawn, since there are no more than slots."""
    ours, _ = models()
    data = without_masks(fake_batch(seed=seed))
    wanted = losses_of(ours, data)['loss_contrast']
    order = torch.tensor([2, 0, 1])
    other = dict(data, inputs=[view[order] for view in data['inputs']])
    torch.testing.assert_close(losses_of(ours, other)['loss_contrast'], wanted)
    names, make = torch.tensor([30, 2, 7, 11]), ours.in_step_masks.forward
    ours.in_step_masks.forward = lambda *args: [
        names[view] for view in make(*args)]
    torch.testing.assert_close(losses_of(ours, data)['loss_contrast'], wanted)


def test_a_region_of_one_view_is_unmatched():
    ours, _ = models()
    ours.in_step_masks.forward = lambda feats, sizes: [
        torch.full((3, *size), view) for view, size in enumerate(sizes)]
    losses = losses_of(ours, without_masks(fake_batch()))
    assert losses['matched_regions'] == 0 and losses['loss_contrast'] == 0
    losses['loss_contrast'].backward()


def test_masks_that_nothing_would_read_are_refused():
    with pytest.raises(UserError, match='take MaskUpdateHook out'):
        losses_of(models()[0], fake_batch())


def in_step(photo_root, work_dir, **options):
    """A small run without mask rounds."""
    cfg = small_config(photo_root, work_dir, **options)
    del cfg.default_hooks['mask_update']
    cfg.train_dataloader.dataset.with_masks = False
    cfg.model.in_step_masks = dict(type='InStepMasks', num_clusters=(6, 2))
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('options', [
    {}, {'default_hooks.device_data': dict(type='DeviceDataHook')}])
def test_a_resumed_run_is_the_same(photo_root, tmp_path, options):
    """Within an epoch, and with fewer clusters at each step."""
    options = {'train_cfg.max_epochs': 2,
               'default_hooks.checkpoint.by_epoch': False,
               'default_hooks.checkpoint.interval': 1,
               'default_hooks.checkpoint.max_keep_ckpts': -1, **options}
    Runner.from_cfg(in_step(photo_root, tmp_path / 'w', **options)).train()
    shutil.copytree(tmp_path / 'w', tmp_path / 'x')
    for step in (5, 6):
        (tmp_path / 'x' / f'iter_{step}.pth').unlink()
    (tmp_path / 'x' / 'last_checkpoint').write_text(
        str(tmp_path / 'w' / 'iter_4.pth'))
    again = Runner.from_cfg(in_step(
        photo_root, tmp_path / 'x', resume=True, **options))
    again.train()
    assert again.iter == 6
    assert not (tmp_path / 'w' / 'masks').exists()
    wanted, found = (torch.load(tmp_path / name / 'iter_6.pth',
                                weights_only=False) for name in 'wx')
    for name, value in wanted['state_dict'].items():
        assert torch.equal(value, found['state_dict'][name]), name
    counts = [wanted['message_hub']['log_scalars']['train/num_clusters']
              .data[0].tolist()]
    assert counts == [[6, 6, 5, 4, 3, 2]]


@pytest.mark.slow
def test_endless_data(photo_root, tmp_path):
    """By steps alone, from a sampler that never ends."""
    cfg = in_step(photo_root, tmp_path / 'w')
    cfg.train_cfg = dict(by_epoch=False, max_iters=4)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 4 and (tmp_path / 'w' / 'iter_4.pth').is_file()


@pytest.mark.slow
def test_the_hook_and_no_masks_exclude_each_other(photo_root, tmp_path):
    cfg = small_config(photo_root, tmp_path / 'w')
    cfg.train_dataloader.dataset.with_masks = False
    with pytest.raises(UserError, match='with_masks=False: nothing would'):
        Runner.from_cfg(cfg).train()


def as_rank(rank, photo_root, folder):
    os.environ['LOCAL_RANK'] = str(rank)
    cfg = in_step(photo_root, folder / 'w', **{
        'train_cfg.max_epochs': 1, 'train_dataloader.batch_size': 3,
        'launcher': 'pytorch'})
    prepare_launch(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    torch.save(list(runner.model.parameters()), folder / f'{rank}.pth')


@pytest.mark.slow
def test_two_processes(photo_root, tmp_path):
    codes, logs = in_processes(
        2, lambda rank: as_rank(rank, photo_root, tmp_path),
        tmp_path / 'log')
    assert codes == [0, 0], logs
    ours, theirs = (torch.load(tmp_path / f'{rank}.pth', weights_only=False)
                    for rank in range(2))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other) and torch.isfinite(one).all()
    assert 'matched_regions: ' in logs[0]


@pytest.mark.slow
def test_the_config_from_the_command_line(photo_root, tmp_path):
    done = subprocess.run(
        [python(), f'{ROOT}/tools/train.py',
         f'{ROOT}/configs/cyborgs_in_step.py', '--work-dir',
         str(tmp_path / 'run'), '--amp', '--cfg-options', 'view_size=80',
         'train_cfg.max_epochs=1', 'train_dataloader.batch_size=6',
         f'data={photo_root}'],
        capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
    assert not (tmp_path / 'run' / 'masks').exists()
    log, = (tmp_path / 'run').glob('2*/2*.log')
    assert 'num_clusters: ' in log.read_text()
