"""Ranks that wait for one another, and end together."""
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch.distributed as torch_dist

from cyborgs_plugin.errors import MissingFileError, UserError
from cyborgs_plugin.segmentation import GridMasks, make_round, ranks

from ..helpers import ROOT, images_of, in_processes


@pytest.mark.slow
def test_rounds_make_and_destroy_no_group(photo_root, tmp_path, monkeypatch):
    """A gloo group takes the address of the host name, which is 127.0.1.1 on
    many machines; torch 2.1 deadlocks where one is destroyed during a run."""
    images, made = images_of(photo_root), []
    new_group, destroy = torch_dist.new_group, torch_dist.destroy_process_group

    def rounds(rank):
        monkeypatch.setattr(
            torch_dist, 'new_group',
            lambda *a, **k: made.append(0) or new_group(*a, **k))
        monkeypatch.setattr(torch_dist, 'destroy_process_group',
                            lambda *a: made.append('destroyed') or destroy(*a))
        for number in range(3):
            make_round(GridMasks(), images, str(tmp_path / 'm'), number, 0)
        assert made == [], made

    codes, logs = in_processes(2, rounds, tmp_path / 'log')
    assert codes == [0, 0], logs


class FailsOn(GridMasks):
    """Fails on one rank at once; the others would need longer."""

    def __init__(self, rank, how):
        super().__init__()
        self.rank = rank
        self.how = how

    def label_maps(self, images, keys, seed):
        if torch_dist.get_rank() == self.rank:
            self.how()
        time.sleep(4 if self.how is raises else 0.1)
        return super().label_maps(images, keys, seed)


def raises():
    raise RuntimeError('it cannot')


def dies():
    os._exit(9)


def stops():
    """As a machine without power does: nobody closes its connections."""
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.parametrize('world_size, rank', [(2, 0), (2, 1), (3, 1)])
def test_the_others_do_not_work_on_after_a_failure(photo_root, tmp_path,
                                                   world_size, rank):
    images, start = images_of(photo_root), time.monotonic()
    codes, logs = in_processes(
        world_size, lambda _: make_round(
            FailsOn(rank, raises), images, str(tmp_path / 'm'), 0, 0,
            group_size=1), tmp_path / 'log')
    assert codes == [1] * world_size and time.monotonic() - start < 12
    for log in logs:
        assert f'On rank {rank}:\nTraceback' in log and 'it cannot' in log


@pytest.mark.slow
@pytest.mark.parametrize('world_size, rank, how, said', [
    (2, 1, dies, 'On rank 1:\nno sign of life for 2 s'),
    (3, 1, stops, 'On rank 1:\nno sign of life for 2 s'),
    # with the store
    (2, 0, dies, 'The store of the processes'),
    (3, 0, stops, 'The store of the processes'),
])
def test_a_dead_rank_ends_the_round_on_the_others(
        photo_root, tmp_path, monkeypatch, world_size, rank, how, said):
    monkeypatch.setattr(ranks, '_SILENCE', 4.)
    monkeypatch.setattr(ranks, '_LOST', 2.)
    monkeypatch.setattr(ranks, '_PULSE', 0.2)
    images = images_of(photo_root)

    def attempt(_):
        start = time.monotonic()
        try:
            make_round(FailsOn(rank, how), images, str(tmp_path / 'm'), 0, 0,
                       group_size=1)
        finally:
            print(f'{time.monotonic() - start:.0f} seconds')

    codes, logs = in_processes(world_size, attempt, tmp_path / 'log',
                               waits=10)
    for other in {*range(world_size)} - {rank}:
        assert codes[other] == 1 and said in logs[other], logs
        assert int(logs[other].split(' seconds')[0].split()[-1]) < 9


@pytest.mark.slow
def test_a_slow_rank_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(ranks, '_SILENCE', 3.)
    monkeypatch.setattr(ranks, '_LOST', 1.)
    monkeypatch.setattr(ranks, '_PULSE', 0.1)
    monkeypatch.setattr(ranks, '_NEWS', 1.5)

    def step(rank):
        for slow in range(3):
            assert ranks.together(
                lambda slow=slow: time.sleep(2 * (rank == slow)) or rank
            ) == rank
        assert ranks.on_main(lambda: rank + 7) == 7
        assert ranks.main_seed(3 + rank) == 3

    codes, logs = in_processes(3, step, tmp_path / 'log')
    assert codes == [0, 0, 0], logs


