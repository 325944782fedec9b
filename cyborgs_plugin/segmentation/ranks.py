"""Steps that all ranks take together, however long one of them takes.

They communicate through the store of the default group (a TCP connection to
``MASTER_ADDR``) and create no group of their own: NCCL does not notice that a
process died, a collective ends the job after some minutes of waiting, and gloo
uses the address of the host name, which other machines may not reach.
"""
import json
import logging
import os
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import torch.distributed as torch_dist
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.logging import print_log

from ..errors import UserError
from .sources import NonFiniteFeaturesError

Result = TypeVar('Result')
Reports = dict[int, dict[str, Any]]
"""Reports of ranks on a step: empty if it succeeded."""
_PULSE = 5.
"""Seconds between two signs of life."""
_LOST = 60.
"""Seconds without one, after which a rank counts as dead ..."""
_SILENCE = 300.
"""... or, if it has not begun the step or the store does not answer."""
_NEWS = 600.
"""Seconds between two log lines about the awaited ranks."""
_TOLD = 8
"""Number of ranks whose tracebacks are shown."""


class MaskRoundError(UserError, RuntimeError):
    """A mask round failed on some rank; raised on all of them.

    Attributes:
        diverged (bool): Whether the only cause was features that are NaN or
            infinite.
    """

    def __init__(self, message: str, diverged: bool = False) -> None:
        super().__init__(message)
        self.diverged = diverged


def together(function: Callable[[], Result]) -> Result:
    """Run a step on every rank; if one fails, fail on all.

    The ranks wait for the slowest one as long as it shows signs of life. If it
    shows none for a minute, because its process or machine is gone, the step
    ends on the others. They wait five minutes for a rank that has not begun
    the step.

    Args:
        function (Callable): The step.

    Returns:
        Any: What the step returned on this rank.

    Raises:
        MaskRoundError: With the tracebacks of the ranks that failed, or only
            the messages of errors that the user can fix.
        UserError: The error of this rank, if this and all other failed ranks
            raised one.
    """
    alone = get_world_size() == 1
    line = None if alone else _line_of(torch_dist.group.WORLD)
    if line is not None:
        line.begin()
    try:
        result, error, report = None, None, {}
        try:
            result = function()
        except Exception as caught:
            error, report = caught, _report(caught)
        reports = {0: report} if line is None else line.exchange(report)
    finally:
        if line is not None:
            line.end()
    failed = {rank: report for rank, report in reports.items() if report}
    if not failed:
        return result  # type: ignore[return-value]
    diverged = all(report.get('diverged') for report in failed.values())
    plain = all(report.get('plain') for report in failed.values())
    if plain and isinstance(error, UserError):
        raise error
    if diverged or plain:
        message = '; '.join(
            dict.fromkeys(report['message'] for report in failed.values()))
    else:
        told = dict(list(failed.items())[:_TOLD])
        message = '\n'.join(
            f'On rank {rank}:\n{report.get("traceback", report["message"])}'
            for rank, report in told.items())
        if len(failed) > len(told):
            message += f'\nand on {len(failed) - len(told)} more ranks'
    raise MaskRoundError(message, diverged) from error


def on_main(function: Callable[[], Result]) -> Result:
    """Run a step on rank 0, while the others wait; if it fails, fail on all.

    Args:
        function (Callable): The step. Its result must be small.

    Returns:
        Any: What the step returned on rank 0, on every rank.

    Raises:
        MaskRoundError: As in :func:`together`.
    """
    shared: list[Any] = [
        together(lambda: function() if get_rank() == 0 else None)
    ]
    broadcast_object_list(shared)
    return shared[0]


def is_first_of_node() -> bool:
    """Whether this process does what one of each machine must do.

    torchrun and mmengine's launchers set ``LOCAL_RANK``. Without it, each
    process counts as the first one.
    """
    return int(os.environ.get('LOCAL_RANK', 0)) == 0


def main_seed(seed: int) -> int:
    """The seed of rank 0, which everything shared by the ranks depends on.

    With ``randomness.diff_rank_seed=True`` each rank has its own seed. Every
    rank calls this function.

    Args:
        seed (int): The seed of this rank.
    """
    shared = [seed]
    broadcast_object_list(shared)
    return shared[0]


def _report(error: Exception) -> dict[str, Any]:
    return dict(
        diverged=isinstance(error, NonFiniteFeaturesError),
        # an OSError names the file, and the user can fix it
        plain=isinstance(error, (UserError, OSError)),
        message=str(error),
        traceback=traceback.format_exc())


