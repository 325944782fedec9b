"""publish_backbone.py: what a run started from, and the way back to it."""
import glob
import os.path as osp
import sys

import numpy as np
import pytest
import torch
from mmpretrain.models import ResNet

from cyborgs_plugin.start_file import content_hash

from ..helpers import ROOT, checkpoint, small_run, trained, write_photo

sys.path.insert(0, osp.join(ROOT, 'tools', 'model_converters'))
import publish_backbone  # noqa: E402

WIDE = {  # a published ResNet has its full width
    'model.backbone.base_channels': 64,
    'model.backbone.stem_channels': 64,
    'model.neck.projector.in_channels': 896
}
CONFIG = osp.join(ROOT, 'configs', 'cyborgs_small_data.py')


def published(folder):
    file, = glob.glob(str(folder / '*backbone-????????.pth'))
    return torch.load(file, weights_only=True)


@pytest.mark.slow
def test_a_file_says_what_it_started_from(photo_root, tmp_path, call):
    torch.manual_seed(3)
    start = ResNet(18)
    torch.save(start.state_dict(), tmp_path / 'start.pth')
    options = {
        **WIDE,
        'custom_hooks': [
            dict(type='DriftHook', num_images=8, long_side=64)
        ],
        'model.backbone.init_cfg': dict(
            type='Pretrained', checkpoint=str(tmp_path / 'start.pth')),
        'default_hooks.mask_update.interval': -1,
        'train_cfg.max_epochs': 1
    }
    runner = small_run(photo_root, tmp_path / 'w', **options)
    runner.train()
    expected = content_hash(start.state_dict())
    drift = runner.message_hub.get_info('drift')
    # a resumed run that measures nothing keeps it
    options.update({'train_cfg.max_epochs': 2, 'resume': True,
                    'custom_hooks': []})
    small_run(photo_root, tmp_path / 'w', **options).train()
    for epoch in (1, 2):
        folder = tmp_path / f'out{epoch}'
        said = call(publish_backbone, tmp_path / 'w' / f'epoch_{epoch}.pth',
                    '--out-dir', folder)
        meta = published(folder)['meta']
        assert meta['start'] == 'start.pth'
        assert meta['start_sha256'] == expected and expected in said
        assert 0 < meta['drift'] == drift['drift']
        assert meta['drift_cka'] == drift['cka'] < 1
        assert meta['drift_recovered'] == drift['recovered']
        assert f"'drift': {drift['drift']}" in said


def test_from_random_weights_nothing_is_said(photo_root, tmp_path, call):
    runner = small_run(photo_root, tmp_path / 'w',
                       **WIDE, **{'train_cfg.max_epochs': 1})
    runner.train()
    call(publish_backbone, tmp_path / 'w' / 'epoch_1.pth', '--out-dir',
         tmp_path / 'out')
    assert not {'start', 'start_sha256', 'drift'} & set(
        published(tmp_path / 'out')['meta'])


def test_blend(tmp_path, call):
    end = checkpoint(tmp_path / 'epoch_3.pth')['online'].state_dict()
    start = trained(18, seed=5).state_dict()
    torch.save(dict(state_dict={f'backbone.{key}': value
                                for key, value in start.items()}),
               tmp_path / 'start.pth')
    said = call(publish_backbone, tmp_path / 'epoch_3.pth', '--blend', '0.5',
                '--start', tmp_path / 'start.pth')
    assert "'blend': 0.5" in said
    content = published(tmp_path)
    assert content['meta']['blend'] == 0.5
    for key in ('conv1.weight', 'layer4.1.bn2.running_var'):
        torch.testing.assert_close(
            content['state_dict'][key], (start[key] + end[key]) / 2)
    torch.save(trained(50).state_dict(), tmp_path / 'other.pth')
    for arguments, message in (
            (('--blend', '0.5'), 'go together'),
            (('--start', tmp_path / 'start.pth'), 'go together'),
            (('--blend', '0.5', '--start', tmp_path / 'other.pth'),
             'other shapes'),
            (('--blend', '0.5', '--start', tmp_path / 'no.pth'),
             'no such file'),
            (('--recalibrate', tmp_path), 'needs --config')):
        with pytest.raises(SystemExit, match=message):
            call(publish_backbone, tmp_path / 'epoch_3.pth', *arguments)


def test_recalibrate(photo_root, tmp_path, call):
    end = checkpoint(tmp_path / 'epoch_3.pth')['online'].state_dict()
    arguments = ('--recalibrate', photo_root, '--config', CONFIG)
    said = call(publish_backbone, tmp_path / 'epoch_3.pth', *arguments)
    assert "'recalibrated_on': 12" in said
    state = published(tmp_path)['state_dict']
    for key, value in end.items():
        same = torch.equal(state[key], value)
        assert same != ('running' in key or 'num_batches' in key), key

    # The first batch norm, of the pictures as networks are tested with.
    from cyborgs_plugin.datasets.image_io import read_image
    pictures = []
    for number in range(12):
        image = publish_backbone.centre(
            read_image(str(photo_root / 'train2017' / f'{number:02d}.png')))
        assert image.shape == (224, 224, 3)
        pictures.append(image[..., ::-1].astype(np.float32))
    images = (np.stack(pictures) - [123.675, 116.28, 103.53]) / [
        58.395, 57.12, 57.375]
    inside = torch.nn.functional.conv2d(
        torch.from_numpy(images).float().permute(0, 3, 1, 2),
        end['conv1.weight'], stride=2, padding=3)
    torch.testing.assert_close(
        state['bn1.running_mean'], inside.mean((0, 2, 3)), atol=1e-3,
        rtol=1e-3)
    torch.testing.assert_close(
        state['bn1.running_var'], inside.var((0, 2, 3)), atol=1e-3,
        rtol=1e-3)

    few = tmp_path / 'few'
    write_photo(few / 'a.png')
    (few / 'b.png').write_bytes(b'no picture')
    with pytest.raises(SystemExit, match='--num-images must be 8 or more'):
        call(publish_backbone, tmp_path / 'epoch_3.pth', *arguments,
             '--num-images', 5)
    with pytest.raises(SystemExit, match='1 pictures can be read'):
        call(publish_backbone, tmp_path / 'epoch_3.pth', '--recalibrate', few,
             '--config', CONFIG)
    with pytest.raises(SystemExit, match='does not fit'):
        call(publish_backbone, tmp_path / 'epoch_3.pth', '--recalibrate',
             photo_root, '--config', osp.join(
                 ROOT, 'configs', 'cyborgs_continue_mobilenetv2.py'))
