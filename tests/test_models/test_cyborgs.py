"""The algorithm as a whole: networks, target, losses, configs' numbers."""
import copy
import inspect
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmpretrain.registry import MODELS

from cyborgs_plugin.engine import TargetUpdateHook
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.models import VMFSegmentationLoss, mask_contrastive_loss
from cyborgs_plugin.models.regions import pool_regions

from ..helpers import RECIPE, fake_batch, model_config

PUBLISHED = 'PublishedMaskGroundedNeck'


def small_model(**neck):
    torch.manual_seed(0)
    cfg = model_config()
    cfg.neck.update(neck)
    model = MODELS.build(cfg)
    model.init_weights()
    model.update_target()
    return model


def losses_of(model, data):
    return model(**model.data_preprocessor(data, True), mode='loss')


def test_losses_and_gradients():
    model = small_model()
    losses = losses_of(model, fake_batch())
    assert {
        'loss_contrast', 'num_regions', 'matched_regions', 'unmatched_images',
        'chance_level'
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


def test_what_is_logged_and_what_is_optimised():
    model, data = small_model(), fake_batch()
    data['data_samples'][0].mask[0] = 200
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1))
    logged = model.train_step(data, wrapper)
    assert logged['unmatched_images'] == 1
    assert 0 < logged['matched_regions'] < 1
    assert logged['num_regions'] > 1
    # scalars that are no losses take no part in the sum
    assert logged['loss'] == logged['loss_contrast']


def test_matched_regions_by_loops():
    model, data = small_model(), fake_batch()
    kept = []
    loss = model.head.loss
    model.head.loss = lambda *inputs: kept.append(inputs) or loss(*inputs)
    losses = losses_of(model, data)
    online, target = ([ids.tolist() for _, ids in regions]
                      for regions in kept[0][:2])
    used = matched = 0
    for view in range(2):
        for image in range(3):
            for region in online[view][image]:
                used += region >= 0
                matched += region >= 0 and region in target[1 - view][image]
    assert losses['matched_regions'] == pytest.approx(matched / used)
    assert losses['num_regions'] == pytest.approx(used / 6)


def test_an_image_matched_in_one_direction_is_matched():
    model = small_model()
    online, target = ([(torch.randn(2, 2, 8), torch.tensor(ids))
                       for ids in views]
                      for views in (([[1, 5], [1, -1]], [[2, -1], [2, -1]]),
                                    ([[3, -1], [3, -1]], [[1, 4], [7, -1]])))
    losses = model.head.loss(online, target, None, None)
    assert losses['unmatched_images'] == 1
    assert losses['matched_regions'] == pytest.approx(1 / 5)
    assert losses['num_regions'] == 5 / 4


def test_what_is_contrasted_is_predicted():
    model = small_model()
    projections, ids = torch.randn(2, 3, 8), torch.tensor([[1, 2, -1]] * 2)
    mlp = model.head.predictor
    hidden = projections[:, :2].flatten(0, 1) @ mlp.fc0.weight.T + mlp.fc0.bias
    hidden = F.relu((hidden - hidden.mean(0)) /
                    (hidden.var(0, unbiased=False) + 1e-5).sqrt())
    expected = hidden @ mlp.fc1.weight.T + mlp.fc1.bias
    predicted = model.head.predict((projections, ids))
    torch.testing.assert_close(
        predicted[:, :2].flatten(0, 1), expected, rtol=1e-4, atol=1e-5)
    assert predicted[:, 2].eq(0).all()


