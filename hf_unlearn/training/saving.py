"""What a trainer leaves in its folder: a model that is whole, and the evidence beside it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ..files import rename, write_text
from ..machine_faults import check_weights
from ..models.location import WEIGHT_FILES

MARKER = "complete.json"

# The trainer sets the first for the training, the model's own loss the second.
SET_BY_TRAINING = ("use_cache", "problem_type")
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


def save_whole(save: Callable[[Path], None], folder: Path, *, writes: bool) -> None:
    """Save a model such that no file is ever there by half; all processes take part, and one of them ``writes``.

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
        saved = {file.name for file in staging.iterdir()}
        for name in sorted(saved):
            rename(staging / name, folder / name)
        # Of a model that was here before; with them another one would be loaded, or published.
        for pattern in (*WEIGHT_FILES, ADAPTER_CONFIG_NAME):
            for file in folder.glob(pattern):
                if file.name not in saved:
                    file.unlink()
    finally:
        if writes:
            shutil.rmtree(staging, ignore_errors=True)


def finish_checkpoint(folder: Path, limit: int | None, best: str | None) -> None:
    """Mark a checkpoint as whole, and only then remove older ones until ``limit`` remain; ``best`` stays."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    write_text(folder / MARKER, json.dumps(sizes, indent=2) + "\n")
    if not limit:
        return
    # What a kill has left of a checkpoint may look newer than a whole one, and must not be kept in its place. One that
    # has the trainer's state and no marker may be whole, of another trainer.
    for other in folder.parent.glob("checkpoint-*"):
        half = (other / MARKER).is_file() or not (other / TRAINER_STATE_NAME).is_file()
        if half and not _is_complete(other):
            shutil.rmtree(other)
    # The clock may have been wrong, so the newest is the one of the last step.
    rotate_checkpoints(str(folder.parent), limit, best, use_mtime=False)


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint that was written to its end, None when there is none."""
    complete = [folder for folder in Path(output_dir).glob("checkpoint-*") if _is_complete(folder)]
    return str(max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]))) if complete else None


def _is_complete(folder: Path) -> bool:
    """Whether all files are there that the marker, the last of them, names with their sizes."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


class KeptSettings(TrainerCallback):
    """Undoes what transformers' trainer does to a configuration: the tokenizer's special tokens, and no cache."""

    def __init__(self, model: PreTrainedModel):
        self.config = model.config
        self.kept = _fields(self.config, SET_BY_TRAINING)
        holders: list[Any] = [self.config.get_text_config()]
        if model.can_generate():
            holders.append(model.generation_config)
        self.special = [(holder, _fields(holder, SPECIAL_TOKENS)) for holder in holders]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for holder, fields in self.special:
            _restore(holder, SPECIAL_TOKENS, fields)

    @contextmanager
    def as_they_were(self) -> Iterator[None]:
        """With the settings that the original had, for a model that is saved."""
        now = _fields(self.config, SET_BY_TRAINING)
        _restore(self.config, SET_BY_TRAINING, self.kept)
        try:
            yield
        finally:
            _restore(self.config, SET_BY_TRAINING, now)


def _fields(holder: PretrainedConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: vars(holder)[name] for name in names if name in vars(holder)}


def _restore(holder: PretrainedConfig, names: tuple[str, ...], fields: dict[str, Any]) -> None:
    for name in names:
        if name in fields:
            setattr(holder, name, fields[name])
        else:
            vars(holder).pop(name, None)
