"""Views that grow."""
import pytest
from mmengine.hooks import Hook

from cyborgs_plugin.engine import ViewSizeHook
from cyborgs_plugin.errors import UserError

from ..helpers import small_run

GROWING = {
    'custom_hooks': [dict(type='ViewSizeHook', start=32, step=16)],
    'view_size': 64, 'train_cfg.max_epochs': 4, 'model.neck.grid_stride': 16,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'default_hooks.mask_update.interval': -1,
    'default_hooks.mask_update.initial': dict(type='GridMasks')
}


class Sizes(Hook):

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.setdefault(runner.epoch, set()).update(
            (*view.shape[2:], *sample.mask.shape[1:])
            for view in data_batch['inputs']
            for sample in data_batch['data_samples'])


def sizes(photo_root, work_dir, **options):
    options = dict(GROWING, **options)
    side = options.pop('view_size')
    options.update({
        f'train_dataloader.dataset.pipeline.1.transforms.{view}.0.scale': side
        for view in range(2)})
    runner = small_run(photo_root, work_dir, **options)
    runner.register_hook(hook := Sizes())
    runner.train()
    return {epoch: seen.pop() for epoch, seen in hook.seen.items()
            if len(seen) == 1}


@pytest.mark.parametrize('workers', [0, 2])
def test_sides_grow_and_label_maps_with_them(photo_root, tmp_path, workers):
    options = {'train_dataloader.num_workers': workers,
               'train_dataloader.persistent_workers': workers > 0}
    found = sizes(photo_root, tmp_path / 'w', **options)
    # of 3 epochs' growth 0, 1/3, 2/3, 1: 32, 42.7, 53.3, 64
    assert found == {epoch: (side, ) * 4 for epoch, side in enumerate(
        (32, 32, 48, 64))}
    (tmp_path / 'w' / 'last_checkpoint').write_text(
        str(tmp_path / 'w' / 'epoch_2.pth'))
    again = sizes(photo_root, tmp_path / 'w', resume=True, **options)
    assert again == {epoch: found[epoch] for epoch in (2, 3)}


@pytest.mark.parametrize('options', [
    dict(start=100, step=32), dict(start=0), dict(step=0), dict(until=0.),
    dict(until=1.5)])
def test_wrong_options(options):
    with pytest.raises(UserError, match='ViewSizeHook takes start'):
        ViewSizeHook(**options)


@pytest.mark.parametrize('options, said', [
    ({'view_size': 16}, 'at most the side of the views.*16'),
    ({'default_hooks.device_data': dict(type='DeviceDataHook')},
     'data_on_device=True makes no use'),
])
def test_what_does_not_grow(photo_root, tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        sizes(photo_root, tmp_path / 'w', **options)
