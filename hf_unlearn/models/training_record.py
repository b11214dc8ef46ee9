"""``training_record.json``: how a model was trained, kept beside it so that it can be trained again without S."""

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from ..files import load_json
from .location import ModelSource, file_beside
from .tasks import Task

RECORD_FILE = "training_record.json"

RECORD_VERSION = 1

# The training arguments that a retraining or an unlearning run takes over.
TRAINING_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_sampling_strategy",
    "bf16",
    "fp16",
    "train_last_layers",
    "max_length",
    "mlm_probability",
    "dataset_text_field",
    "dataset_label_field",
    "prompt_template",
    "completion_template",
)


@dataclass(frozen=True)
class DataSource:
    """Where a data set came from.

    Attributes:
        name: its id on the Hub, or the name of the file or folder; None for one made in memory.
        config, split: its configuration and split.
        revision: the commit on the Hub.
        fingerprint: the fingerprint of the ``datasets`` library.
        rows: how many rows were trained on.
    """

    name: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    fingerprint: str | None = None
    rows: int | None = None


@dataclass(frozen=True)
class LeftOut:
    """The records to forget that a training left out of its data set.

    Attributes:
        rows: how many; 0 where it was trained on all of the data set.
        records: a keyed digest of their content, None without any.
        key_check: identifies the key.
    """

    rows: int = 0
    records: str | None = None
    key_check: str | None = None


@dataclass(frozen=True)
class TrainingRecord:
    """One training of a model.

    Attributes:
        task: what the model does.
        labels: the classes of a classifier in the order of their ids.
        base_model: the model it started from (a path or Hub id), None when trained from scratch.
        base_revision: its commit on the Hub.
        dataset: the data.
        settings: the training arguments in :data:`TRAINING_SETTINGS`.
        peft: the LoRA settings (``r``, ``lora_alpha``, ``lora_dropout``, ``target_modules``), None for full training.
        seed: of the order of the data, of dropout and of new weights.
        epochs: passes over the data.
        steps: optimiser steps.
        world_size: processes.
        tokens: tokens read, without padding.
        flops: floating point operations, padding included.
        seconds: wall-clock time of the training loop.
        software: versions of the libraries.
        asked_epochs: passes over the data that were asked for; None where steps were, or in older records.
        asked_steps: steps that were asked for, None where epochs were.
        left_out: what the data set held besides; None where nobody says, as in older records.
    """

    task: Task
    labels: list[str] | None
    base_model: str | None
    base_revision: str | None
    dataset: DataSource
    settings: dict[str, Any]
    peft: dict[str, Any] | None
    seed: int
    epochs: float
    steps: int
    world_size: int
    tokens: int
    flops: float
    seconds: float
    software: dict[str, str] = field(default_factory=dict)
    schema_version: int = RECORD_VERSION
    asked_epochs: float | None = None
    asked_steps: int | None = None
    left_out: LeftOut | None = None

    @property
    def planned_epochs(self) -> float:
        """The epochs that a retraining takes: those asked for, for S may have shaped what was reached."""
        return self.epochs if self.asked_epochs is None else self.asked_epochs

    @property
    def step_records(self) -> int:
        """Records of an optimiser step, as they were asked for."""
        of_process = self.settings["per_device_train_batch_size"] * self.settings["gradient_accumulation_steps"]
        return of_process * self.world_size


def load_record(source: ModelSource) -> TrainingRecord | None:
    """The training record beside a model, or None when there is none."""
    path = file_beside(source, RECORD_FILE)
    if path is None:
        return None
    return load_json(TrainingRecord, path, "training record", RECORD_VERSION, "train again")


def software_versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    packages = ("hf_unlearn", "transformers", "datasets", "accelerate", "peft", "torch")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
