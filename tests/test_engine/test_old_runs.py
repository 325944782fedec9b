"""A checkpoint and a bank of commit f15b0f3 go on with this code.

tests/data/f15b0f3/make.py made them.
"""
import os.path as osp
import shutil
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from cyborgs_plugin.datasets import MaskBank

from ..helpers import ROOT, publish_backbone

sys.path.insert(0, osp.join(ROOT, 'tools'))
import generate_masks  # noqa: E402
import train  # noqa: E402

CONFIG, CHECKPOINT = 'run/cyborgs_toy.py', 'run/epoch_3.pth'
ROUND = 'run/masks/round_0001'


@pytest.fixture(autouse=True)
def _old_run(tmp_path, monkeypatch):
    shutil.unpack_archive(
        osp.join(ROOT, 'tests', 'data', 'f15b0f3', 'run.zip'), tmp_path)
    monkeypatch.chdir(tmp_path)  # the paths of its config are relative


def saved():
    return torch.load(CHECKPOINT, weights_only=False)


def test_the_bank_opens():
    bank = MaskBank.open(ROUND, verify=True)
    hub = saved()['message_hub']['runtime_info']
    assert (bank.round, bank.hash) == (hub['mask_round'], hub['mask_hash'])
    assert bank.keys() == [f'train2017/{i:02d}.png' for i in range(12)]
    sizes = {bank.label_map(key).shape for key in bank.keys()}
    assert sizes == {(6, 8), (8, 6)}


def test_the_names_of_the_weights_are_the_same():
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    MODELS.build(cfg.model).load_state_dict(saved()['state_dict'])


def test_training_resumes_with_the_same_round(call):
    before, expected = saved(), MaskBank.open(ROUND).hash
    call(train, CONFIG, '--work-dir', 'run', '--resume', CHECKPOINT,
         '--cfg-options', 'train_cfg.max_epochs=4')
    after = torch.load('run/epoch_4.pth', weights_only=False)
    assert (after['meta']['epoch'], after['meta']['iter']) == (4, 12)
    hub = after['message_hub']['runtime_info']
    assert (hub['mask_round'], hub['mask_hash']) == (1, expected)
    # Both the optimizer and what the round was made from went on.
    steps = {
        int(state['step'])
        for state in after['optimizer']['state'].values()
    }
    assert steps == {12}
    origin = after['mask_origin']
    assert origin['round'] == 1
    for name, tensor in before['mask_origin']['network'].items():
        assert torch.equal(origin['network'][name], tensor), name


def test_its_backbone_is_published(call):
    out = call(publish_backbone, CHECKPOINT, '--out-dir', 'published')
    published = torch.load(out.split()[-1], weights_only=True)
    assert published['meta']['mask_round'] == 1
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.load_state_dict({
        name: tensor for name, tensor in published['state_dict'].items()
        if not name.startswith('backbone.')  # the second names
    })
    state = saved()['state_dict']
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[f'backbone.{name}']), name


def test_its_round_is_made_again(call):
    shutil.move(ROUND, 'old')
    call(generate_masks, CONFIG, CHECKPOINT, '--again')
    old, again = MaskBank.open('old'), MaskBank.open(ROUND, verify=True)
    assert again.manifest == old.manifest