class _Line:
    """How the ranks report steps to each other, over a store.

    All of them report to rank 0, which sends the reports to all. Requests to
    the store run in threads, since a machine that is gone does not answer.

    Args:
        store (Store): A store that nothing else uses.
    """

    def __init__(self, store: torch_dist.Store) -> None:
        self.store = store
        self.rank, self.size = get_rank(), get_world_size()
        self.step = 0

    def begin(self) -> None:
        """Show signs of life, until :meth:`end`."""
        self.step += 1
        self.ended = Event()
        sign = f'{self.step}/alive/{self.rank}'
        Thread(
            target=self._live, args=(sign, self.ended), daemon=True).start()

    def end(self) -> None:
        """End the step."""
        self.ended.set()

    def exchange(self, report: dict[str, Any]) -> Reports:
        """Report for this rank, and receive the reports of all.

        Raises:
            MaskRoundError: If the store is gone, and rank 0 most likely.
        """
        answers: Queue[Any] = Queue()
        self.answered = time.monotonic()
        Thread(
            target=self._ask, args=(report, answers), daemon=True).start()
        answer: Any = None
        while answer is None:
            try:
                answer = answers.get(timeout=0.2 * _PULSE)
            except Empty:
                if time.monotonic() - self.answered > _SILENCE:
                    answer = TimeoutError(f'no answer in {_SILENCE:.0f} s')
        if isinstance(answer, Exception):
            raise MaskRoundError(
                'The store of the processes, which rank 0 or its torchrun '
                f'keeps at MASTER_ADDR, is gone ({answer}): that process or '
                'its machine has ended, or cannot be reached any more; look '
                'into its log. --resume resumes from the last checkpoint'
            ) from answer
        return answer

    def _live(self, sign: str, ended: Event) -> None:
        try:
            while True:
                self.store.add(sign, 1)
                if ended.wait(_PULSE):
                    return
        except Exception:  # exchange() reports it
            return

    def _ask(self, report: dict[str, Any], answers: Queue) -> None:
        try:
            answers.put(self._tell_all(report) if self.rank == 0 else
                        self._tell_main(report))
        except Exception as error:  # of several kinds, by store and version
            answers.put(error)

    def _tell_main(self, report: dict[str, Any]) -> Reports:
        self._put(f'{self.step}/{self.rank}', report)
        content = self._await({0: f'{self.step}/all'})[0]
        self.store.add(f'{self.step}/heard', 1)
        if isinstance(content, float):
            return {0: _silent(0, content)}
        return {
            int(rank): report
            for rank, report in json.loads(content).items()
        }

    def _tell_all(self, report: dict[str, Any]) -> Reports:
        contents = self._await({
            rank: f'{self.step}/{rank}'
            for rank in range(1, self.size)
        })
        reports = {
            rank: _silent(rank, content) if isinstance(content, float) else
            json.loads(content)
            for rank, content in contents.items()
        }
        reports = dict(sorted({0: report, **reports}.items()))
        failed = {rank: told for rank, told in reports.items() if told}
        self._put(f'{self.step}/all', failed)
        # The store may end with this process, but not before others have read
        # it.
        hearers = sum(isinstance(said, bytes) for said in contents.values())
        begun = time.monotonic()
        while (self.store.add(f'{self.step}/heard', 0) < hearers
               and time.monotonic() - begun < 0.1 * _SILENCE):
            time.sleep(0.01)
        return reports

    def _put(self, key: str, content: Any) -> None:
        self.store.set(key, json.dumps(content))
        # torch 2.1 cannot check for a key: a counter shows that it exists.
        self.store.add(f'{key}/there', 1)

    def _await(self, keys: dict[int, str]) -> dict[int, bytes | float]:
        """Wait for a key of each rank; for a dead one, the seconds waited."""
        found: dict[int, bytes | float] = {}
        signs = dict.fromkeys(keys, 0)
        seen = dict.fromkeys(keys, time.monotonic())
        pause, told = 0.01, time.monotonic()
        while True:
            for rank in keys.keys() - found.keys():
                # Getting a missing key would wait for it.
                if self.store.add(f'{keys[rank]}/there', 0):
                    found[rank] = self.store.get(keys[rank])
                    continue
                sign = self.store.add(f'{self.step}/alive/{rank}', 0)
                self.answered = now = time.monotonic()
                if sign != signs[rank]:
                    signs[rank], seen[rank] = sign, now
                elif now - seen[rank] > (limit := _LOST if sign else _SILENCE):
                    found[rank] = limit
            missing = sorted(keys.keys() - found.keys())
            if not missing:
                return found
            if self.rank == 0 and time.monotonic() - told > _NEWS:
                told = time.monotonic()
                print_log(
                    f'Rank 0 still waits for {len(missing)} other ranks, '
                    f'which show signs of life: {missing[:_TOLD]}',
                    logger='current',
                    level=logging.WARNING)
            time.sleep(pause)
            pause = min(1.5 * pause, 0.2 * _PULSE)


def _silent(rank: int, seconds: float) -> dict[str, Any]:
    """The report on a rank that does not report."""
    return dict(
        message=f'no sign of life for {seconds:.0f} s: its process or '
        f'machine has ended, or hangs; look into the log of rank {rank}. '
        '--resume resumes from the last checkpoint')


@lru_cache(maxsize=1)
def _line_of(world: torch_dist.ProcessGroup) -> _Line:
    """The line of a default group, as long as the group exists."""
    store = torch_dist.distributed_c10d._get_default_store()
    return _Line(torch_dist.PrefixStore('cyborgs/together', store))
