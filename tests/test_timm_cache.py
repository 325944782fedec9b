"""Weights that timm has on this machine, found without the network."""
import os

import pytest

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.timm_cache import find_cached

NAME = 'resnet18.a1_in1k'


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """An empty cache of the hub and of torch; no network."""
    pytest.importorskip('timm')
    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError('asked the network')

    monkeypatch.setattr('socket.socket.connect', refuse)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr('torch.hub._hub_dir', None)
    return tmp_path


def in_hub(root, file, repo='timm/resnet18.a1_in1k'):
    """A file as the hub's client leaves it."""
    folder = root / 'hub' / f'models--{repo.replace("/", "--")}'
    commit = 40 * 'a'
    (folder / 'refs').mkdir(parents=True)
    (folder / 'refs' / 'main').write_text(commit)
    path = folder / 'snapshots' / commit / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b'weights')
    return path


@pytest.mark.parametrize('asked', [NAME, 'resnet18', f'timm:{NAME}'])
@pytest.mark.parametrize('file', ['model.safetensors', 'pytorch_model.bin'])
def test_in_the_cache_of_the_hub(caches, asked, file):
    path = in_hub(caches, file)
    assert find_cached(asked) == str(path)


def test_in_the_cache_of_torch(caches):
    path = caches / 'torch' / 'hub' / 'checkpoints' / (
        'resnet18_a1_0-d63eafa0.pth')
    path.parent.mkdir(parents=True)
    path.write_bytes(b'weights')
    assert find_cached('resnet18') == str(path)


def test_not_on_this_machine(caches):
    with pytest.raises(UserError) as stopped:
        find_cached(NAME)
    said = str(stopped.value)
    for part in ('huggingface.co/timm/resnet18.a1_in1k', str(caches / 'hub'),
                 'resnet18_a1_0-d63eafa0.pth', 'nothing is downloaded'):
        assert part in said
    assert os.listdir(caches) == []  # not even a folder


@pytest.mark.parametrize('name, said', [
    ('resnet19', 'no such file, and timm has no model'),
    ('timm:weights', 'no such file, and timm has no model'),
    ('resnet18.none', 'Invalid pretrained tag'),
    ('botnet50ts_256', 'no weights of botnet50ts_256'),
])
def test_unknown_names(caches, name, said):
    with pytest.raises(UserError, match=said):
        find_cached(name)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    with pytest.raises(UserError, match='pip install timm'):
        find_cached(NAME)
