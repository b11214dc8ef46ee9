"""Trouble that the machine makes, in one sentence each."""

import errno
import pickle

import torch
from safetensors import SafetensorError

# What the allocators of torch and the writers of torch and safetensors say; they have no error class of their own.
NO_MEMORY = ("out of memory", "can't allocate memory")
NOT_WRITTEN = ("PytorchStreamWriter failed writing", "unexpected pos", "No space left", "File too large", "Read-only")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an accelerator or the machine had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


def explain(error: Exception) -> str | None:
    """What went wrong and what to do, None when it was not the machine's doing.

    Args:
        error: what ended a command.
    """
    if isinstance(error, pickle.UnpicklingError):
        return (
            "A file of the checkpoint is damaged or was not written by a trainer, and was not read; delete the newest "
            "checkpoint folder, and the same command goes on from the one before."
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
        return "Out of memory; use smaller batches, a shorter --max_length or --use_peft."
    if isinstance(error, OSError):
        place = error.filename or "A file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"{place} could not be written, the disk is full; make room, and the same command goes on."
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            return f"{place} cannot be written ({error.strerror}); name another --output_dir."
    if isinstance(error, SafetensorError | RuntimeError) and any(words in str(error) for words in NOT_WRITTEN):
        return (
            "The weights could not be written, most likely the disk is full; make room, and the same command goes on."
        )
    return None
