"""The same work in several processes, each of which starts afresh and knows nothing of the others."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import datasets
import torch
from transformers.utils.logging import disable_progress_bar, tqdm

from ..data.processes import end_with_parent
from ..errors import InputError
from ..machine_faults import explain

# What a worker sends after each call, and once it has done all that it was given.
ONE, DONE = ("one", ""), ("done", "")


def run_apart(work: Callable[..., None], calls: Sequence[tuple[Any, ...]], processes: int) -> None:
    """Call a function with each of several arguments, in processes that end with this one.

    Process ``r`` of ``P`` takes the calls ``r``, ``r + P`` and so on. It has as many threads as this one, because
    their number may decide the last bit of a sum. Of several GPUs it sees one.

    Args:
        work: a function of a module.
        calls: its arguments, each of which must be one that can be sent to a process.
        processes: how many at most.

    Raises:
        InputError: a call raised one, the machine failed, or a process died.
        RuntimeError: a call raised another error, of which this one tells in words.
        KeyboardInterrupt: after Ctrl-C, once each process has ended as it does on SIGTERM.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    devices = _devices()
    try:
        for index in range(min(processes, len(calls))):
            ours, theirs = context.Pipe(duplex=False)
            device = devices[index % len(devices)] if devices else None
            process = context.Process(
                target=_worker, args=(theirs, torch.get_num_threads(), device, work, calls[index::processes])
            )
            process.start()
            theirs.close()
            workers[ours] = process
        running = dict(workers)
        with tqdm(total=len(calls), desc="Shards", leave=False, disable=None) as bar:
            while running:
                for pipe in wait(list(running)):
                    assert isinstance(pipe, Connection)
                    if _is_one(pipe, running[pipe]):
                        bar.update()
                    else:
                        del running[pipe]
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join()


def _devices() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _is_one(pipe: Connection, process: Any) -> bool:
    """Whether a worker has done one call, and not all; raises what it could not do."""
    try:
        kind, told = pipe.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        if code < 0:
            cause = f"by signal {-code}; if the memory was too small, name fewer --shard_processes"
        else:
            cause = f'with code {code}; a script that calls this needs `if __name__ == "__main__":` around the call'
        raise InputError(
            f"A process that trains shards ended {cause}. The same command goes on where it was."
        ) from None
    if kind == "input":
        raise InputError(told)
    if kind == "error":
        raise RuntimeError(told)
    return (kind, told) == ONE


def _worker(
    pipe: Connection, threads: int, device: str | None, work: Callable[..., None], calls: Sequence[Any]
) -> None:
    """Do some calls in this process, and tell how that ended."""
    if sys.platform != "win32":
        # Ctrl-C goes to all processes of a terminal, and a second signal would end a training without a checkpoint.
        os.setsid()
    threading.Thread(target=end_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        for call in calls:
            work(*call)
            pipe.send(ONE)
        pipe.send(DONE)
    except InputError as error:
        pipe.send(("input", str(error)))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        told = explain(error)
        # Its own words may be those of a record, so that they are not for the terminal.
        pipe.send(("error", traceback.format_exc()) if told is None else ("input", told))
