"""Checkpoints that were written to their end, and how to recognise them."""

import json
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .evaluation.report import write_text

MARKER = "complete.json"


class MarkComplete(TrainerCallback):
    """Writes, as the last file of a checkpoint, what the others are and how long."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        if args.should_save:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_text(folder / MARKER, json.dumps(_sizes(folder), indent=2) + "\n")


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint that was written to its end, None when there is none."""
    complete = [folder for folder in Path(output_dir).glob("checkpoint-*") if _is_complete(folder)]
    return str(max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]))) if complete else None


def _is_complete(folder: Path) -> bool:
    marker = folder / MARKER
    return marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == _sizes(folder)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
