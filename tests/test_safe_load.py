"""Checkpoints are read without running what they hold."""
import io
import os
import pickle
import zipfile
from collections import deque
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from torch import nn

from cyborgs_plugin import files, safe_load
from cyborgs_plugin.engine import PretrainedCheckHook
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.safe_load import (
    is_address,
    load_weights,
    loading_safely,
    plain_dtype,
    tensors_of,
)

from .helpers import OneWeight, small_run
from .test_tools.test_evil_files import Canary, evil_checkpoints, saved, zipped

FORCE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


@pytest.fixture(autouse=True, params=['', 'before 2.5'])
def torch_version(request, monkeypatch):
    """Once with what torch has, once as if it had no list of safe names."""
    if request.param:
        monkeypatch.delattr(torch.serialization, 'safe_globals',
                            raising=False)


@pytest.mark.parametrize('name', evil_checkpoints(''))
def test_nothing_runs(tmp_path, name):
    path, canary = tmp_path / f'{name}.pth', tmp_path / 'canary'
    path.write_bytes(evil_checkpoints(canary)[name])
    for log in (False, True):
        with pytest.raises(UserError, match=f'{name}.pth'):
            load_weights(str(path), log=log)
    with loading_safely(), pytest.raises(UserError, match=f'{name}.pth'):
        load_checkpoint(nn.Linear(1, 1), str(path))
    assert not canary.exists()


def test_a_whole_run_is_read_as_it_was_written(photo_root, tmp_path):
    """What mmengine's own checkpoints need, and resuming with it."""
    run = small_run(photo_root, tmp_path / 'w', **{'train_cfg.max_epochs': 1})
    run.train()
    path = str(tmp_path / 'w' / 'epoch_1.pth')
    found = load_weights(path, log=True)
    expected = torch.load(path, weights_only=False)
    assert set(found) == set(expected)
    for key, value in expected['state_dict'].items():
        assert torch.equal(found['state_dict'][key], value)
    for key in ('meta', 'optimizer', 'param_schedulers'):
        assert str(found[key]) == str(expected[key])
    logs = [one['message_hub']['log_scalars'] for one in (found, expected)]
    assert len(logs[0]) > 3
    for name, buffer in logs[1].items():
        np.testing.assert_array_equal(logs[0][name].data[0], buffer.data[0])
        assert logs[0][name].mean() == buffer.mean()
    with pytest.raises(UserError, match='history_buffer.*publish_backbone'):
        load_weights(path)


@pytest.mark.parametrize('legacy', [False, True])
def test_values_of_logs(tmp_path, legacy):
    content = dict(
        a=np.arange(3), b=np.float32(2), c=HistoryBuffer([1., 2.], [1, 1]),
        d=deque([1, 2], 3), e=torch.ones(2), f=np.zeros(2, bool))
    torch.save(content, tmp_path / 'x.pth',
               _use_new_zipfile_serialization=not legacy)
    found = load_weights(str(tmp_path / 'x.pth'), log=True)
    assert found['a'].tolist() == [0, 1, 2] and found['b'] == 2
    assert found['c'].max() == 2 and found['d'] == [1, 2]
    assert found['e'].tolist() == [1, 1] and found['f'].dtype == bool
    # no name is allowed for longer than that
    with pytest.raises(UnpicklingError):
        torch.load(tmp_path / 'x.pth', weights_only=True)


class Getattr:

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


class Dtype:
    """Numbers that are said to be addresses of objects."""

    def __reduce__(self):
        return np.dtype, ('f8', False, True), (
            3, '|', None, ('a', ), {'a': (np.dtype('O'), 0)}, 8, 1, 0)


def test_what_is_allowed_cannot_be_turned(tmp_path):
    torch.save(dict(a=Getattr()), tmp_path / 'x.pth')
    with pytest.raises(UserError, match='builtins.getattr'):
        load_weights(str(tmp_path / 'x.pth'), log=True)
    torch.save(dict(a=Dtype()), tmp_path / 'x.pth')
    assert pickle.loads(pickle.dumps(Dtype())).fields
    found = load_weights(str(tmp_path / 'x.pth'), log=True)['a']
    assert found == np.dtype('f8') and found.fields is None
    for code in ('V8', 'O,f8', 'U3', 7):
        with pytest.raises(UnpicklingError, match='array of'):
            plain_dtype(code)


def test_values_that_grow_after_they_were_held(tmp_path):
    """Each of 60 lists gets the next one twice, the outermost first."""
    pickled = b'\x80\x02'
    pickled += b''.join(b']q%c' % number for number in range(60))
    pickled += b''.join(b'h%c(h%ch%ce' % (number, number + 1, number + 1)
                        for number in range(59))
    (tmp_path / 'x.pth').write_bytes(zipped(pickled + b'h\0.'))
    with pytest.raises(UserError, match='more than 10000000'):
        load_weights(str(tmp_path / 'x.pth'))


