"""Threads for which the end of a process does not wait.

It waits for those of ``ThreadPoolExecutor``, which may be reading from a store
that does not answer: minutes after Ctrl-C.
"""
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from os import getpid
from queue import SimpleQueue
from threading import Thread
from typing import Any

_AT_ONCE = 16
"""Objects of a store that a process reads or writes at once."""


def begin(work: Callable[[], Any]) -> Future:
    """Call a function in a thread, in the order of the calls.

    Args:
        work (Callable): What is called.

    Returns:
        Future: Of what it returns; one that has not begun can be cancelled.
    """
    future: Future = Future()
    _waiting(getpid()).put((future, work))
    return future


@lru_cache(maxsize=1)
def _waiting(process: int) -> SimpleQueue:
    """Work for the threads of a process; a fork has none of its parent's."""
    queue: SimpleQueue = SimpleQueue()
    for _ in range(_AT_ONCE):
        Thread(target=_work, args=(queue, ), name='store',
               daemon=True).start()
    return queue


def _work(queue: SimpleQueue) -> None:
    while True:
        future, work = queue.get()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # for the thread that waits
                future.set_exception(error)
        del future, work  # and so what was read
