"""Whether this machine can train: packages, devices, threads, disks."""
import importlib
import os
import os.path as osp
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata

import torch
import torch.distributed as torch_dist

from ..errors import UserError
from ..findings import Finding, Severity
from ..version import require_mmcv_ops
from .machine import (
    Machine,
    existing,
    free_disk,
    look_at_machine,
    size,
    usable_cores,
)

_AREA = 'environment'
_PACKAGES = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet')
_LEAST_DISK = 2e9
"""Bytes: three checkpoints of a ResNet-50 are 1.4 GB."""
_LEAST_SHARED = 256e6
"""Bytes of /dev/shm; a container has 64 MB unless it is told otherwise."""


def examine_environment(work_dir: str) -> Iterator[Finding]:
    """Look at what every run needs.

    Args:
        work_dir (str): Folder of the run that is meant.

    Yields:
        Finding: For each thing that was looked at.
    """
    machine = look_at_machine()
    checks: list[Callable[[], Iterator[Finding]]] = [
        _packages, _ops, lambda: _accelerator(machine), _distributed,
        lambda: _threads(machine), lambda: _memory(machine),
        lambda: _disk(work_dir), lambda: _writable(work_dir)
    ]
    for check in checks:
        yield from guarded(_AREA, check)


def guarded(area: str,
            check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run a check; what it raises is a finding.

    Args:
        area (str): The area of that finding.
        check (Callable): Gives findings.

    Yields:
        Finding: What it gives, up to where it raises.
    """
    try:
        yield from check()
    except UserError as error:
        yield Finding(area, 'error', *_told(error))
    except Exception as error:  # a doctor does not die of a disease
        yield Finding(area, 'error', f'{type(error).__name__}: {error}',
                      'This was not foreseen: please report it with the '
                      'output of this command')


def _told(error: UserError) -> tuple[str, str]:
    """What a message of ours says was found, and how to fix it.

    It ends in the way out, behind a colon or as a sentence.
    """
    text = str(error)
    for cut in (':\n', ': set ', ': give ', ': name ', ': take '):
        found, colon, fix = text.rpartition(cut)
        if colon:
            return found, (cut[2:] + fix).strip()
    found, stop, fix = text.partition('. ')
    return found, fix


def _finding(severity: Severity, found: str, fix: str = '') -> Finding:
    return Finding(_AREA, severity, found, fix)


def _packages() -> Iterator[Finding]:
    words = [f'torch {torch.__version__}']
    for name in _PACKAGES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError) and (
                error.name == name)
            yield _finding(
                'note' if absent else 'warning',
                f'{name} is not there' if absent else
                f'{name} does not import: {error}',
                'needed only to fine-tune detectors: the extra [transfer], '
                'docs/compatibility.md')
            continue
        except Exception as error:  # of a package that does not fit another
            yield _finding('warning', f'{name} does not import: {error!r}',
                           'docs/compatibility.md has versions that fit')
            continue
        words.append(f'{name} {module.__version__}')
    family = 'maintained (onedl)' if _is_there('onedl-mmengine') else (
        'original')
    yield _finding('ok', f'{", ".join(words)}: the {family} family')
    import cv2  # by now it is known to import
    yield _finding('ok', f'import cv2: OpenCV {cv2.__version__}')


def _is_there(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _ops() -> Iterator[Finding]:
    try:
        require_mmcv_ops()
    except ImportError as error:
        found, _, fix = str(error).partition(': ')
        yield _finding(
            'warning', f'{found}. Pretraining works without it', fix)
    else:
        yield _finding('ok', 'the compiled ops of mmcv load')


def _accelerator(machine: Machine) -> Iterator[Finding]:
    if machine.gpus:
        for number, gpu in enumerate(machine.gpus):
            taken = gpu.free < 0.5 * gpu.total
            yield _finding(
                'warning' if taken else 'ok',
                f'GPU {number}: {gpu.name}, {size(gpu.free)} of '
                f'{size(gpu.total)} free',
                'another program has the rest (nvidia-smi names it): end it, '
                'or choose another GPU by CUDA_VISIBLE_DEVICES' * taken)
    elif shutil.which('nvidia-smi') and osp.exists('/dev/nvidia0'):
        built = torch.version.cuda
        yield _finding(
            'error',
            'there is an NVIDIA GPU, but torch does not see it '
            + (f'(built for CUDA {built})' if built else
               '(a build for CPUs)'),
            'look at nvidia-smi: the driver must be new enough for that CUDA'
            if built else 'install a build of torch for CUDA: '
            'https://pytorch.org/get-started')
    else:
        yield _finding('note', 'no GPU: everything runs on the CPU')


def _distributed() -> Iterator[Finding]:
    if not torch_dist.is_available():
        yield _finding('warning', 'this torch has no torch.distributed',
                       'another build of torch trains on several GPUs')
        return
    gloo, nccl = torch_dist.is_gloo_available(), torch_dist.is_nccl_available()
    several = torch.cuda.device_count() > 1
    found = (f'gloo {"is" if gloo else "is not"} there, NCCL '
             f'{"is" if nccl else "is not"}')
    if several and not nccl:
        yield _finding('error', f'{found}, which several GPUs need',
                       'install a build of torch with NCCL')
    else:
        yield _finding('ok' if gloo else 'note', found)


def _threads(machine: Machine) -> Iterator[Finding]:
    cores, threads = usable_cores(), torch.get_num_threads()
    said = os.environ.get('OMP_NUM_THREADS', 'not set')
    found = (f'{threads} threads (OMP_NUM_THREADS {said}) on {cores} cores, '
             f'load {machine.load:.1f}')
    if threads > cores:
        yield _finding('warning', f'{found}: more threads than cores wait for '
                       'one another', f'export OMP_NUM_THREADS={cores}')
    elif threads > 1 and threads + machine.load > 1.5 * cores:
        yield _finding(
            'warning', f'{found}: other programs use them, and threads that '
            'wait for one another made steps 10 to 30 times slower',
            f'export OMP_NUM_THREADS={machine.idle}, or end what else runs')
    else:
        yield _finding('ok', found)


def _memory(machine: Machine) -> Iterator[Finding]:
    low = machine.memory < 3e9
    yield _finding('warning' if low else 'ok',
                   f'{size(machine.memory)} of memory free',
                   'a ResNet-18 on small views takes 1.5 GB: end what else '
                   'runs, or take a smaller batch' * low)
    shared = '/dev/shm'
    if osp.isdir(shared):
        total = shutil.disk_usage(shared).total
        low = total < _LEAST_SHARED
        yield _finding(
            'warning' if low else 'ok',
            f'{size(total)} of shared memory in {shared}',
            'data workers end with "Bus error" where it is full: docker run '
            '--shm-size=8g, or train_dataloader.num_workers=0' * low)


def _disk(work_dir: str) -> Iterator[Finding]:
    place = existing(work_dir)
    free = free_disk(place)
    low = free < _LEAST_DISK
    yield _finding(
        'warning' if low else 'ok', f'{place}: {size(free)} of disk free',
        'three checkpoints of a ResNet-50 are 1.4 GB, a mask round about '
        '5 kB per photograph: make room, or keep fewer by '
        'default_hooks.checkpoint.max_keep_ckpts and '
        'default_hooks.mask_update.max_keep_rounds' * low)


def _writable(work_dir: str) -> Iterator[Finding]:
    place = existing(work_dir)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b'x' * 4096)
            file.flush()
    except OSError as error:
        yield _finding('error', f'nothing can be written to {place} ({error})',
                       'name another folder for the run with --work-dir')
    else:
        yield _finding('ok', f'{place} can be written to')