def test_each_branch_has_its_views_regions_and_its_network():
    model, data = small_model(), fake_batch()
    for number, sample in enumerate(data['data_samples']):
        sample.mask[0], sample.mask[1] = 10 + number, 20 + number
    with torch.no_grad():  # the target projects everything to twos
        last = model.target_net.module[1].projector.fc1
        last.weight.zero_()
        last.bias.fill_(2)
    kept = []
    model.head.loss = lambda *inputs: kept.append(inputs) or {}
    losses_of(model, data)
    online, target, online_feats, target_feats = kept[0][:4]
    for branch in (online, target):
        for view, (projections, ids) in enumerate(branch):
            expected = 10 * (view + 1) + torch.arange(3)
            assert torch.equal(ids[:, 0], expected)
            assert ids[:, 1:].eq(-1).all()
            assert projections[:, 0].eq(2).all() == (branch is target)
            assert projections[:, 1:].eq(0).all()
    for view in range(2):
        for ours, theirs in zip(online_feats[view], target_feats[view]):
            torch.testing.assert_close(ours, theirs)
            assert ours.requires_grad and not theirs.requires_grad


def test_inputs_are_normalised_as_rgb():
    bgr = torch.tensor([0, 100, 200], dtype=torch.uint8)
    data = fake_batch(1, 32)
    data['inputs'] = [bgr[:, None, None].expand(1, 3, 32, 32)] * 2
    views = small_model().data_preprocessor(data, True)['inputs']
    for view in views:
        torch.testing.assert_close(
            view[0, :, 5, 5] * torch.tensor([58.395, 57.12, 57.375]) +
            torch.tensor([123.675, 116.28, 103.53]),
            torch.tensor([200., 100., 0.]))


def test_defaults_in_code_are_those_of_the_recipe():
    model = Config.fromfile(RECIPE).model
    for cfg in (model, model.neck, model.head.loss):
        for name, parameter in inspect.signature(
                MODELS.get(cfg.type).__init__).parameters.items():
            if name in cfg and parameter.default is not parameter.empty and (
                    name != 'data_preprocessor'):
                assert cfg[name] == parameter.default, name
    function = inspect.signature(mask_contrastive_loss).parameters
    for name in ('temperature', 'local_negatives'):
        assert function[name].default == model.head.loss[name]
    vmf = inspect.signature(VMFSegmentationLoss).parameters
    assert vmf['temperature'].default == model.head.loss.temperature
    assert vmf['num_prototypes'].default == (2, 256)


def test_branches_and_views_draw_independently():
    """Four id lists; 4 of 16 regions each: two lists share 1 on average."""
    model, data = small_model(num_regions=4), fake_batch()
    for sample in data['data_samples']:
        sample.mask[:] = torch.arange(16, dtype=torch.uint8).view(
            4, 4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    draws = []
    model.head.loss = lambda online, target, *_: draws.append(
        [ids for _, ids in (*online, *target)]) or {}
    for _ in range(40):
        losses_of(model, data)
    lists = torch.stack([torch.stack(draw) for draw in draws])
    assert lists.shape == (40, 4, 3, 4)
    for one, two in itertools.combinations(lists.unbind(1), 2):
        shared = (one[..., None] == two[..., None, :]).sum((-1, -2)).float()
        # 120 hypergeometric draws: mean 1, standard error 0.07
        assert 0.7 < shared.mean() < 1.3


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast(dtype):
    model, data = small_model(), fake_batch()
    with torch.autocast('cpu', dtype=torch.bfloat16,
                        enabled=dtype is torch.bfloat16):
        torch.manual_seed(0)
        loss = losses_of(model, data)['loss_contrast']
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(
        torch.isfinite(parameter.grad).all()
        for parameter in model.parameters() if parameter.requires_grad)
    model.zero_grad()
    torch.manual_seed(0)
    exact = losses_of(model, data)['loss_contrast']
    # the networks are coarser in bfloat16
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)


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


def test_target_buffers_are_copies():
    model = small_model()
    for name, buffer in model.backbone.named_buffers():
        if 'running' in name:
            buffer.normal_()
    model.update_target()
    target = dict(model.target_net.module[0].named_buffers())
    for name, buffer in model.backbone.named_buffers():
        assert torch.equal(target[name], buffer), name


