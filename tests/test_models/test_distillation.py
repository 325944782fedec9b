"""Distillation: what the teacher gives, and what the student is told."""
import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint
from mmpretrain.registry import MODELS

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.models import (
    CellDistillationLoss,
    DistillationHead,
    FrozenTeacher,
)
from cyborgs_plugin.safe_load import load_weights

from ..helpers import ROOT, fake_batch, network

TEACHER = dict(
    type='ResNet', depth=18, base_channels=8, stem_channels=8,
    out_indices=(1, 3))  # strides 8 and 32, 16 + 64 channels


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmpretrain')


def teacher_file(path, seed=0):
    torch.manual_seed(seed)
    net = MODELS.build(TEACHER)
    net.init_weights()
    torch.save(net.state_dict(), path)
    return str(path)


def distiller(file, **head):
    """A ResNet-18 (strides 8 to 32, 896 channels) with a small teacher."""
    cfg = Config.fromfile(f'{ROOT}/configs/cyborgs_distill_r18.py').model
    cfg.teacher = dict(
        type='FrozenTeacher', backbone=TEACHER, checkpoint=file)
    cfg.neck.projector.out_channels = 80
    cfg.neck.num_regions = 6
    cfg.head.update(head)
    model = MODELS.build(cfg)
    model.init_weights()
    model.train()
    return model


def loss_of(model, size=64):
    data = model.data_preprocessor(fake_batch(size=size), True)
    return model(**data, mode='loss')


