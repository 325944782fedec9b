"""The teacher's features of whole pictures: where, what, and whose."""
from unittest import mock

import cv2
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS

from cyborgs_plugin.datasets.teacher_bank import TeacherBank
from cyborgs_plugin.engine import TeacherFeaturesHook, teacher_features_hook
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.models import FrozenTeacher
from cyborgs_plugin.segmentation import TeacherFeatures, make_round

from ..helpers import IMAGENET, ROOT, small_config, write_photo

TEACHER = dict(
    type='ResNet', depth=18, base_channels=8, stem_channels=8,
    out_indices=(0, 1))  # strides 4 and 8, 8 + 16 channels


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(0)
    net = MODELS.build(TEACHER)
    net.init_weights()
    torch.save(net.state_dict(), tmp_path / 'teacher.pth')
    frozen = FrozenTeacher(TEACHER, str(tmp_path / 'teacher.pth'))
    frozen.init_weights()
    return frozen


def stored(teacher, root, pictures, **options):
    """The bank of pictures, and its source."""
    source = TeacherFeatures(
        **dict(dict(long_side=64, stride=8, num_components=24), **options))
    source.prepare(teacher, IMAGENET)
    images = [(f'{number:02d}.png', str(root / f'{number:02d}.png'))
              for number in range(len(pictures))]
    source.fit(pictures, str(root))
    make_round(source, images, str(root), 0, 0,
               meta=dict(fingerprint=source.load(str(root))))
    return TeacherBank(str(root)), source


def test_a_view_shows_the_mean_of_what_its_cells_cover(teacher, tmp_path):
    pictures = [write_photo(tmp_path / f'{n:02d}.png', (48, 64), n)
                for n in range(3)]
    bank, source = stored(teacher, tmp_path, pictures)
    cells = source.cells(pictures[1])
    assert cells.shape == (24, 6, 8)
    fine = F.interpolate(cells[None], scale_factor=8, mode='bilinear')
    # rows 12 to 36 and columns 0 to 32 of 48 and 64
    part = F.avg_pool2d(fine[:, :, 12:36, :32], 8)[0]
    error = 2e-3 * cells.abs().max()  # half precision
    for flip, axes in ((None, ()), ('horizontal', (2, )),
                       ('vertical', (1, )), ('diagonal', (1, 2))):
        view = bank.view('01.png', (0.25, 0, 0.5, 0.5), (3, 4), flip)
        torch.testing.assert_close(
            torch.from_numpy(view), part.flip(axes), atol=error, rtol=0)


def test_components_are_those_of_the_standardised_channels(teacher, tmp_path):
    pictures = [write_photo(tmp_path / f'{n:02d}.png', seed=n)
                for n in range(4)]
    bank, source = stored(teacher, tmp_path, pictures, num_components=5)
    rows = torch.cat([source.cells(picture).flatten(1).T
                      for picture in pictures])
    std = rows.std(0, unbiased=False)
    alive = std > 1e-6
    rows, std = rows[:, alive], std[alive]
    unit = (rows - rows.mean(0)) / std
    u, s, v = torch.linalg.svd(unit, full_matrices=False)
    best = u[:, :5] * s[:5] @ v[:5]
    kept = bank.bank.label_maps('02.png').view('<f2').astype('f4')
    found = torch.from_numpy(bank._decode @ kept.reshape(5, -1))[alive].T
    torch.testing.assert_close(
        found / std, best[96:144], atol=0.02, rtol=0)


def test_a_bright_square_is_told_where_it_is(teacher, tmp_path):
    dark = write_photo(tmp_path / '00.png', (96, 96)) // 8
    bright = dark.copy()
    bright[16:32, 64:80] = 255
    for number, picture in enumerate((dark, bright)):
        cv2.imwrite(str(tmp_path / f'{number:02d}.png'), picture)
    bank, _ = stored(teacher, tmp_path, [dark, bright], long_side=96)
    for box, flip, place in (
            ((0, 0, 1, 1), None, (1, 4)), ((0, 0, 1, 1), 'horizontal', (1, 1)),
            # 48 pixels from row 8 and column 44, in cells of 8
            ((8 / 96, 44 / 96, 0.5, 0.5), None, (2, 3))):
        change = bank.view('01.png', box, (6, 6), flip) - bank.view(
            '00.png', box, (6, 6), flip)
        change = torch.from_numpy(change).norm(dim=0)
        row, column = divmod(int(change.argmax()), 6)
        assert abs(row - place[0]) <= 1 and abs(column - place[1]) <= 1