@pytest.mark.slow
def test_stores_that_cannot_be_asked_for_a_key(monkeypatch, tmp_path):
    """Those of torch 2.1."""

    def step(rank):
        for store in (torch_dist.Store, torch_dist.TCPStore,
                      torch_dist.FileStore, torch_dist.PrefixStore):
            monkeypatch.setattr(
                store, 'check',
                lambda *_: exec('raise NotImplementedError'),
                raising=False)
        assert ranks.together(lambda: rank) == rank
        assert ranks.on_main(lambda: rank + 7) == 7

    codes, logs = in_processes(2, step, tmp_path / 'log')
    assert codes == [0, 0], logs


@pytest.mark.slow
def test_what_is_the_users_to_mend_has_no_traceback(tmp_path):

    def missing(path):
        raise MissingFileError(f'{path} is gone')

    def full(path):
        raise OSError(28, 'No space left on device', path)

    def step(rank):
        error = None
        try:  # on all ranks, the same
            ranks.together(lambda: missing('a.json'))
        except UserError as caught:
            error = caught
        assert type(error) is MissingFileError, error
        try:  # on one
            ranks.on_main(lambda: missing('b.json'))
        except UserError as caught:
            error = caught
        assert str(error) == 'b.json is gone', error
        kind = ranks.MaskRoundError if rank else MissingFileError
        assert type(error) is kind, error
        try:
            ranks.on_main(lambda: full('masks/x.npy'))
        except (UserError, OSError) as caught:
            error = caught
        assert 'No space left on device' in str(error), error
        assert 'masks/x.npy' in str(error), error
        assert 'Traceback' not in str(error), error

    codes, logs = in_processes(2, step, tmp_path / 'log')
    assert codes == [0, 0], logs


@pytest.mark.parametrize('rank, ran', [(0, [1]), (1, [])])
def test_a_step_of_rank_0_alone(monkeypatch, rank, ran):
    monkeypatch.setattr(ranks, 'get_rank', lambda: rank)
    done = []
    ranks.on_main(lambda: done.append(1))
    assert done == ran
    if rank == 0:
        with pytest.raises(ranks.MaskRoundError, match='division by zero'):
            ranks.on_main(lambda: 1 / 0)


MACHINE = """
import os, sys, time
import torch.distributed as dist
from cyborgs_plugin.segmentation import ranks

rank = int(sys.argv[1])
# stands for NCCL, which finds the network by itself
os.environ['GLOO_SOCKET_IFNAME'] = f'cy{rank}'
dist.init_process_group('gloo', 'tcp://10.9.8.1:29619', rank=rank,
                        world_size=2)
del os.environ['GLOO_SOCKET_IFNAME']
ranks._SILENCE, ranks._LOST, ranks._PULSE = 4., 2., 0.2
assert ranks.together(lambda: rank) == rank
print('met', flush=True)
try:
    ranks.together(lambda: time.sleep(2))
except ranks.MaskRoundError as error:
    print(error, flush=True)
os._exit(0)
"""


@pytest.fixture
def two_machines():
    """Two network namespaces and a wire, whose host name is 127.0.0.1's."""
    def shell(words, check=True):
        return subprocess.run(words.split(), capture_output=True, text=True,
                              check=check)

    try:
        for machine in (0, 1):
            shell(f'ip netns add cyborgs{machine}')
        shell('ip link add cy0 type veth peer name cy1')
        for machine in (0, 1):
            inside = f'ip netns exec cyborgs{machine} ip'
            shell(f'ip link set cy{machine} netns cyborgs{machine}')
            shell(f'{inside} address add 10.9.8.{machine + 1}/24 dev '
                  f'cy{machine}')
            shell(f'{inside} link set cy{machine} up')
            shell(f'{inside} link set lo up')
        yield shell
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f'no network namespaces here: {error}')
    finally:
        for machine in (0, 1) if shutil.which('ip') else ():
            shell(f'ip netns delete cyborgs{machine}', check=False)


@pytest.mark.slow
def test_two_machines_whose_names_are_no_addresses(two_machines):
    """The round's own gloo group waited here in silence, for a week."""
    both = [
        subprocess.Popen(
            ['ip', 'netns', 'exec', f'cyborgs{rank}', sys.executable, '-c',
             MACHINE, str(rank)],
            env=dict(os.environ, PYTHONPATH=ROOT, OMP_NUM_THREADS='1'),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for rank in (0, 1)
    ]
    try:
        for process in both:
            assert any(line == 'met\n' for line in process.stdout)
        two_machines('ip netns exec cyborgs1 ip link set cy1 down')  # the wire
        said = [process.communicate(timeout=20)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert said[0].startswith('On rank 1:\nno sign of life for 2 s')
    assert said[1].startswith('The store of the processes')
