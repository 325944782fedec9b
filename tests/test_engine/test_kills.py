"""Training killed at every named step continues with a valid bank.

Each run is a forked process, or two of them that talk by gloo. A fault is
put into the n-th call of a step; then the run is resumed as
``tools/train.py --resume`` does it, without a fault. All of it for both
formats of the bank.
"""
import errno
import glob
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback

import cv2
import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.runner import Runner

from cyborgs_plugin.datasets import MaskBank, mask_arrays, mask_blocks
from cyborgs_plugin.datasets.mask_bank import list_rounds, round_path
from cyborgs_plugin.engine.launch import prepare_launch
from cyborgs_plugin.segmentation import (
    FeatureExtractor,
    network_masks,
    ranks,
)

from ..helpers import ROOT, small_config, write_photo

pytestmark = pytest.mark.slow  # each starts whole runs in other processes


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A dead process counts as such after seconds, not a minute."""
    monkeypatch.setattr(ranks, '_LOST', 6.)
    monkeypatch.setattr(ranks, '_PULSE', 0.5)


FORMAT = 'default_hooks.mask_update.bank_format'
PATIENCE = 120
"""Seconds in which a run must end: far less than any timeout of torch's."""


def half(content, path):
    with open(path, 'wb') as file:
        file.write(content[:len(content) // 2])


# Step: what is patched, which of its calls count, and what is done before
# the process dies there.
STEPS = {
    'extracting': (FeatureExtractor, '__call__', None, None),
    'clustering': (network_masks, 'kmeans', None, None),
    'making folders': (os, 'makedirs', r'\.partial$', None),
    'writing': (mask_arrays.MaskBankWriter, 'add', None,
                lambda writer, *_: writer._labels.flush()),
    'syncing': (mask_arrays, 'sync', r'rank_\d+\.npy$', None),
    'renaming': (os, 'rename', r'round_\d+\.(merged|partial)$', None),
    'renamed': (os, 'rename', r'round_\d+\.(merged|partial)$', os.rename),
    'pruning': (shutil, 'rmtree', r'trash-round_\d+$',
                lambda path: os.remove(glob.glob(f'{path}/*[ys]')[0])),
    'checkpointing': (LocalBackend, 'put', r'\.pth',
                      lambda _, *args: half(*args)),
    'renaming the checkpoint': (os, 'replace', r'\.pth', None),
    'naming the checkpoint': (os, 'replace', 'last_checkpoint', None),
    'deleting a checkpoint': (os, 'remove', r'epoch_\d\.pth$', None),
}


# Where format 2 does it.
OTHER_STEPS = {
    'writing': (mask_blocks.BlockWriter, 'add', None,
                lambda writer, *_: writer._file and writer._file.flush()),
    'syncing': (mask_blocks, 'sync', r'part_\d+_0000\.masks$', None),
}


def put_fault(step, nth, act, bank_format):
    """Let a step's n-th call (of those that count) end in ``act``."""
    owner, name, wanted, prelude = (
        OTHER_STEPS if bank_format == 2 else {}).get(step, STEPS[step])
    original, calls = getattr(owner, name), [0]

    def faulty(*args, **kwargs):
        if wanted is None or any(re.search(wanted, str(argument)[-99:])
                                 for argument in args):
            calls[0] += 1
            if calls[0] == nth:
                if prelude is not None:
                    prelude(*args)
                act()
        return original(*args, **kwargs)

    setattr(owner, name, faulty)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise RuntimeError('a fault that only this rank sees')


def disk_full():
    raise OSError(errno.ENOSPC, 'No space left on device')


def read_only():
    raise OSError(errno.EROFS, 'Read-only file system')


def train(rank, world_size, port, photo_root, work_dir, options, fault):
    """Run to the end, or to the fault, in a forked process."""
    sys.stdout = sys.stderr = open(f'{work_dir}.{rank}.log', 'w', buffering=1)
    torch.set_num_threads(1)  # the threads of the parent are not here
    cv2.setNumThreads(0)
    status = 1
    try:
        cfg = small_config(photo_root, work_dir, **options)
        if world_size > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank),
                WORLD_SIZE=str(world_size), MASTER_ADDR='127.0.0.1',
                MASTER_PORT=str(port))
            cfg.launcher = 'pytorch'
            prepare_launch(cfg)
        runner = Runner.from_cfg(cfg)
        if fault is not None and fault[0] == rank:
            put_fault(*fault[1:], options[FORMAT])
        runner.train()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def run(photo_root, work_dir, epochs, fault=None, world_size=1, **options):
    """Exit codes and logs of a run's processes, and how long it took."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    options = {
        'train_cfg.max_epochs': epochs,
        'resume': True,
        'default_hooks.mask_update.group_size': 4,
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        FORMAT: 2,
        **options
    }
    children = [
        multiprocessing.get_context('fork').Process(
            target=train,
            args=(rank, world_size, port, photo_root, str(work_dir), options,
                  fault)) for rank in range(world_size)
    ]
    start = time.monotonic()
    for child in children:
        child.start()
    for child in children:
        child.join(max(0, start + PATIENCE - time.monotonic()))
    codes = [child.exitcode for child in children]
    for child in children:
        if child.exitcode is None:
            child.kill()
    logs = []
    for rank in range(world_size):
        with open(f'{work_dir}.{rank}.log', errors='replace') as log:
            logs.append(log.read())
    return codes, logs


@pytest.fixture(scope='module', params=[1, 2], ids=['format1', 'format2'])
def undisturbed(tmp_path_factory, request):
    """Pictures, copies of the work dir after each epoch, rounds' hashes; and
    options."""
    options = {FORMAT: request.param}
    root = tmp_path_factory.mktemp('undisturbed')
    for number in range(12):
        write_photo(root / 'data' / 'train2017' / f'{number:02d}.png',
                    seed=number)
    after = {}
    for epochs in (1, 2, 3):
        codes, logs = run(root / 'data', root / 'w', epochs, **options)
        assert codes == [0], logs[0][-3000:]
        after[epochs] = shutil.copytree(root / 'w', root / f'after_{epochs}')
    masks = root / 'w' / 'masks'
    hashes = [
        MaskBank.open(round_path(masks, number)).hash
        for number in list_rounds(masks)
    ]
    assert len(set(hashes)) == 3
    return root / 'data', after, hashes, options


def begin(tmp_path, undisturbed, epochs):
    """The work dir of a run that has made so many epochs."""
    work_dir = tmp_path / 'w'
    if epochs:
        shutil.copytree(undisturbed[1][epochs], work_dir)
        pointer = work_dir / 'last_checkpoint'
        pointer.write_text(str(work_dir / f'epoch_{epochs}.pth'))
    return work_dir


def assert_goes_on(undisturbed, work_dir, epochs, world_size=1, **options):
    """Resume to one more epoch: the same rounds, and a checkpoint of it."""
    photo_root, _, hashes, formats = undisturbed
    codes, logs = run(photo_root, work_dir, epochs, None, world_size,
                      **formats, **options)
    assert codes == [0] * world_size, '\n'.join(logs)[-6000:]
    masks = work_dir / 'masks'
    for number in list_rounds(masks):
        bank = MaskBank.open(round_path(masks, number), verify=True)
        assert bank.hash == hashes[number], number
    assert list_rounds(masks)[-1] == epochs - 1
    assert not [name for name in os.listdir(masks) if name.startswith('.')]
    path = work_dir / f'epoch_{epochs}.pth'
    assert (work_dir / 'last_checkpoint').read_text() == str(path)
    hub = torch.load(path, weights_only=False)['message_hub']['runtime_info']
    assert hub['mask_round'] == epochs - 1
    assert hub['mask_hash'] == hashes[epochs - 1]
    # max_keep_ckpts is 1
    assert [name for name in os.listdir(work_dir)
            if name.endswith('.pth')] == [path.name]
    return logs


# 3 groups and 12 images per round; before: epochs made before the run.
@pytest.mark.parametrize('before, step, nth, reused', [
    (0, 'extracting', 2, False),
    (0, 'checkpointing', 1, True),
    (1, 'extracting', 2, False),
    (1, 'clustering', 3, False),
    (1, 'writing', 7, False),
    (1, 'renaming', 1, False),
    (1, 'renamed', 1, True),
    (1, 'checkpointing', 1, True),
    (1, 'renaming the checkpoint', 1, True),
    (1, 'naming the checkpoint', 1, True),
    (1, 'deleting a checkpoint', 1, False),  # the epoch was finished
    (2, 'pruning', 1, True),
])
def test_killed_alone(tmp_path, undisturbed, before, step, nth, reused):
    work_dir = begin(tmp_path, undisturbed, before)
    options = {'default_hooks.mask_update.max_keep_rounds':
               1 if step == 'pruning' else -1}
    codes, logs = run(undisturbed[0], work_dir, before + 1,
                      (0, step, nth, kill), **undisturbed[3], **options)
    assert codes == [-signal.SIGKILL], logs[0][-3000:]
    logs = assert_goes_on(undisturbed, work_dir, before + 1, **options)
    # What was published before the kill is not made again.
    assert ('it is used again' in logs[0]) == reused
    if step == 'pruning':
        assert list_rounds(work_dir / 'masks') == [1, 2]


@pytest.mark.parametrize('before, rank, step, nth', [
    (1, 1, 'extracting', 1),
    (1, 0, 'clustering', 2),
    (1, 1, 'writing', 3),
    (1, 0, 'renaming', 1),
    (1, 0, 'renamed', 1),
    (1, 0, 'checkpointing', 1),
    (2, 0, 'pruning', 1),
])
def test_one_of_two_is_killed(tmp_path, undisturbed, before, rank, step, nth):
    """The other ends by itself, with a traceback, and does not hang."""
    work_dir = begin(tmp_path, undisturbed, before)
    options = {'default_hooks.mask_update.max_keep_rounds':
               1 if step == 'pruning' else -1}
    codes, logs = run(undisturbed[0], work_dir, before + 1,
                      (rank, step, nth, kill), 2, **undisturbed[3], **options)
    assert codes[rank] == -signal.SIGKILL, logs[rank][-3000:]
    if step != 'checkpointing':  # The other may have had no more to do.
        assert codes[1 - rank] == 1
        assert 'Traceback' in logs[1 - rank]
    assert codes[1 - rank] is not None
    assert_goes_on(undisturbed, work_dir, before + 1, 2, **options)


@pytest.mark.parametrize('rank, step, nth, act, said', [
    (1, 'clustering', 1, fail, 'a fault that only this rank sees'),
    (0, 'making folders', 1, read_only, 'Read-only file system'),
    (1, 'syncing', 1, disk_full, 'bytes free'),
])
def test_a_failing_rank_ends_the_job(tmp_path, undisturbed, rank, step, nth,
                                     act, said):
    """All ranks end with the traceback of the one that failed, or with what
    its system said."""
    work_dir = begin(tmp_path, undisturbed, 1)
    codes, logs = run(undisturbed[0], work_dir, 2, (rank, step, nth, act), 2,
                      **undisturbed[3])
    assert codes == [1, 1]
    for log in logs:
        assert said in log
        if act is fail:
            assert f'On rank {rank}:\nTraceback' in log
            assert act.__name__ in log  # where it happened
        else:  # a disk is the user's to fix
            assert 'MaskRoundError' in log and f'On rank {rank}:' not in log
    assert list_rounds(work_dir / 'masks') == [0]
    assert_goes_on(undisturbed, work_dir, 2, 2)


@pytest.mark.parametrize('step, act, said', [
    ('making folders', read_only, 'Read-only file system'),
    ('syncing', disk_full, 'bytes free'),
    ('checkpointing', disk_full, 'No space left'),
])
def test_no_room_alone(tmp_path, undisturbed, step, act, said):
    work_dir = begin(tmp_path, undisturbed, 1)
    codes, logs = run(undisturbed[0], work_dir, 2, (0, step, 1, act),
                      **undisturbed[3])
    assert codes == [1] and said in logs[0]
    assert_goes_on(undisturbed, work_dir, 2)


PLUGIN = """
import os, signal
from cyborgs_plugin.segmentation import network_masks

kmeans = network_masks.kmeans


def faulty(*args, **kwargs):
    if os.environ['RANK'] == '1':
        os.kill(os.getpid(), signal.SIGKILL)
    return kmeans(*args, **kwargs)


network_masks.kmeans = faulty
"""


def test_torchrun_ends_when_a_rank_is_killed(photo_root, tmp_path):
    (tmp_path / 'plugin_that_kills.py').write_text(PLUGIN)
    cfg = small_config(photo_root, tmp_path / 'w', **{
        'default_hooks.mask_update.group_size': 4})
    cfg.custom_imports.imports.append('plugin_that_kills')
    cfg.dump(tmp_path / 'toy.py')
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone',
         '--nproc_per_node=2', os.path.join(ROOT, 'tools', 'train.py'),
         str(tmp_path / 'toy.py'), '--launcher', 'pytorch', '--resume'],
        env=dict(os.environ, PYTHONPATH=f'{ROOT}:{tmp_path}',
                 OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=PATIENCE)
    assert done.returncode != 0
    assert 'Signal 9 (SIGKILL)' in done.stdout
    assert list_rounds(tmp_path / 'w' / 'masks') == []