def test_decay_is_constant_and_cosine_is_available():
    def decays(**target_ema):
        cfg = model_config()
        cfg.target_ema.update(target_ema)
        model = MODELS.build(cfg)
        MessageHub.get_current_instance().update_info('max_iters', 100)
        model.update_target()
        weight = model.backbone.conv1.weight
        target = model.target_net.module[0].conv1.weight
        with torch.no_grad():
            for _ in range(100):
                weight.fill_(1)
                target.fill_(0)
                model.update_target()
                yield 1 - target.mean().item()

    assert list(decays()) == pytest.approx([0.996] * 100)
    cosine = [
        1 - 0.004 * (1 + math.cos(math.pi * step / 100)) / 2
        for step in range(1, 101)
    ]
    assert list(decays(type='CosineEMA')) == pytest.approx(cosine)


def test_target_batch_norms_run_in_train_mode():
    """Batch statistics: a shift of the running ones changes nothing."""
    model, data = small_model(), fake_batch()
    model.train()
    statistics = model.target_net.module[0].bn1.running_mean
    before = statistics.clone()
    torch.manual_seed(0)
    loss = losses_of(model, data)['loss_contrast']
    assert not torch.equal(before, statistics)
    statistics += 100
    torch.manual_seed(0)
    assert losses_of(model, data)['loss_contrast'] == loss


@pytest.mark.parametrize('accumulate', [1, 3])
def test_hook_updates_once_an_optimiser_step(accumulate):
    """Before training, and after each third (or every) iteration of six."""
    model = small_model()
    fresh = MODELS.build(model_config()).target_net.state_dict()
    model.target_net.load_state_dict(fresh)
    with torch.no_grad():  # as a checkpoint loaded into the online network
        model.backbone.conv1.weight.add_(1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(
        torch.optim.SGD([parameter], 1.), accumulative_counts=accumulate)
    wrapper.initialize_count_status(torch.nn.Module(), 0, 6)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper)
    hook = TargetUpdateHook()
    hook.before_train(runner)
    assert torch.equal(model.target_net.module[0].conv1.weight,
                       model.backbone.conv1.weight)
    steps = []
    for iteration in range(6):
        before = parameter.item()
        wrapper.update_params(parameter.sum())
        hook.after_train_iter(runner, iteration)
        # the target follows exactly where the optimiser stepped
        assert (parameter.item() != before) == (
            int(model.target_net.steps) != (steps or [1])[-1])
        steps.append(int(model.target_net.steps))
    assert steps[-1] == 1 + 6 // accumulate
    # a run that goes on keeps its target
    with torch.no_grad():
        model.backbone.conv1.weight.add_(1)
    hook.before_train(runner)
    assert int(model.target_net.steps) == steps[-1]


def test_target_is_in_the_checkpoint(tmp_path):
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.rand_like(parameter)
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    other = MODELS.build(model_config())
    other.load_state_dict(torch.load(tmp_path / 'model.pth'))
    for name, tensor in model.target_net.state_dict().items():
        assert torch.equal(other.target_net.state_dict()[name], tensor), name
    assert int(other.target_net.steps) == 1


def test_a_target_that_never_moves_is_an_error():
    model, data = small_model(), fake_batch(2, 32)
    model._losses_since_update = 4095
    losses_of(model, data)
    model.update_target()
    losses_of(model, data)
    model._losses_since_update = 4096
    with pytest.raises(RuntimeError, match='TargetUpdateHook'):
        losses_of(model, data)


def test_missing_masks_and_views_are_clear_errors():
    model, data = small_model(), fake_batch()
    data['inputs'] = data['inputs'][:1]
    with pytest.raises(ValueError, match='Two views'):
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
    torch.testing.assert_close(
        small_neck((2, 0), 640).fuse(feats, (4, 4)),
        torch.cat([expected[:, -512:], expected[:, :128]], 1))
    with pytest.raises(ValueError, match='out_indices'):
        model.neck.fuse(feats[:2], (4, 4))
    assert model.neck.cells(torch.zeros(1, 50, 64).long()).shape == (1, 4, 4)