class Command:

    def __reduce__(self):
        return os.system, ('true', )


@pytest.mark.parametrize('log', [False, True])
def test_a_refusal_names_what_was_asked_for_alone(tmp_path, log):
    path = tmp_path / 'x.pth'
    torch.save(dict(a=Command()), path)
    with pytest.raises(UserError, match=r'\(posix.system\). If you trust'
                       ) as refused:
        load_weights(str(path), log=log)
    for other in ('publish_backbone', 'weights_only', '--trust'):
        assert other not in str(refused.value)


def test_a_loader_of_mmengine_can_be_told_to_trust(tmp_path):
    torch.save(dict(a=Command()), tmp_path / 'x.pth')
    with loading_safely(), pytest.raises(
            UserError, match='or give --trust-checkpoint'):
        load_checkpoint(nn.Linear(1, 1), str(tmp_path / 'x.pth'))


@pytest.mark.skipif(not hasattr(torch.serialization, 'safe_globals'),
                    reason='torch < 2.5 says other words')
@pytest.mark.parametrize('torch_version', [''], indirect=True)
def test_torch_s_advice_is_left_out(tmp_path):
    (tmp_path / 'x.pth').write_bytes(zipped(b'\x80\x02}}b.'))
    with pytest.raises(UserError, match=r"\(Can only build .*'dict'>\). If"
                       ) as refused:
        load_weights(str(tmp_path / 'x.pth'))
    assert 'documentation' not in str(refused.value)


@pytest.mark.parametrize('name', ['x.pth', 'x-01234567.pth'])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, name):
    path = tmp_path / name
    torch.save(dict(a=torch.ones(1)), path)

    def denied(*_):
        raise PermissionError(13, 'Permission denied')

    for module in (files, safe_load):  # root may read all
        monkeypatch.setattr(module, 'open', denied, raising=False)
    with pytest.raises(UserError, match=f'{name} may not be read') as error:
        load_weights(str(path))
    assert 'truncated' not in str(error.value)


def test_a_file_that_grows_in_memory(tmp_path, monkeypatch):
    good = saved(dict(a=torch.ones(1000)))
    path = tmp_path / 'x.pth'
    path.write_bytes(good)
    assert load_weights(str(path))['a'].sum() == 1000
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    with pytest.raises(UserError, match='x.pth is refused: its parts are com'):
        load_weights(str(path))
    path.write_bytes(good)
    monkeypatch.setattr(safe_load, 'MAX_PICKLE', 10)
    with pytest.raises(UserError, match=r'/data.pkl has \d+ bytes, more'):
        load_weights(str(path))


def test_values_that_nothing_holds(monkeypatch):
    monkeypatch.setattr(safe_load, 'MAX_SIZE', 1000)
    for many in (b']0', b'2', b'\x94'):  # made and dropped, doubled, kept
        with pytest.raises(safe_load.KnotError, match='more than 1000'):
            safe_load.check_nesting(
                io.BytesIO(b'\x80\x04]' + 2000 * many + b'.'))


@pytest.mark.parametrize('content, key', [
    (dict(state_dict={3: torch.ones(1)}), "a key is '3' of type int"),
    ({3: torch.ones(1)}, "a key is '3' of type int"),
    (dict(message_hub=dict(runtime_info=[])), 'message_hub.runtime_info'),
    (dict(message_hub=dict(log_scalars=3)), 'message_hub.log_scalars')])
def test_other_structures(tmp_path, content, key):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=f'x.pth.*{key}'):
        load_weights(str(tmp_path / 'x.pth'))


def test_tensors_of():
    tensors = dict(a=torch.ones(1), b=3, c=torch.ones(1, device='meta'))
    assert list(tensors_of(dict(a=tensors['a'], b=3), 'x')) == ['a']
    with pytest.raises(UserError, match='x: c is a tensor without plain'):
        tensors_of(dict(state_dict=tensors), 'x')


def test_addresses():
    assert is_address('https://x/y.pth') and is_address('torchvision://x')
    assert not is_address('x/y.pth')
    for name in ('s3://x/y.pth', 'file:///x', 'folder/https://x'):
        with pytest.raises(UserError, match='holds "://"'):
            is_address(name)


