"""Where the data lie, and how large views are: short options."""
import logging

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from cyborgs_plugin.engine.config_options import merge_options
from cyborgs_plugin.errors import UserError

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


@pytest.mark.parametrize('name', ['cyborgs_coco', 'cyborgs_toy',
                                  'baselines/byol_r18_coco-mini',
                                  'ablations/masks_k32'])
def test_short_options(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(RECIPE.replace('cyborgs_coco', name))
    merge_options(cfg, dict(data='my photos', view_size=80))
    dataset = cfg.train_dataloader.dataset
    folder = str(tmp_path / 'my photos')
    assert dataset.data_prefix in (folder, dict(img_path=folder))
    assert [view[0].scale for view in dataset.pipeline[1].transforms
            ] == [80, 80]


@pytest.mark.parametrize('size', ['abc', 0, -8, 9.5, True, [64, 64]])
def test_what_is_no_size_of_a_view(size):
    with pytest.raises(UserError, match='view_size=.*positive whole number'):
        merge_options(Config.fromfile(RECIPE), dict(view_size=size))


@pytest.mark.parametrize('size, stride, few', [
    (160, None, False), (159, None, True), (80, 16, False), (79, 16, True)])
def test_views_of_few_cells_are_warned_of(size, stride, few, caplog):
    logger = MMLogger.get_instance('few_cells')
    logger.addHandler(caplog.handler)
    options = dict(view_size=size)
    if stride:
        options['model.neck.grid_stride'] = stride
    with caplog.at_level(logging.WARNING):
        merge_options(Config.fromfile(RECIPE), options)
    said = [line for line in caplog.messages if 'model.neck.grid_s' in line]
    assert len(said) == few
    assert not few or '4 whole cells' in said[0]


def test_short_options_without_anything_to_set():
    cfg = Config.fromfile(RECIPE)
    cfg.train_dataloader.dataset.pop('data_prefix')
    with pytest.raises(UserError, match='data_prefix'):
        merge_options(cfg, dict(data='x'))
    cfg.train_dataloader.dataset.pipeline.pop(1)
    with pytest.raises(UserError, match='RandomResizedCrop'):
        merge_options(cfg, dict(view_size=64))
