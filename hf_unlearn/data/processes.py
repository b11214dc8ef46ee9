"""Work on many parts in threads or processes: the results come in order, and few parts are in memory."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from ..errors import InputError

Part = TypeVar("Part")
Result = TypeVar("Result")


def in_order(pool: Executor, work: Callable[[Part], Result], parts: Iterable[Part], at_once: int) -> Iterator[Result]:
    """What a function makes of each part, in their order.

    Args:
        pool: threads or processes that do the work.
        work: the function; a module has it where ``pool`` is of processes.
        parts: they are read as they are needed.
        at_once: how many parts are worked on or wait, so that the memory stays bounded.
    """
    waiting: deque[Future[Result]] = deque()
    for part in parts:
        waiting.append(pool.submit(work, part))
        if len(waiting) >= at_once:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def worker_processes(count: int, begin: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[Executor]:
    """Processes that start afresh, end with this one, and leave Ctrl-C to this one.

    Args:
        count: how many.
        begin: what each does first, a function of a module.
        arguments: for it. They go through a pipe, so no other program sees them.

    Raises:
        InputError: one of them died.
    """
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (begin, *arguments))
    try:
        _start(pool, count)
        yield pool
    except BrokenProcessPool:
        raise InputError(
            "A process that helped ended before its work was done. If the memory was too small, name fewer processes; "
            'a script that calls this needs `if __name__ == "__main__":` around the call.'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start(pool: Executor, count: int) -> None:
    """Start all processes now; they inherit that the signals of a terminal do not reach them."""
    if sys.platform == "win32":
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        for _ in range(count):
            pool.submit(int)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(begin: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    begin(*arguments)


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end this one at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
