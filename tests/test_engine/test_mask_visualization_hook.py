"""Each new round is shown once, beside the ones before."""
import cv2
import pytest

from cyborgs_plugin.engine import MaskVisualizationHook

from ..helpers import small_run


def sheets(work):
    return sorted(work.glob('*/vis_data/vis_image/masks_*.png'))


def test_shows_each_round(photo_root, tmp_path):
    hook = dict(type='MaskVisualizationHook', num_images=2)
    run = small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 4, 'custom_hooks': [hook]})
    run.train()
    found = sheets(tmp_path / 'w')
    assert [file.stem for file in found] == [
        'masks_0', 'masks_3', 'masks_6', 'masks_9']
    widths = [cv2.imread(str(file)).shape[1] for file in found]
    assert widths == [400, 600, 800, 800]  # image, first, before, current
    [shown] = [hook for hook in run.hooks
               if isinstance(hook, MaskVisualizationHook)]
    assert list(shown._columns) == ['round 0', 'round 2', 'round 3']
    assert len(shown._images) == 2


def test_a_round_that_stays_is_shown_once(photo_root, tmp_path):
    hook = dict(type='MaskVisualizationHook', num_images=50)
    run = small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 3, 'custom_hooks': [hook],
        'default_hooks.mask_update.interval': -1})
    run.train()
    assert [file.stem for file in sheets(tmp_path / 'w')] == ['masks_0']


def test_a_broken_image_is_reported_and_left_out(photo_root, tmp_path):
    broken = next((photo_root / 'train2017').glob('*.png'))
    broken.write_bytes(b'')
    hook = dict(type='MaskVisualizationHook', num_images=50)
    run = small_run(photo_root, tmp_path / 'w', **{
        'train_cfg.max_epochs': 1, 'custom_hooks': [hook]})
    run.train()
    [shown] = [hook for hook in run.hooks
               if isinstance(hook, MaskVisualizationHook)]
    keys = [key for key, _ in shown._images]
    assert keys and not any(broken.name in key for key in keys)
    assert len(sheets(tmp_path / 'w')) == 1


def test_needs_an_image():
    with pytest.raises(ValueError, match='num_images must be .* 0'):
        MaskVisualizationHook(0)
