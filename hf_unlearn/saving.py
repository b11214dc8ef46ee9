"""What a trainer leaves in its folder: a model that is whole, and the evidence beside it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from .machine_faults import check_weights


def save_whole(save: Callable[[Path], None], folder: Path, *, writes: bool) -> None:
    """Save a model such that no file is ever there by half.

    Args:
        save: writes the model into a folder; all processes take part.
        folder: where to.
        writes: whether this process is the one that writes.

    Raises:
        InputError: the weights are no numbers; the folder is as it was then.
    """
    staging = folder / ".model.part"
    if writes:
        shutil.rmtree(staging, ignore_errors=True)
    try:
        save(staging)
        if not writes:
            return
        check_weights(staging)
        # PEFT writes a card of its own, which would name a folder of this machine as the base.
        (staging / "README.md").unlink(missing_ok=True)
        for file in sorted(staging.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        if writes:
            shutil.rmtree(staging, ignore_errors=True)
