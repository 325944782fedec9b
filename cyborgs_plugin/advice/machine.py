"""The machine that a run would have."""
import os
import os.path as osp
import shutil
from dataclasses import dataclass

import torch

from ..engine.device_data_hook import free_bytes


@dataclass(frozen=True)
class Gpu:
    """An accelerator."""

    name: str
    free: int
    """Bytes of its memory that are free."""
    total: int


@dataclass(frozen=True)
class Machine:
    """What there is of it now."""

    cores: int
    """Cores that this process may use."""
    load: float
    """Processes that were running in the last minute, this one's included."""
    memory: int
    """Bytes of memory that are free."""
    gpus: tuple[Gpu, ...] = ()

    @property
    def idle(self) -> int:
        """Cores that nobody uses, 1 at least."""
        return max(1, round(self.cores - self.load))

    @property
    def is_busy(self) -> bool:
        """Whether others take more than half of it."""
        return self.load > 1.5 * self.cores

    def describe(self) -> str:
        """The machine in a line."""
        gpus = (', '.join(f'{gpu.name} ({size(gpu.free)} free)'
                          for gpu in self.gpus) or 'no GPU')
        return (f'{self.cores} CPU core{"s" * (self.cores > 1)} (load '
                f'{self.load:.1f}), {size(self.memory)} of memory free, '
                f'{gpus}')


def look_at_machine() -> Machine:
    """Look at the machine."""
    gpus = []
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            gpus.append(Gpu(torch.cuda.get_device_name(number), free, total))
    return Machine(
        cores=usable_cores(),
        load=os.getloadavg()[0],
        memory=free_bytes(torch.device('cpu')),
        gpus=tuple(gpus))


def usable_cores() -> int:
    """Cores that this process may use.

    Affinity and a quota of a container count: torch sees neither of the
    latter, and starts a thread for each core of the host.
    """
    cores = (len(os.sched_getaffinity(0))
             if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1)
    try:
        with open('/sys/fs/cgroup/cpu.max') as file:
            quota, period = file.read().split()
        if quota != 'max':
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores


def free_disk(path: str) -> int:
    """Bytes that are free where a folder is, or would be made."""
    return shutil.disk_usage(existing(path)).free


def existing(path: str) -> str:
    """The nearest folder above a path that exists, or the path itself."""
    path = osp.abspath(path)
    while not osp.exists(path):
        path = osp.dirname(path)
    return path


def size(number: float) -> str:
    """Bytes in words: '1.4 GB'."""
    for unit, factor in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if number >= factor:
            shown = number / factor
            return f'{shown:.{0 if shown >= 100 else 1}f} {unit}'
    return f'{number:.0f} bytes'


def duration(seconds: float) -> str:
    """Seconds in words: '2 h 05 min'."""
    if seconds < 90:
        return f'{max(1, round(seconds))} s'
    minutes = round(seconds / 60)
    if minutes < 60:
        return f'{minutes} min'
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f'{hours} h {minutes:02} min'
    return f'{hours / 24:.1f} days'
