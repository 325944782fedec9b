"""Pretraining from Python; afterwards other tools start from the file."""
import os
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file

import cyborgs_plugin
from cyborgs_plugin import Result, factories, pretrain
from cyborgs_plugin.advice import plan
from cyborgs_plugin.errors import UserError

from .helpers import ROOT, write_photo
from .own_network import OwnNetwork
from .warm_python import python

OUTPUTS = ['middle', 'last']


@pytest.fixture
def photos(tmp_path):
    for number in range(8):
        write_photo(tmp_path / 'photos' / f'{number}.jpg', (72, 96), number)
    return str(tmp_path / 'photos')


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(plan, 'epochs_for', lambda *given: 1)
    monkeypatch.setattr(factories, '_given', [])


def loads(result, network):
    """Load the published file as its users do; give the state."""
    state = load_file(result.weights)
    found = network.load_state_dict(state, strict=False)
    assert not found.missing_keys and not found.unexpected_keys
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    return state


@pytest.mark.slow
def test_a_function_by_name_in_its_own_process(
        photos, tmp_path, monkeypatch, capsys):
    """As users have it: their file is in the folder of their script."""
    (tmp_path / 'scripts').mkdir()
    text = open(f'{ROOT}/tests/own_network.py').read()
    (tmp_path / 'scripts' / 'users_network.py').write_text(text)
    monkeypatch.syspath_prepend(tmp_path / 'scripts')
    monkeypatch.setattr(sys, 'executable', python())
    out = str(tmp_path / 'run')
    model = 'users_network:OwnNetwork'
    planned = pretrain(photos, out, model, OUTPUTS, mean=[0, 0, 0],
                       std=[255] * 3, dry_run=True)
    assert planned == Result(out, f'{out}/config.py')
    cfg = Config.fromfile(planned.config)
    assert cfg.model.backbone == dict(
        type='ModuleBackbone', factory=model, outputs=OUTPUTS)
    assert cfg.model.neck.in_indices == (0, 1)
    assert cfg.model.data_preprocessor.std == [255.] * 3
    text = open(planned.config).read()
    text = re.sub(r'max_epochs=\d+', 'max_epochs=1', text)
    with open(planned.config, 'w') as file:
        file.write(text)
    result = pretrain(photos, out, resume=True)
    assert 'masks are made of' in capsys.readouterr().out
    assert result.checkpoint == f'{out}/epoch_1.pth'
    state = loads(result, OwnNetwork())
    torch.manual_seed(0)
    made = torch.load(result.backbone, weights_only=True)
    assert made['meta']['std'] == [255.] * 3
    # under the names of the toolbox as well, for a detector of mmdet
    for key, value in state.items():
        assert torch.equal(made['state_dict'][f'backbone.network.{key}'],
                           value)
    with pytest.raises(UserError, match='no submodule .*cyborgs pretrain'):
        pretrain(photos, f'{out}2', model, ['nothing'])


@pytest.mark.slow
def test_a_module_in_this_process(photos, tmp_path, short, capsys):
    network = OwnNetwork()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    out = str(tmp_path / 'run')
    places = list(sys.path)
    result = pretrain(photos, out, network, OUTPUTS, start=True)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])  # a copy was trained
    said = capsys.readouterr().out
    assert f'Start: {out}/start.pth' in said
    state = loads(result, network)
    assert not torch.equal(state['stem.0.weight'], before['stem.0.weight'])
    assert torch.equal(state['head.weight'], before['head.weight'])
    cfg = Config.fromfile(result.config)
    assert cfg.model.backbone.norm_eval
    assert cfg.model.backbone.init_cfg.checkpoint == f'{out}/start.pth'
    assert sys.argv[0] != 'pretrain.py' and sys.path == places

    # it goes on with the same module; no other process has it
    text = open(result.config).read()
    with open(result.config, 'w') as file:
        file.write(text.replace('max_epochs=1', 'max_epochs=2'))
    done = subprocess.run(
        [python(), '-m', 'cyborgs_plugin', 'pretrain', photos, '--out', out,
         '--resume'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=dict(os.environ, PYTHONPATH=ROOT))
    assert done.returncode == 1
    assert 'as an object, which no other process can create' in done.stdout
    again = pretrain(photos, out, network, OUTPUTS, resume=True)
    assert again.checkpoint == f'{out}/epoch_2.pth'
    assert again.weights != result.weights


@pytest.mark.slow
def test_the_body_of_torchvisions_detector(photos, tmp_path, short):
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    def detector():
        return fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=3,
            min_size=64, max_size=96)

    torch.manual_seed(0)
    before = detector().backbone.body
    result = pretrain(photos, str(tmp_path / 'run'), before,
                      ['layer2', 'layer3', 'layer4'])
    model = detector()
    state = loads(result, model.backbone.body)
    assert not torch.equal(state['conv1.weight'], before.conv1.weight)
    # fine-tuned by their own code
    model.train()
    losses = model(
        [torch.rand(3, 64, 96)],
        [dict(boxes=torch.tensor([[8., 8., 40., 40.]]),
              labels=torch.tensor([1]))])
    sum(losses.values()).backward()
    assert model.backbone.body.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('given, said', [
    (dict(model=OwnNetwork(), gpus=2), 'gpus=2 is not possible'),
    (dict(start=True), 'start=True needs a module'),
    (dict(model=OwnNetwork()), 'needs --outputs'),
])
def test_mistakes_are_named(photos, tmp_path, short, given, said):
    with pytest.raises(UserError, match=said):
        pretrain(photos, str(tmp_path / 'run'), **given)
    assert not (tmp_path / 'run').exists()


def test_importing_it_costs_nothing():
    """It is imported with the package, whose users may never call it."""
    path = cyborgs_plugin.api.__file__
    source = open(path).read()
    heavy = re.findall(r'^(?:import|from) (torch|mm|\.engine)', source, re.M)
    assert not heavy