def test_gives_each_cell_what_the_network_gives(tmp_path):
    file = teacher_file(tmp_path / 'teacher.pth')
    teacher = FrozenTeacher(TEACHER, file)
    teacher.init_weights()
    net = MODELS.build(TEACHER)
    net.load_state_dict(torch.load(file))
    net.eval()
    view = torch.randn(2, 3, 64, 96)
    cells = teacher(view, (4, 6))
    assert cells.shape == (2, 80, 4, 6)
    with torch.no_grad():
        fine, coarse = net(view)  # 8x12 and 2x3
    for y, x in ((0, 0), (1, 5), (3, 2)):
        mean = fine[:, :, 2 * y:2 * y + 2, 2 * x:2 * x + 2].mean((2, 3))
        torch.testing.assert_close(cells[:, :16, y, x], mean)
        torch.testing.assert_close(
            cells[:, 16:, y, x], coarse[:, :, y // 2, x // 2])
    only = FrozenTeacher(TEACHER, file, in_indices=[1])
    only.init_weights()
    torch.testing.assert_close(only(view, (4, 6)), cells[:, 16:])


def test_a_bright_square_is_told_where_it_is(tmp_path):
    teacher = FrozenTeacher(
        TEACHER, teacher_file(tmp_path / 'teacher.pth'), in_indices=[0],
        input_size=192)
    teacher.init_weights()
    dark = torch.zeros(1, 3, 96, 96)
    bright = dark.clone()
    bright[:, :, 16:32, 64:80] = 3
    change = (teacher(bright, (6, 6)) - teacher(dark, (6, 6))).norm(dim=1)[0]
    assert int(change.argmax()) == 1 * 6 + 4
    assert change[4:, :3].max() < change.max() / 10


def test_is_never_trained(tmp_path):
    model = distiller(teacher_file(tmp_path / 'teacher.pth'))
    before = copy.deepcopy(model.teacher.backbone.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = loss_of(model)
    (losses['loss_cells'] + losses['loss_regions']).backward()
    optimizer.step()
    after = model.teacher.backbone.state_dict()
    assert all(torch.equal(value, after[key])
               for key, value in before.items())
    grads = [parameter.grad for parameter in model.backbone.parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


def test_cells_and_regions_equal_a_naive_transcription(tmp_path):
    model = distiller(teacher_file(tmp_path / 'teacher.pth'))
    model.neck.num_regions = 20  # all of them, so that no draw decides
    data = model.data_preprocessor(fake_batch(size=64), True)
    seen = {}
    model.head.region_loss.forward = (
        lambda preds, targets, ids, other_ids: seen.update(
            preds=preds, targets=targets, ids=ids))
    losses = model(**data, mode='loss')

    student, projector = model.backbone, model.neck.projector.fc
    masks = torch.stack([s.mask for s in data['data_samples']], 1)
    mine, theirs = [], []
    for view in data['inputs']:
        stages = [torch.nn.functional.adaptive_avg_pool2d(s, 4)
                  for s in student(view)]
        mine.append(torch.cat(stages, 1).permute(0, 2, 3, 1).detach())
        theirs.append(model.teacher(view, (4, 4)).permute(0, 2, 3, 1))
    rows = torch.cat([t.reshape(-1, 80) for t in theirs]).numpy()
    # some channels of this teacher are dead
    mean, std = rows.mean(0), rows.std(0, ddof=1).clip(1e-6)
    distances = []
    for view in range(2):
        for image in range(3):
            wanted = (theirs[view][image].numpy() - mean) / std
            given = projector(mine[view][image]).detach().numpy()
            for y in range(4):
                for x in range(4):
                    a, b = wanted[y, x], given[y, x]
                    distances.append(
                        1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            labels = masks[view][image].numpy()[8::16, 8::16]
            for slot, number in enumerate(seen['ids'][view][image].tolist()):
                if number < 0:
                    continue
                inside = labels == number
                np.testing.assert_allclose(
                    seen['targets'][view][image, slot].numpy(),
                    wanted[inside].mean(0), atol=1e-4)
                np.testing.assert_allclose(
                    seen['preds'][view][image, slot].detach().numpy(),
                    given[inside].mean(0), atol=1e-4)
    assert losses['loss_cells'].item() == pytest.approx(
        np.mean(distances), abs=1e-4)


def test_each_term_is_a_knob(tmp_path):
    file = teacher_file(tmp_path / 'teacher.pth')
    assert 'loss_regions' not in loss_of(distiller(file, region_loss=None))
    assert 'loss_cells' not in loss_of(distiller(file, cell_loss=None))
    with pytest.raises(UserError, match='neither'):
        DistillationHead(None, None)
    rows = torch.randn(5, 3)
    assert CellDistillationLoss(2.)(rows, -rows).item() == pytest.approx(4)


def test_a_checkpoint_holds_the_hash_alone(tmp_path):
    model = distiller(teacher_file(tmp_path / 'teacher.pth'))
    state = model.state_dict()
    assert [key for key in state if key.startswith('teacher.')] == [
        'teacher.digest']
    path = str(tmp_path / 'epoch_1.pth')
    save_checkpoint(dict(state_dict=state, meta={}), path)
    assert [key for key in load_weights(path)['state_dict']
            if key.startswith('teacher.')] == ['teacher.digest']
    model.load_state_dict(state, strict=True)
    # the same content in another file
    same = distiller(teacher_file(tmp_path / 'moved.pth'))
    load_checkpoint(same, path, strict=True)
    other = distiller(teacher_file(tmp_path / 'other.pth', seed=1))
    with pytest.raises(UserError, match='another|teacher of hash'):
        load_checkpoint(other, path)


@pytest.mark.parametrize('options, message', [
    (dict(backbone=dict(TEACHER, init_cfg=dict(type='Pretrained'))),
     'checkpoint'),
    (dict(backbone=dict(type='TIMMBackbone', pretrained=True)), 'downloads'),
])
def test_downloads_nothing(options, message):
    with pytest.raises(UserError, match=message):
        FrozenTeacher(checkpoint='teacher.pth', **options)


def test_mistakes_are_named(tmp_path):
    teacher = FrozenTeacher(TEACHER, str(tmp_path / 'teacher.pth'))
    with pytest.raises(UserError, match='teacher.pth: no such file'):
        teacher.init_weights()
    with pytest.raises(RuntimeError, match='init_weights'):
        teacher(torch.zeros(1, 3, 64, 64), (4, 4))
    torch.save(network().state_dict(), tmp_path / 'teacher.pth')
    with pytest.raises(UserError, match='have other shapes'):
        teacher.init_weights()
    model = distiller(teacher_file(tmp_path / 'teacher.pth'))
    model.neck.projector = MODELS.build(dict(
        type='LinearNeck', in_channels=896, out_channels=81, norm_cfg=None))
    with pytest.raises(UserError, match='out_channels.* 81 .* 80'):
        loss_of(model)
    model = distiller(teacher_file(tmp_path / 'teacher.pth'))
    model.teacher.in_indices = (2, )
    with pytest.raises(UserError, match='in_indices'):
        loss_of(model)