def test_neck_pools_what_it_fuses():
    """Finer, equal, coarser, and where the grid does not divide a map."""
    torch.manual_seed(0)
    feats = [torch.randn(2, 128 * 2**i, 12 // 2**i, 12 // 2**i)
             for i in range(3)]
    neck = small_neck((2, 0, 1), 896)
    for grid in (6, 4):
        cells = torch.randint(5, (2, grid, grid))
        ids = neck.sample(cells)
        torch.testing.assert_close(
            neck.pool(tuple(feats), cells, ids),
            pool_regions(neck.fuse(tuple(feats), (grid, grid)), cells, ids),
            rtol=1e-5, atol=1e-5)


def test_channels_last_changes_no_loss():
    losses, gradients, weights = [], [], None
    for last in (False, True):
        config = model_config()
        config.channels_last = last
        model = MODELS.build(config)
        if weights is not None:  # drawn in another order
            model.load_state_dict(weights)
        weights = copy.deepcopy(model.state_dict())
        model.update_target()
        convolutions = [
            parameter for network in (model.backbone, model.target_net)
            for parameter in network.parameters()
            if parameter.ndim == 4 and parameter.shape[2] > 1]
        assert convolutions and all(
            one.is_contiguous(memory_format=torch.channels_last) == last
            for one in convolutions)
        torch.manual_seed(0)
        losses.append(
            losses_of(model, fake_batch())['loss_contrast'].detach())
        model.double()  # in which rounding flips no ReLU
        random = torch.Generator().manual_seed(0)
        view = torch.randn(3, 3, 64, 64, generator=random).double()
        cells = torch.randint(5, (3, 4, 4), generator=random)
        ids = cells.flatten(1).sort().values[:, :6]
        projections, _ = model.neck(model.backbone(view), cells, ids)
        projections.square().sum().backward()
        gradients.append(model.backbone.layer1[0].conv1.weight.grad)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*gradients)


def small_neck(in_indices, in_channels):
    cfg = model_config().neck
    cfg.in_indices = in_indices
    cfg.projector.in_channels = in_channels
    return MODELS.build(cfg)


