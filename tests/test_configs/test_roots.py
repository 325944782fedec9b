"""Where the data lie: an environment variable, or an option."""
import pytest
from mmengine.config import Config

from cyborgs_plugin.engine.config_options import merge_options

from ..helpers import RECIPE


@pytest.mark.parametrize('name', ['cyborgs_coco', 'cyborgs_small_data',
                                  'baselines/byol_r18_coco-mini'])
def test_coco_root_moves_the_data_of_a_recipe(name, monkeypatch):
    path = RECIPE.replace('cyborgs_coco', name)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    assert Config.fromfile(path).train_dataloader.dataset.data_root == (
        'data/coco/')
    monkeypatch.setenv('COCO_ROOT', '/disk/coco')
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.dataset.data_root == '/disk/coco/'
    merge_options(cfg, {'data_root': '/other'})  # the option goes first
    assert cfg.train_dataloader.dataset.data_root == '/other/'
