"""Processes on CPUs that find one another, or say why they do not."""
import socket
from datetime import timedelta

import pytest
import torch.distributed as torch_dist
from mmengine.config import Config

from cyborgs_plugin.engine import launch
from cyborgs_plugin.errors import UserError

from ..helpers import in_processes


@pytest.fixture
def of_two_machines(monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '1')
    monkeypatch.delenv('GLOO_SOCKET_IFNAME', raising=False)
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(launch, 'is_distributed', lambda: False)
    return Config(dict(launcher='pytorch',
                       env_cfg=dict(dist_cfg=dict(timeout=7))))


@pytest.mark.parametrize('address', ['127.0.1.1', None])
def test_a_host_name_that_is_no_address(of_two_machines, monkeypatch,
                                        address):
    """Debian's /etc/hosts; gloo would wait without end on one of the two."""
    def look_up(name):
        if address is None:
            raise socket.gaierror
        return address

    monkeypatch.setattr(socket, 'gethostbyname', look_up)
    monkeypatch.setattr(torch_dist, 'init_process_group',
                        lambda *args, **options: pytest.fail('it connects'))
    with pytest.raises(UserError, match='GLOO_SOCKET_IFNAME=eth0') as error:
        launch.prepare_launch(of_two_machines)
    assert (address or 'none at all') in str(error.value)


@pytest.mark.parametrize('machine, variables', [
    ('10.0.0.7', {}),
    ('127.0.1.1', dict(GLOO_SOCKET_IFNAME='eth0')),
    ('127.0.1.1', dict(LOCAL_WORLD_SIZE='2')),
    ('127.0.1.1', dict(LOCAL_WORLD_SIZE=None)),
])
def test_what_connects(of_two_machines, monkeypatch, machine, variables):
    """And the timeout of the config is that of the group."""
    monkeypatch.setattr(socket, 'gethostbyname', lambda name: machine)
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    made = []
    monkeypatch.setattr(torch_dist, 'init_process_group',
                        lambda *args, **options: made.append(options))
    monkeypatch.setattr(torch_dist, 'get_rank', lambda: 1)
    launch.prepare_launch(of_two_machines)
    assert made == [dict(timeout=timedelta(seconds=7))]


def test_without_a_timeout_the_groups_own_is_left(of_two_machines,
                                                  monkeypatch):
    """torch 2.1 refuses None."""
    del of_two_machines.env_cfg.dist_cfg['timeout']
    monkeypatch.setattr(socket, 'gethostbyname', lambda name: '10.0.0.7')
    made = []
    monkeypatch.setattr(torch_dist, 'init_process_group',
                        lambda *args, **options: made.append(options))
    monkeypatch.setattr(torch_dist, 'get_rank', lambda: 1)
    launch.prepare_launch(of_two_machines)
    assert made == [{}]


def test_what_gloo_says_is_passed_on(of_two_machines, monkeypatch):
    def refused(*args, **options):
        raise RuntimeError('Connection refused, remote=[10.0.0.7]:4')

    monkeypatch.setattr(socket, 'gethostbyname', lambda name: '10.0.0.7')
    monkeypatch.setattr(torch_dist, 'init_process_group', refused)
    with pytest.raises(UserError, match='refused, remote.*GLOO_SOCKET_IFNAME'):
        launch.prepare_launch(of_two_machines)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_process_that_torchrun_has_not_started(of_two_machines, monkeypatch,
                                                 device):
    monkeypatch.delenv('RANK')
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    with pytest.raises(UserError, match='torchrun .* -m cyborgs_plugin train'):
        launch.prepare_launch(of_two_machines)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_restarts_that_would_find_old_addresses(of_two_machines, monkeypatch,
                                                device):
    """A warning at the start, and no restart that hangs."""
    said, made = [], []
    monkeypatch.setattr(launch, 'print_log',
                        lambda message, **_: said.append(message))
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    monkeypatch.setattr(launch, '_connect', made.append)
    monkeypatch.setattr(torch_dist, 'get_rank', lambda: 1)
    for name, value in dict(
            RANK=0, TORCHELASTIC_USE_AGENT_STORE=True,
            TORCHELASTIC_MAX_RESTARTS=0,
            TORCHELASTIC_RESTART_COUNT=0).items():
        monkeypatch.setenv(name, str(value))
    launch.prepare_launch(of_two_machines)
    assert said == []
    monkeypatch.setenv('TORCHELASTIC_MAX_RESTARTS', '3')
    launch.prepare_launch(of_two_machines)
    assert len(said) == 1 and 'STORE=1 in the environment and' in said[0]
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '1')
    with pytest.raises(UserError, match='--standalone'):
        launch.prepare_launch(of_two_machines)
    monkeypatch.setenv('TORCHELASTIC_USE_AGENT_STORE', 'False')
    launch.prepare_launch(of_two_machines)
    assert len(said) == 1


@pytest.mark.slow
def test_connecting_ends(tmp_path, monkeypatch):
    """The second process never comes."""
    monkeypatch.setattr(launch, '_CONNECTING', 1.)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', '29617')

    def attempt(rank):
        torch_dist.destroy_process_group()
        monkeypatch.setenv('RANK', '0')
        monkeypatch.setenv('WORLD_SIZE', '2')
        monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
        launch._connect(None)

    codes, logs = in_processes(1, attempt, tmp_path / 'log', waits=20)
    assert codes == [1] and 'no connection in 1 s' in logs[0], logs
    assert 'GLOO_SOCKET_IFNAME' in logs[0]
