"""Configs that cannot be read are refused in a line that names them."""
import pytest
from mmengine.config import Config

from cyborgs_plugin import config_path
from cyborgs_plugin.config_path import load_config
from cyborgs_plugin.errors import MissingPackageError, UserError

from .helpers import ROOT

READ_BASE = 'from mmengine.config import read_base\nwith read_base():\n    '


@pytest.mark.parametrize('text, expected', [
    ('_base_ = "cyborgs_plugin::cyborgs_cocoo.py"', 'cyborgs_cocoo.py'),
    ('_base_ = "gone.py"', 'gone.py'),
    ('_base_ = ["cyborgs_plugin::cyborgs_toy.py",\n'
     '          "cyborgs_plugin::cyborgs_coco.py"]', 'Of several bases no'),
    (f'{READ_BASE}from cyborgs_plugin.configs.cyborgs_coco import *',
     'cyborgs_coco.py not found'),
    (f'{READ_BASE}from .gone import *', 'gone.py not found'),
    ('custom_imports = dict(imports=["gone"], allow_failed_imports=False)',
     "Failed to import gone: No module named 'gone'; if it is a module of"),
    ('custom_imports = dict(imports=["mmdet.gone"])',
     'mmdet comes with the extra cyborgs_plugin[transfer]'),
    ('no python', 'cannot be read as a config'),
])
def test_what_cannot_be_read(tmp_path, text, expected):
    path = tmp_path / 'own.py'
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        load_config(str(path))
    assert 'own.py' in str(refused.value) and expected in str(refused.value)


@pytest.mark.parametrize('name', ['cyborgs_toy.py',
                                  'ablations/masks_layer3.py'])
def test_bases_by_name_are_what_their_paths_give(name, tmp_path):
    """Without a scope of their own, in either family's mmengine."""
    path = tmp_path / 'own.py'
    path.write_text(f'_base_ = ["cyborgs_plugin::{name}"]\nseed = 3')
    by_name = Config.fromfile(path)
    path.write_text(f'_base_ = ["{ROOT}/configs/{name}"]\nseed = 3')
    assert by_name.to_dict() == Config.fromfile(path).to_dict()
    assert by_name.seed == 3 and by_name.default_scope == 'mmpretrain'


def test_a_mistake_in_the_code_of_a_config_keeps_its_traceback(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text('x = dict(a=1)["b"]')
    with pytest.raises(KeyError, match='b'):
        load_config(str(path))


@pytest.mark.needs('ops')
def test_bases_of_mmseg(tmp_path, monkeypatch):
    """Which mmengine's table knows by the name of the other family alone."""
    path = tmp_path / 'own.py'
    path.write_text("_base_ = ['mmseg::_base_/models/fpn_r50.py',\n"
                    "          'mmseg::_base_/default_runtime.py']")
    cfg = load_config(str(path))
    assert cfg.model.decode_head.type == 'FPNHead'
    assert cfg.default_scope == 'mmseg'

    path.write_text("default_scope = 'mmseg'")
    monkeypatch.setattr(config_path, 'find_spec', lambda name: None)
    with pytest.raises(MissingPackageError, match=r'own.py is of mmseg.*'
                       r'\[segmentation\].*\[segmentation-openmmlab\]'):
        load_config(str(path))
