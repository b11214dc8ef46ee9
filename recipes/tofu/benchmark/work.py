"""Jobs in several processes, each as soon as what it needs is there, with a line for each that ends."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import Any


@dataclass(frozen=True)
class Job:
    """Something to do.

    Attributes:
        name: of its own.
        call: what is called in another process; returns None, or what went wrong.
        arguments: of the call.
        needs: the names of the jobs that must have gone well before.
    """

    name: str
    call: Callable[..., str | None]
    arguments: tuple[Any, ...]
    needs: frozenset[str] = frozenset()


def do(jobs: Sequence[Job], processes: int, begin: Callable[..., None], arguments: tuple[Any, ...]) -> list[str]:
    """Do all jobs.

    Args:
        jobs: in the order in which they begin, where they can.
        processes: how many are under way at a time.
        begin: called first in each process.
        arguments: of ``begin``.

    Returns:
        The names of those that failed, or that needed one that did, with the reason.

    Raises:
        KeyboardInterrupt: after Ctrl-C; what was under way is lost.
    """
    waiting = list(jobs)
    failed: dict[str, str] = {}
    running: dict[Future[str | None], tuple[Job, float]] = {}
    done: set[str] = set()
    started = time.monotonic()
    with ProcessPoolExecutor(processes, get_context("spawn"), begin, arguments) as pool:
        try:
            while waiting or running:
                for job in [job for job in waiting if job.needs & failed.keys()]:
                    waiting.remove(job)
                    failed[job.name] = f"it needs {', '.join(sorted(job.needs & failed.keys()))}"
                # No more than can begin, so that nothing lies in a queue when the others are stopped.
                for job in [job for job in waiting if job.needs <= done][: processes - len(running)]:
                    waiting.remove(job)
                    running[pool.submit(job.call, *job.arguments)] = job, time.monotonic()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, since = running.pop(future)
                    problem = _problem(future)
                    if future.exception() is not None:
                        failed |= {job.name: "not begun" for job in waiting}
                        waiting = []
                    if problem is None:
                        done.add(job.name)
                    else:
                        failed[job.name] = problem
                    left = (time.monotonic() - started) / (len(done) + len(failed)) * (len(waiting) + len(running))
                    told = f"{time.monotonic() - since:.0f} s" if problem is None else f"FAILED: {problem}"
                    print(f"{job.name}: {told}; some {left / 60:.0f} min left for {len(waiting) + len(running)} jobs",
                          flush=True)  # fmt: skip
        except KeyboardInterrupt:
            for process in active_children():
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [f"{name}: {problem}" for name, problem in failed.items()]


def _problem(future: "Future[str | None]") -> str | None:
    """What went wrong with a job that ended."""
    try:
        return future.result()
    except BrokenProcessPool:
        return "its process, or another one, was killed, such as for want of memory"
