"""The algorithm as a whole: networks, target, losses, configs' numbers."""
import copy
import os.path as osp

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from cyborgs_plugin.models import VMFSegmentationLoss

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
RECIPE = osp.join(ROOT, 'configs', 'cyborgs_coco.py')


def small_config():
    cfg = Config.fromfile(RECIPE).model
    cfg.backbone.depth = 18
    cfg.neck.projector.update(
        in_channels=896, hid_channels=16, out_channels=8)
    cfg.head.predictor.update(in_channels=8, hid_channels=16, out_channels=8)
    cfg.neck.update(grid_stride=16, num_regions=6)
    return cfg


def small_model(**neck):
    torch.manual_seed(0)
    cfg = small_config()
    cfg.neck.update(neck)
    model = MODELS.build(cfg)
    model.init_weights()
    model.update_target()
    return model


def fake_batch(batch=3, size=64, num_ids=7, seed=0):
    torch.manual_seed(seed)
    data = dict(
        inputs=[
            torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
            for _ in range(2)
        ],
        data_samples=[])
    for _ in range(batch):
        coarse = torch.randint(num_ids, (2, 4, 4), dtype=torch.uint8)
        sample = DataSample()
        sample.set_mask(
            coarse.repeat_interleave(size // 4, 1).repeat_interleave(
                size // 4, 2))
        data['data_samples'].append(sample)
    return data


def losses_of(model, data):
    return model(**model.data_preprocessor(data, True), mode='loss')


def test_losses_and_gradients():
    model = small_model()
    losses = losses_of(model, fake_batch())
    assert {
        'loss_contrast', 'num_regions', 'matched_regions', 'unmatched_images'
    } == set(losses)
    losses['loss_contrast'].backward()
    for name, parameter in model.named_parameters():
        if name.startswith('target_net.'):
            assert parameter.grad is None and not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_views_that_share_nothing_are_counted_not_fatal():
    model, data = small_model(), fake_batch()
    for sample in data['data_samples'][:2]:
        sample.mask[0] = 200
        sample.mask[1] = 201
    losses = losses_of(model, data)
    assert losses['unmatched_images'] == 2
    assert torch.isfinite(losses['loss_contrast'])
    for sample in data['data_samples']:
        sample.mask[0] = 200
        sample.mask[1] = 201
    losses = losses_of(model, data)
    assert losses['loss_contrast'] == 0 and losses['matched_regions'] == 0
    losses['loss_contrast'].backward()
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.parametrize('batch', [1, 2])
def test_one_region_an_image(batch):
    model, data = small_model(), fake_batch(batch, num_ids=1)
    losses = losses_of(model, data)
    assert losses['num_regions'] == 1
    losses['loss_contrast'].backward()


def test_target_is_a_moving_average_with_decay_0_996():
    model = small_model()
    online = dict(model.backbone.named_parameters())
    target = dict(model.target_net.module[0].named_parameters())
    for name in online:
        assert torch.equal(online[name], target[name])
    before = copy.deepcopy(target)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    model.update_target()
    for name in online:
        torch.testing.assert_close(
            target[name], 0.996 * before[name] + 0.004 * online[name])
    assert 'target_net.module.0.conv1.weight' in model.state_dict()


def test_target_batch_norms_run_in_train_mode():
    model = small_model()
    model.train()
    statistics = model.target_net.module[0].bn1.running_mean
    before = statistics.clone()
    losses_of(model, fake_batch())
    assert not torch.equal(before, statistics)


def test_a_target_that_never_moves_is_an_error():
    model, data = small_model(), fake_batch(1, 32)
    model._losses_since_update = 4096
    with pytest.raises(RuntimeError, match='TargetUpdateHook'):
        losses_of(model, data)


def test_missing_masks_and_views_are_clear_errors():
    model, data = small_model(), fake_batch()
    data['inputs'] = data['inputs'][:1]
    with pytest.raises(ValueError, match='two views'):
        losses_of(model, data)
    data = fake_batch()
    del data['data_samples'][1].mask
    with pytest.raises(ValueError, match='SceneDataset'):
        losses_of(model, data)


def test_neck_fuses_and_checks():
    model = small_model()
    feats = model.backbone(torch.randn(2, 3, 64, 64))
    fused = model.neck.fuse(feats, (4, 4))
    expected = torch.cat([
        F.avg_pool2d(feats[0], 2), feats[1],
        feats[2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    ], 1)
    torch.testing.assert_close(fused, expected)
    with pytest.raises(ValueError, match='out_indices'):
        model.neck.fuse(feats[:2], (4, 4))
    with pytest.raises(ValueError, match='num_ids'):
        small_model(empty_regions=True)
    assert model.neck.cells(torch.zeros(1, 50, 64).long()).shape == (1, 4, 4)


def test_published_behaviours():
    model = small_model(
        num_ids=81, empty_regions=True, num_regions=16, project_by_slot=True)
    cells = model.neck.cells(torch.full((1, 64, 64), 99))
    assert cells.unique().tolist() == [0]
    losses = losses_of(model, fake_batch())
    assert losses['num_regions'] == 16
    losses['loss_contrast'].backward()


def test_lars_leaves_out_exactly_the_1d_parameters():
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(RECIPE)
    for depth in (18, 50):
        model_cfg = small_config()
        model_cfg.backbone.depth = depth
        if depth == 50:
            model_cfg.neck.projector.in_channels = 3584
        model = MODELS.build(model_cfg)
        wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
        excluded = set()
        for group in wrapper.param_groups:
            assert group['lr'] == 0.2 and group['momentum'] == 0.9
            for parameter in group['params']:
                if group.get('lars_exclude', False):
                    assert group['weight_decay'] == 0
                    excluded.add(id(parameter))
                else:
                    assert group['weight_decay'] == 1.5e-6
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert (id(parameter) in excluded) == (
                    parameter.ndim == 1), name
        assert wrapper.optimizer.eps == 1e-8
        assert wrapper.param_groups[0]['eta'] == 0.001


def test_learning_rate_of_800_epochs():
    per_epoch = 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    schedulers = []
    for scheduler in Config.fromfile(RECIPE).param_scheduler:
        kind = PARAM_SCHEDULERS.get(scheduler.pop('type'))
        if scheduler.pop('convert_to_iter_based', False):
            schedulers.append(
                kind.build_iter_from_epoch(
                    optimizer, **scheduler, epoch_length=per_epoch))
        else:
            schedulers.append(kind(optimizer, **scheduler))
    warm = 10 * per_epoch
    for epoch in range(800):
        for iteration in range(per_epoch):
            step = epoch * per_epoch + iteration
            expected = 0.2 * 0.1**((epoch >= 768) + (epoch >= 784))
            if step < warm:
                expected = 0.2 * (0.01 + 0.99 * step / (warm - 1))
            assert optimizer.param_groups[0]['lr'] == pytest.approx(
                expected, rel=1e-9), (epoch, iteration)
            optimizer.step()
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()


def test_vmf_gradient_pulls_to_the_own_prototype():
    torch.manual_seed(0)
    directions = torch.eye(4)[:2] * 3
    labels = torch.arange(2).repeat(8).view(1, 4, 4)
    target = directions[labels].permute(0, 3, 1, 2)
    online = target + torch.randn(1, 4, 4, 4)
    online.requires_grad_()
    loss_module = VMFSegmentationLoss(num_prototypes=(2, 2))
    loss = loss_module(((online, ), (online, )), ((target, ), (target, )))
    loss.backward()
    moved = online.detach() - 0.1 * online.grad

    def to_own(x):
        return F.cosine_similarity(x, target, dim=1).mean()

    assert to_own(moved) > to_own(online)
    assert loss_module(((moved, ), (moved, )),
                       ((target, ), (target, ))) < loss


def test_vmf_weight_zero_costs_nothing():
    model = small_model()
    assert model.head.segmentation_loss is None
    cfg = small_config()
    cfg.head.segmentation_loss.loss_weight = 0.5
    model = MODELS.build(cfg)
    model.update_target()
    losses = losses_of(model, fake_batch())
    assert losses['loss_segmentation'] > 0
