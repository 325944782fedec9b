"""Short options of a config, written out."""
import pytest
from mmengine.config import Config

from cyborgs_plugin.engine.config_options import merge_options
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT, TOY, run_train, write_photo

BYOL = f'{ROOT}/configs/baselines/byol_r18_coco-mini.py'


def test_several_folders_are_one_option(tmp_path):
    folders = [str(tmp_path / name) for name in 'ab']
    for given, expected in ((folders, folders), (folders[:1], folders[0])):
        merge_options(cfg := Config.fromfile(TOY), dict(data=given))
        data = cfg.train_dataloader.dataset
        assert data.data_prefix == dict(img_path=expected)
        assert data.ann_file == ''
    for path, data, said in ((BYOL, folders, 'CustomDataset.*one folder'),
                             (TOY, [], 'expected a folder')):
        with pytest.raises(UserError, match=said):
            merge_options(Config.fromfile(path), dict(data=data))


@pytest.mark.slow
def test_a_run_on_two_folders(tmp_path):
    """Whose files have the same names."""
    for place in 'ab':
        for number in range(6):
            write_photo(tmp_path / place / 'cam' / f'{number}.png')
    done = run_train([
        '--work-dir', str(tmp_path / 'run'), '--cfg-options',
        f'data=[{tmp_path}/a/cam,{tmp_path}/b/cam]',
        'train_cfg.max_epochs=1', 'view_size=80',
        'train_dataloader.batch_size=6',
        'default_hooks.mask_update.source.long_side=None'])
    assert 'Mask round 0: 12 images' in done.stdout