def test_other_colours_are_other_settings(teacher):
    """Features of another normalisation are not taken for one's own."""
    found = []
    for mean, turned in ((124, True), (0, True), (124, False)):
        source = TeacherFeatures()
        source.prepare(teacher, SelfSupDataPreprocessor(
            mean=3 * [mean], std=3 * [57], to_rgb=turned))
        found.append(source.settings())
    assert len(set(found)) == 3


def test_broken_pictures_are_the_mask_rounds_business(tmp_path, monkeypatch):
    """default_hooks.mask_update.max_broken says how many there may be."""
    made = []
    for name, value in dict(
            scene_datasets=lambda dataset: [mock.MagicMock()],
            _joined=lambda parts: [('0.png', str(tmp_path / '0.png'))],
            TeacherBank=mock.Mock(return_value=mock.Mock(num_bytes=1)),
            make_round=lambda *_, **options: made.append(options)).items():
        monkeypatch.setattr(teacher_features_hook, name, value)
    source = mock.Mock(num_pictures=1, **{'fit.return_value': 1.})
    monkeypatch.setattr(teacher_features_hook.TASK_UTILS, 'build',
                        lambda cfg: source)
    TeacherFeaturesHook(bank_root=str(tmp_path)).before_train(
        mock.MagicMock(seed=0))
    assert made[0]['max_broken'] == 1


def distillation(photo_root, work_dir, **options):
    cfg = small_config(photo_root, work_dir, **{
        'default_hooks.mask_update.interval': -1,
        'train_cfg.max_epochs': 1, **options})
    model = Config.fromfile(f'{ROOT}/configs/cyborgs_distill_r18.py').model
    model.teacher = dict(
        type='FrozenTeacher', backbone=TEACHER,
        checkpoint=str(work_dir.parent / 'teacher.pth'))
    model.neck.projector.out_channels = 24
    model.backbone.update(base_channels=16, stem_channels=16)
    cfg.model = model
    cfg.default_hooks.pop('target_update')
    cfg.default_hooks.teacher_features = dict(
        type='TeacherFeaturesHook', source=dict(
            type='TeacherFeatures', long_side=64, stride=8,
            num_components=24))
    return cfg


@pytest.mark.slow
def test_a_run_asks_the_teacher_once_a_picture(
        photo_root, tmp_path, teacher, monkeypatch):
    asked = []
    forward = FrozenTeacher.forward

    def count(self, view, *args):
        asked.append(len(view))
        return forward(self, view, *args)

    monkeypatch.setattr(FrozenTeacher, 'forward', count)
    work = tmp_path / 'run'
    runner = Runner.from_cfg(distillation(photo_root, work))
    runner.train()
    # for the components, and to be kept
    assert asked == 24 * [1]
    before = TeacherBank(str(work / 'teacher')).bank.hash
    cfg = distillation(photo_root, work, experiment_name='on', resume=True,
                       **{'train_cfg.max_epochs': 2})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert len(asked) == 24 and runner.epoch == 2
    assert TeacherBank(str(work / 'teacher')).bank.hash == before

    # another teacher, in the folder of this one
    torch.manual_seed(1)
    net = MODELS.build(TEACHER)
    net.init_weights()
    torch.save(net.state_dict(), tmp_path / 'teacher.pth')
    cfg = distillation(photo_root, tmp_path / 'other')
    cfg.default_hooks.teacher_features.bank_root = str(work / 'teacher')
    with pytest.raises(UserError, match='what a teacher saw by.*bank_root'):
        Runner.from_cfg(cfg).train()


@pytest.mark.slow
def test_mistakes_are_named(photo_root, tmp_path, teacher):
    with pytest.raises(UserError, match='stride must be at least 1'):
        TeacherFeatures(stride=0)
    picture = write_photo(tmp_path / '00.png')
    with pytest.raises(UserError, match='num_components=25.* 24 channels'):
        stored(teacher, tmp_path, [picture], num_components=25)
    bank, _ = stored(teacher, tmp_path, [picture])
    with open(tmp_path / 'components.npz', 'r+b') as file:
        file.truncate(100)
    with pytest.raises(UserError, match='damaged'):
        TeacherBank(bank.root)
    cfg = small_config(photo_root, tmp_path / 'plain')
    runner = Runner.from_cfg(cfg)
    with pytest.raises(UserError, match='CYBORGS has none'):
        TeacherFeaturesHook().before_train(runner)
