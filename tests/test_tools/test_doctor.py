"""tools/doctor.py: what it finds, its exit code, and that it never dies."""
import json
import os.path as osp
import shutil
import sys

import cv2
import pytest

from ..helpers import ROOT, write_photo

sys.path.insert(0, osp.join(ROOT, 'tools'))
import doctor  # noqa: E402


@pytest.fixture
def examine(call, capsys, monkeypatch, tmp_path):
    """Exit code and findings of the doctor, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as end:
            call(doctor, '--json', *words)
        found = json.loads(capsys.readouterr().out)
        assert found['ok'] is (end.value.code == 0)
        return end.value.code, found['findings']

    return run


@pytest.fixture
def photos(tmp_path):
    for number in range(9):
        write_photo(tmp_path / 'photos' / f'{number}.jpg', (96, 128), number)
    return tmp_path / 'photos'


def of(findings, area, severity=None):
    return [one['found'] for one in findings
            if one['area'] == area and severity in (None, one['severity'])]


def test_sound_photographs_are_drawn(examine, photos, tmp_path):
    code, found = examine('--data', photos)
    assert code == 0 and not of(found, 'data', 'error')
    assert any('9 photographs' in line for line in of(found, 'data', 'ok'))
    assert not of(found, 'config')
    sheet = cv2.imread(str(tmp_path / 'doctor_views.png'))
    assert sheet.shape[0] > 3 * sheet.shape[1]  # 4 photographs, 8 views
    assert sheet.std() > 20


def test_views_have_a_place_of_their_own(examine, photos, tmp_path):
    (tmp_path / 'link').symlink_to(photos)
    (tmp_path / 'file').touch()
    for place, said in ((tmp_path / 'link' / 'v.png', 'one of the photograph'),
                        (photos / 'v.png', 'one of the photographs'),
                        (tmp_path / 'file' / 'v.png', 'no views are drawn (')):
        code, found = examine('--data', photos, '--views', place)
        assert code == 0, found
        drawn, = (one for one in found if said in one['found'])
        assert '--views' in drawn['fix']
    assert len(list(photos.iterdir())) == 9


def test_broken_photographs_end_in_an_error(examine, photos, tmp_path):
    for name in ('a.jpg', 'b.jpg'):
        (photos / name).write_bytes(b'%PDF')
    write_photo(photos / 'small.png', (10, 90))
    shutil.copy(photos / '1.jpg', photos / 'again.jpg')
    code, found = examine('--data', photos)
    assert code == 1
    broken, = of(found, 'data', 'error')
    assert '2 of them cannot be read' in broken and 'a PDF' in broken
    warnings = ' '.join(of(found, 'data', 'warning'))
    assert 'small.png' in warnings and '1.jpg = again.jpg' in warnings
    # two of a hundred are no error
    for number in range(100):
        write_photo(photos / f'more{number}.jpg', (96, 128), 20 + number)
    code, found = examine('--data', photos, '--views', '')
    assert code == 0 and 'a.jpg' in ' '.join(of(found, 'data', 'warning'))
    assert not (tmp_path / 'doctor_views.png').exists()


@pytest.mark.parametrize('options, said', [
    (['train_cfg.max_epochs=2'], 'mask_update.interval=3'),
    (['default_hooks.mask_update.source.num_clusters=64'], '36 cells'),
    (['train_dataloader.batch_size=4'], 'meant for 32'),
    (['model.backbone.init_cfg.type=Pretrained',
      'model.backbone.init_cfg.checkpoint=/w.pth'], 'random weights'),
])
def test_odd_configs_are_warned_of(examine, photos, options, said):
    code, found = examine('cyborgs_plugin::cyborgs_small_data.py', '--data',
                          photos, '--views', '', '--gpus', 1, '--cfg-options',
                          *options)
    assert code == 0
    assert said in ' '.join(of(found, 'config', 'warning'))
    assert all(one['fix'] for one in found if one['severity'] == 'warning')


@pytest.mark.parametrize('words, said', [
    (['nowhere.py'], "no config 'nowhere.py'"),
    (['--data', 'nowhere'], 'no such folder'),
    (['cyborgs_plugin::cyborgs_coco.py'], 'data/coco/train2017'),
    (['cyborgs_plugin::cyborgs_small_data.py', '--cfg-options',
      'train_cfg.max_epochs=0'], 'max_epochs must be'),
    (['cyborgs_plugin::cyborgs_small_data.py', '--cfg-options', 'modle.x=1'],
     'mean model'),
    (['cyborgs_plugin::transfer/mask-rcnn_r50_fpn_random_1x_coco.py'],
     'instances_train2017.json'),
])
def test_what_would_fail_is_an_error(examine, words, said):
    code, found = examine(*words)
    assert code == 1
    assert said in ' '.join(one['found'] + one['fix'] for one in found
                            if one['severity'] == 'error')


def test_text_for_people(call, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        call(doctor)
    said = capsys.readouterr().out
    assert said.startswith('Environment\n  ') and ' errors' in said


def test_photographs_beside_a_config_without_masks(examine, photos):
    _, found = examine(
        'cyborgs_plugin::baselines/byol_r18_coco-mini.py',
        '--data', photos)
    assert not any('not foreseen' in one['fix'] for one in found), found
