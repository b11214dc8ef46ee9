"""Faults of the machine, such as too little memory, in one sentence each."""

import errno
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import TrainingArguments

from .errors import InputError

# What the allocators of torch and the writers of torch, safetensors and tokenizers say; their errors have no class.
NO_MEMORY = ("out of memory", "can't allocate memory")
NOT_WRITTEN = (
    "PytorchStreamWriter failed writing",
    "unexpected pos",
    "iostream error",
    "No space left",
    "File too large",
    "Read-only",
)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an accelerator or the machine had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


@contextmanager
def telling_memory(told: str) -> Iterator[None]:
    """Raise an InputError that says what to try where the work inside needs too much memory."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(told) from None


@contextmanager
def bounded(told: str, seconds: float = 10, memory: int = 2 * 2**30) -> Iterator[None]:
    """Stop other people's code, such as a template, that does not end or fills the memory.

    Both are stopped in the main thread alone, and the memory on Linux alone.

    Args:
        told: what went wrong.
        seconds: that it may take.
        memory: in bytes, that it may take more than the process has.

    Raises:
        InputError: it needs more.
    """

    def stop(*_: Any) -> None:
        raise InputError(f"{told} within {seconds:g} seconds.")

    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource

    handler = signal.signal(signal.SIGALRM, stop)
    before, timer = resource.getrlimit(resource.RLIMIT_AS), signal.setitimer(signal.ITIMER_REAL, seconds)
    if sys.platform == "linux" and before[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, before[1]))
    try:
        yield
    except MemoryError:
        raise InputError(f"{told} in {memory / 2**30:g} GiB of memory.") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def training_memory(args: TrainingArguments) -> str:
    """What to try when training needs too much memory."""
    batch, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    told = f"Out of memory while training with per_device_train_batch_size={batch}; "
    if batch == 1:
        return f"{told}use a shorter --max_length or --use_peft, in another --output_dir."
    return (
        f"{told}the same training in less is --per_device_train_batch_size {batch // 2} "
        f"--gradient_accumulation_steps {2 * accumulation}, in another --output_dir."
    )


def measuring_memory(args: TrainingArguments) -> str:
    """What to try when measuring needs too much memory."""
    batch = args.per_device_eval_batch_size
    return (
        f"Out of memory while measuring with per_device_eval_batch_size={batch}; try "
        f"--per_device_eval_batch_size {max(batch // 4, 1)}, in another --output_dir."
    )


def no_number(args: TrainingArguments, step: int) -> str:
    """What to try when the loss is NaN or infinite."""
    cause = "fp16 overflows: train with --bf16" if args.fp16 else "the learning rate is too high"
    return (
        f"The loss is no longer a number by step {step}. Most likely {cause} (learning_rate={args.learning_rate:g}), "
        "or the data has rows without anything to learn. No result was saved."
    )


def check_weights(folder: Path) -> None:
    """Raise InputError where a model that was just saved holds a NaN or an infinity."""
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                weight = tensors.get_tensor(name)
                if weight.is_floating_point() and not torch.isfinite(weight).all():
                    raise InputError(
                        f"The weights {name!r} are no longer numbers; most likely the learning rate is too high. "
                        "No result was saved."
                    )


def explain(error: Exception) -> str | None:
    """What went wrong and what to do, None when the machine did not cause the error."""
    if isinstance(error, pickle.UnpicklingError):
        return (
            "A file of weights or of a checkpoint is damaged or holds a pickle, and was not read; use a model in "
            "safetensors, or delete the newest checkpoint folder, and the same command goes on from the one before."
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
        return "Out of memory; use smaller batches, a shorter --max_length or --use_peft."
    if isinstance(error, OSError):
        place = error.filename or "A file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"{place} could not be written, the disk is full; make room, and the same command goes on."
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            return f"{place} cannot be used ({error.strerror}); if it is an output, name another --output_dir."
    if any(words in str(error) for words in NOT_WRITTEN):
        return (
            "The weights could not be written, most likely the disk is full; make room, and the same command goes on."
        )
    return None
