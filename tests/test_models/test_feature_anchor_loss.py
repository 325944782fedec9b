"""The anchor: what it measures, and what it holds."""
import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS

from cyborgs_plugin.models import FeatureAnchorLoss

from ..helpers import fake_batch, model_config


def maps(seed, sizes=((4, 6, 6), (8, 3, 3))):
    torch.manual_seed(seed)
    return tuple(
        torch.randn(2, *size, requires_grad=True) for size in sizes)


def naive(online, target):
    stages = []
    for views in zip(online, target):
        for mine, theirs in zip(*views):
            distances = []
            for image in range(len(mine)):
                for y in range(mine.shape[2]):
                    for x in range(mine.shape[3]):
                        a = mine[image, :, y, x].detach().numpy()
                        b = theirs[image, :, y, x].detach().numpy()
                        distances.append(1 - a @ b / np.linalg.norm(a) /
                                         np.linalg.norm(b))
            stages.append(np.mean(distances))
    return np.mean(stages)


def test_equals_the_loop_over_locations():
    online, target = (maps(0), maps(1)), (maps(2), maps(3))
    loss = FeatureAnchorLoss(2.)(online, target)
    assert loss.item() == pytest.approx(2 * naive(online, target), rel=1e-5)


def test_nothing_to_hold_where_features_are_the_target_s_times_anything():
    online = maps(0)
    target = tuple(3 * stage.detach() for stage in online)
    loss = FeatureAnchorLoss()((online, online), (target, target))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_the_target_gets_no_gradient():
    online, target = maps(0), maps(1)
    FeatureAnchorLoss()((online, ), (target, )).backward()
    assert all(stage.grad.abs().sum() > 0 for stage in online)
    assert all(stage.grad is None for stage in target)


def test_a_strong_anchor_holds_a_model_at_its_target():
    def drift(weight):
        cfg = model_config()
        cfg.backbone.norm_eval = True
        cfg.target_ema = dict(type='FrozenTarget')
        if weight:
            cfg.head.anchor_loss = dict(
                type='FeatureAnchorLoss', loss_weight=weight)
        torch.manual_seed(0)
        model = MODELS.build(cfg)
        model.init_weights()
        model.update_target()
        start = [p.clone() for p in model.target_net.parameters()]
        optimizer = torch.optim.SGD(model.backbone.parameters(), 0.05)
        model.train()
        for _ in range(4):
            data = model.data_preprocessor(fake_batch(), True)
            losses = model(**data, mode='loss')
            assert ('loss_anchor' in losses) == bool(weight)
            total = losses['loss_contrast'] + losses.get('loss_anchor', 0)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            model.update_target()
        for before, now in zip(start, model.target_net.parameters()):
            assert torch.equal(before, now)
        with torch.no_grad():
            view = data['inputs'][0]
            model.eval()
            target = model.target_net.module[0]
            return FeatureAnchorLoss()((model.backbone(view), ),
                                       (target(view), )).item()

    free, held = drift(0), drift(20.)
    assert 0 < held < 0.8 * free
