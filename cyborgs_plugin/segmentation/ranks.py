"""Steps that all ranks take together, however long one of them needs."""
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import TypeVar

import torch.distributed as torch_dist
from mmengine.dist import all_gather_object, get_rank, get_world_size

from ..errors import UserError
from .sources import NonFiniteFeaturesError

Result = TypeVar('Result')


class MaskRoundError(UserError, RuntimeError):
    """A mask round failed on some rank; raised on all of them.

    Attributes:
        diverged (bool): Whether features that are NaN or infinite, and
            nothing else, were the cause.
    """

    def __init__(self, message: str, diverged: bool = False) -> None:
        super().__init__(message)
        self.diverged = diverged


def together(function: Callable[[], Result],
             group: torch_dist.ProcessGroup | None = None) -> Result:
    """Run a step on every rank; if one fails, fail on all.

    Args:
        function (Callable): The step.
        group (ProcessGroup, optional): Whose ranks wait for one another.
            Defaults to None, all.

    Returns:
        Any: What the step gave on this rank.

    Raises:
        MaskRoundError: With the tracebacks of the ranks that failed.
    """
    result, error, report = None, None, None
    try:
        result = function()
    except Exception as caught:
        error = caught
        report = (isinstance(error, NonFiniteFeaturesError), str(error),
                  traceback.format_exc())
    reports = {
        rank: report
        for rank, report in enumerate(all_gather_object(report, group))
        if report is not None
    }
    if not reports:
        return result  # type: ignore[return-value]
    diverged = all(report[0] for report in reports.values())
    if diverged or get_world_size() == 1:
        message = '; '.join(report[1] for report in reports.values())
    else:
        message = '\n'.join(f'On rank {rank}:\n{report[2]}'
                            for rank, report in reports.items())
    raise MaskRoundError(message, diverged) from error


def on_main(function: Callable[[], object],
            group: torch_dist.ProcessGroup | None = None) -> None:
    """Run a step on rank 0, while the others wait; if it fails, fail on all.

    Args:
        function (Callable): The step.
        group (ProcessGroup, optional): As of :func:`together`.
            Defaults to None, all.

    Raises:
        MaskRoundError: With the traceback of rank 0, if it failed.
    """
    together(lambda: function() if get_rank() == 0 else None, group)


def patient_group() -> torch_dist.ProcessGroup | None:
    """All ranks, able to wait for one another for days.

    The default group ends a job whose ranks wait for some minutes, and NCCL
    does not notice that a process died. The group is made once and kept for
    the whole run: torch 2.1 can deadlock where a gloo group is destroyed,
    whose destructor waits, holding the GIL, for a thread that wants it.
    """
    if get_world_size() == 1:
        return None
    return _group_beside(torch_dist.group.WORLD)


@lru_cache(maxsize=1)
def _group_beside(world: torch_dist.ProcessGroup) -> torch_dist.ProcessGroup:
    """The patient group of a default group."""
    return torch_dist.new_group(backend='gloo', timeout=timedelta(days=7))