def test_downloads_are_read_as_weights(tmp_path, monkeypatch):
    """Also where the toolbox asks torch to trust the file."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    torch.save(dict(a=Canary(tmp_path / 'canary')), folder / 'x.pth')
    with loading_safely():
        for address in ('https://x.example/x.pth', 'torchvision://no_such'):
            with pytest.raises(UserError, match=address):
                CheckpointLoader.load_checkpoint(address, 'cpu')
    assert not (tmp_path / 'canary').exists()


def test_mmengine_is_as_it_was(monkeypatch):
    before = dict(CheckpointLoader._schemes)
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    with pytest.raises(ZeroDivisionError), loading_safely():
        assert os.environ[FORCE] == '1'
        with loading_safely():
            assert CheckpointLoader._schemes[''] is not before['']
        assert CheckpointLoader._schemes[''] is not before['']
        raise ZeroDivisionError
    assert CheckpointLoader._schemes == before
    assert FORCE not in os.environ
    assert os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] == '1'
    with loading_safely(trust=True):
        assert CheckpointLoader._schemes == before


@pytest.mark.parametrize('torch_version', [''], indirect=True)
def test_trust_reaches_torch(tmp_path):
    """To which the original mmengine leaves it; torch trusts none from 2.6."""
    path, canary = tmp_path / 'x.pth', tmp_path / 'canary'
    torch.save(dict(a=Canary(canary)), path)
    before = dict(os.environ)
    with loading_safely(trust=True):
        with loading_safely(trust=True):
            pass
        torch.load(path)
    assert canary.exists() and dict(os.environ) == before


def runner(work_dir, path, resume=True, **hook):
    run = Runner(
        OneWeight(), str(work_dir),
        train_dataloader=torch.utils.data.DataLoader([[torch.ones(1)]] * 2),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        load_from=str(path), resume=resume,
        experiment_name=f'{work_dir}{resume}{hook}')
    run.register_hook(PretrainedCheckHook(**hook))
    return run


def state(**more):
    return dict(
        state_dict=OneWeight().state_dict(),
        meta=dict(epoch=1, iter=2, **more.pop('meta', {})),
        message_hub=dict(
            log_scalars={}, runtime_info={}, resumed_keys={}), **more)


@pytest.mark.parametrize('torch_version', [''], indirect=True)
def test_the_hook_runs_no_code(tmp_path):
    path, canary = tmp_path / 'x.pth', tmp_path / 'canary'
    before = CheckpointLoader._schemes
    torch.save(state(evil=Canary(canary)), path)
    with pytest.raises(UserError, match='x.pth is refused'):
        runner(tmp_path / 'a', path).train()
    assert not canary.exists()
    # nothing has told the hook of the end
    del os.environ[FORCE]
    CheckpointLoader._schemes = before
    runner(tmp_path / 'b', path, trust_checkpoint=True).train()
    assert canary.exists()
    torch.save(state(), path)
    runner(tmp_path / 'c', path).train()
    assert CheckpointLoader._schemes is before and FORCE not in os.environ


@pytest.mark.parametrize('torch_version', [''], indirect=True)
def test_a_config_in_a_checkpoint_is_not_run(tmp_path):
    """mmengine runs the text of ``meta.config`` as it resumes."""
    path, canary = tmp_path / 'x.pth', tmp_path / 'canary'
    torch.save(state(meta=dict(config=f"open({str(canary)!r}, 'w')\n")), path)
    runner(tmp_path / 'a', path).train()
    assert not canary.exists()
    runner(tmp_path / 'b', path, trust_checkpoint=True).train()
    assert canary.exists()


@pytest.mark.parametrize('key, value', [
    ('meta.epoch', '1'), ('meta.iter', -1), ('meta.seed', 'x'),
    ('meta.seed', 2**32), ('message_hub.runtime_info', []),
    ('message_hub.resumed_keys', 3), ('optimizer', 3),
    ('optimizer', dict(one=dict(state=3))),
    ('optimizer.state', []), ('optimizer.param_groups', [3]),
    ('param_schedulers', 3), ('param_schedulers', [3])])
def test_what_was_altered_is_not_resumed(tmp_path, key, value):
    path = tmp_path / 'x.pth'
    optimizer = torch.optim.SGD(OneWeight().parameters(), 0.1)
    content = state(optimizer=optimizer.state_dict(), param_schedulers=[])
    torch.save(content, path)
    runner(tmp_path / 'a', path).train()
    *parts, last = key.split('.')
    (content[parts[0]] if parts else content)[last] = value
    torch.save(content, path)
    with pytest.raises(UserError, match=f'x.pth.*{key}'):
        runner(tmp_path / 'b', path).train()


def test_a_pretraining_without_the_tools_runs_no_code(tmp_path, photo_root):
    """Any Runner of a config of ours, as mim starts one."""
    path, canary = tmp_path / 'evil.pth', tmp_path / 'canary'
    before = CheckpointLoader._schemes
    torch.save(dict(state_dict={}, evil=Canary(canary)), path)
    run = small_run(photo_root, tmp_path / 'w', load_from=str(path))
    try:
        with pytest.raises(UserError, match='evil.pth is refused'):
            run.train()
    finally:
        CheckpointLoader._schemes = before
        os.environ.pop(FORCE, None)
    assert not canary.exists()


def test_weights_alone_cannot_be_resumed(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict=OneWeight().state_dict()), path)
    with pytest.raises(UserError, match='x.pth does not say how far'):
        runner(tmp_path / 'a', path).train()
    runner(tmp_path / 'b', path, resume=False).train()