def test_neck_takes_channels_last():
    torch.manual_seed(0)
    feats = [torch.randn(2, 24 * 2**i, 8 // 2**i, 8 // 2**i)
             for i in range(3)]
    last = [feat.permute(0, 2, 3, 1) for feat in feats]
    neck = small_neck((0, 1, 2), 168)
    assert torch.equal(neck.fuse(tuple(last), (2, 2)),
                       neck.fuse(tuple(feats), (2, 2)))
    cells = torch.arange(4).view(1, 2, 2).repeat(2, 1, 1)
    projections, _ = neck(tuple(last), cells)
    assert projections.shape == (2, neck.num_regions, 8)


def test_layout_of_the_backbone_changes_no_loss():
    """The segmentation loss, which sees the maps too, included."""
    found = []
    for last in (False, True):
        cfg = model_config()
        cfg.head.segmentation_loss.loss_weight = 0.5
        torch.manual_seed(0)
        model = MODELS.build(cfg)
        if last:
            model.backbone.register_forward_hook(
                lambda module, inputs, outputs: tuple(
                    output.permute(0, 2, 3, 1) for output in outputs))
        model.target_net = MODELS.build(
            cfg.target_ema, default_args=dict(model=model._online()))
        model.update_target()
        found.append(losses_of(model, fake_batch()))
    assert found[0]['loss_segmentation'] > 0
    for name, loss in found[0].items():
        torch.testing.assert_close(found[1][name], loss)


@pytest.mark.parametrize('last', [False, True])
def test_neck_names_the_channels_to_set(last):
    feats = [torch.randn(2, 24, 8, 8), torch.randn(2, 48, 4, 4)]
    if last:
        feats = [feat.permute(0, 2, 3, 1) for feat in feats]
    with pytest.raises(ValueError, match='projector.in_channels=3584, but '
                       '.*set model.neck.projector.in_channels=72'):
        small_neck((0, 1), 3584).fuse(tuple(feats), (2, 2))


def test_neck_refuses_tokens():
    with pytest.raises(ValueError, match=r"\(2, 17, 24\).*out_type='featmap'"):
        small_neck((0, ), 24).fuse((torch.randn(2, 17, 24), ), (2, 2))


def test_stride_need_not_divide_the_view():
    """The cells of the last row and column share pixels."""
    model, data = small_model(), fake_batch(size=64)
    data['inputs'] = [view[..., :50, :] for view in data['inputs']]
    for sample in data['data_samples']:
        sample.set_mask(sample.mask[:, :50])
    cells = model.neck.cells(data['data_samples'][0].mask)
    assert cells.shape == (2, 4, 4)
    assert cells[0, 1, 0] == data['data_samples'][0].mask[
        0, 50 // 4:-(-50 * 2 // 4), :16].flatten().mode().values
    losses_of(model, data)['loss_contrast'].backward()


def test_published_empty_regions_and_81_ids():
    model = small_model(
        type=PUBLISHED, num_ids=81, empty_regions=True, num_regions=16)
    cells = model.neck.cells(torch.full((1, 64, 64), 81))
    assert cells.unique().tolist() == [0]
    assert model.neck.cells(torch.full((1, 64, 64), 80)).unique() == 80
    losses = losses_of(model, fake_batch())
    assert losses['num_regions'] == 16
    losses['loss_contrast'].backward()


def test_published_empty_regions_need_ids():
    for num_ids in (None, 5):  # of 6 regions
        with pytest.raises(UserError, match='num_ids'):
            small_model(type=PUBLISHED, empty_regions=True, num_ids=num_ids)


def test_published_batch_norms_per_slot():
    """Each slot has its own statistics, in projector and predictor."""
    cfg = model_config()
    cfg.neck.update(type=PUBLISHED, project_by_slot=True)
    cfg.head.type = 'PublishedMaskContrastHead'
    model = MODELS.build(cfg)
    model.update_target()
    rows = []
    for mlp in (model.neck.projector, model.head.predictor):
        mlp.register_forward_hook(
            lambda module, inputs, output: rows.append(len(inputs[0][0])))
    losses_of(model, fake_batch())['loss_contrast'].backward()
    assert rows == [3] * 6 * 2 + [3] * 6 * 2  # projector, then predictor


def test_published_classes_without_faults_are_what_they_derive_from():
    cfg = model_config()
    cfg.neck.type = PUBLISHED
    cfg.head.update(type='PublishedMaskContrastHead', predict_by_slot=False)
    model = MODELS.build(cfg)
    model.load_state_dict(small_model().state_dict())  # of the same names
    found = []
    for one in (small_model(), model):
        torch.manual_seed(0)
        found.append(losses_of(one, fake_batch()))
    assert found[0] == found[1]


@pytest.mark.parametrize('part, key, value', [
    ('neck', 'num_ids', 81),
    ('neck', 'empty_regions', True),
    ('neck', 'project_by_slot', True),
    ('head', 'predict_by_slot', True),
])
@pytest.mark.parametrize('as_class', [False, True])
def test_keys_of_the_faults_name_the_class_that_takes_them(
        part, key, value, as_class):
    cfg = model_config()
    name = cfg[part].type
    cfg[part][key] = value
    if as_class:
        cfg[part].type = MODELS.get(name)
    with pytest.raises(UserError, match=(
            f'model.{part}.{key}={value} .*'
            f"model.{part}.type='Published{name}'")):
        MODELS.build(cfg)
    if key != 'empty_regions':  # needs num_ids
        cfg[part].type = f'Published{name}'
        MODELS.build(cfg)


def test_lars_leaves_out_exactly_the_1d_parameters():
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(RECIPE)
    for depth in (18, 50):
        model_cfg = model_config()
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
        # batch norms of the backbone: 20 or 53; 2 MLPs of 2 biases and a norm
        assert len(excluded) == 2 * {18: 20, 50: 53}[depth] + 2 * 4


def test_two_steps_of_lars():
    """The recipe's optimiser against the formula, with momentum."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    module = torch.nn.Sequential()
    module.add_module('fc', torch.nn.Linear(3, 4))
    module.add_module('bn', torch.nn.BatchNorm1d(4))
    wrapper = build_optim_wrapper(module,
                                  Config.fromfile(RECIPE).optim_wrapper)
    expected = {n: p.detach().clone() for n, p in module.named_parameters()}
    momentum = {name: 0. for name in expected}
    for _ in range(2):
        wrapper.zero_grad()
        module(torch.randn(8, 3)).square().sum().backward()
        for name, parameter in module.named_parameters():
            weight, gradient, rate = expected[name], parameter.grad, 0.2
            if parameter.ndim > 1:
                rate *= 0.001 * weight.norm() / (
                    gradient.norm() + 1.5e-6 * weight.norm() + 1e-8)
                gradient = gradient + 1.5e-6 * weight
            momentum[name] = 0.9 * momentum[name] + rate * gradient
            expected[name] = weight - momentum[name]
        wrapper.step()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])
    assert wrapper.optimizer.eps == 1e-8


def test_learning_rate_of_800_epochs():
    per_epoch = 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    schedulers = []
    for scheduler in Config.fromfile(RECIPE).param_scheduler:
        scheduler.setdefault('end', 800)  # as mmengine's Runner does
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


def test_vmf_equals_loops_over_known_prototypes():
    """Two distant clusters a view, so that k-means can find only those."""
    torch.manual_seed(0)
    prototypes = torch.eye(4).view(2, 2, 4)
    labels = [torch.randint(2, (2, 3, 3)) for _ in range(2)]
    for label in labels:
        label[0, 0, :2] = torch.arange(2)  # both are present
    target = [
        centre[label] + 0.2 * torch.rand(2, 3, 3, 4)
        for centre, label in zip(prototypes, labels)
    ]
    prototypes = [
        torch.stack([
            F.normalize(F.normalize(view, dim=-1)[label == k].mean(0), dim=0)
            for k in range(2)
        ]) for view, label in zip(target, labels)
    ]
    target = [3 * view.permute(0, 3, 1, 2) for view in target]
    online = [torch.randn(2, 4, 3, 3) for _ in range(2)]
    entropies = []
    for centres in prototypes:
        for online_view, target_view in zip(online, target):
            for b, y, x in itertools.product(range(2), range(3), range(3)):
                unit = F.normalize(online_view[b, :, y, x], dim=0)
                own = (centres @ target_view[b, :, y, x]).argmax()
                entropies.append(-(centres @ unit / 0.2).log_softmax(0)[own])
    loss = VMFSegmentationLoss((2, 2), temperature=0.2, loss_weight=3.)
    # the second output of the backbone is the one to use
    loss.in_index = 1
    torch.testing.assert_close(
        loss(*[[(torch.zeros(2, 1, 9, 9), one) for one in views]
               for views in (online, target)]),
        3 * torch.stack(entropies).mean())


def test_vmf_draws_k_from_the_closed_range(monkeypatch):
    counts = []

    def spy(points, count, **kwargs):
        counts.append(count)
        return None, points[:count]

    monkeypatch.setattr('cyborgs_plugin.models.vmf_loss.kmeans', spy)
    torch.manual_seed(0)
    loss = VMFSegmentationLoss((3, 6))
    many, few = (((torch.randn(1, 4, side, side), ), ) * 2 for side in (4, 2))
    for _ in range(50):
        loss(many, many)
    assert set(counts) == {3, 4, 5, 6}
    counts.clear()
    for _ in range(20):
        loss(few, few)
    assert set(counts) == {3, 4}  # four locations


def test_vmf_weight_zero_costs_nothing():
    model = small_model()
    assert model.head.segmentation_loss is None
    cfg = model_config()
    cfg.head.segmentation_loss.loss_weight = 0.5
    model = MODELS.build(cfg)
    model.update_target()
    kept = []
    loss = model.head.segmentation_loss.forward
    model.head.segmentation_loss.forward = lambda *feats: kept.append(
        feats) or loss(*feats)
    losses = losses_of(model, fake_batch())
    assert losses['loss_segmentation'] > 0
    online, target = kept[0]
    assert online[0][0].requires_grad and not target[0][0].requires_grad
