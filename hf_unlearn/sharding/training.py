"""One adapter a shard, each trained on its own rows alone; what is finished stays, and a kill changes no bit."""

import copy
import gc
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from filelock import FileLock
from peft import LoraConfig
from transformers import PreTrainedModel, set_seed

from ..evaluation.scoring import preserved_rng
from ..files import save_json, write_text
from ..models.loading import ARCHITECTURES, Model, load_config, load_model, load_tokenizer, loading_of
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
from ..models.training_record import RECORD_FILE, DataSource, LeftOut, TrainingRecord, load_record
from ..publishing.ledger import file_digest
from ..training.callbacks import show_in_one_line
from ..training.config import UnlearningConfig
from ..training.saving import last_checkpoint
from ..training.trainer import UnlearningTrainer
from .layout import SHARDING_FILE, WEIGHTS, Shard, Sharding, ShardRows, shard_folder, shard_seed, with_parts
from .processes import run_apart

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, WEIGHTS, RECORD_FILE)

# Where the checkpoints of the adapter in training lie.
WORK_FOLDER = "training"


@dataclass(frozen=True)
class ShardTraining:
    """How each adapter is trained, whatever its shard.

    Attributes:
        sharding: the model; its parts are those that are there already.
        base: the model under the adapters.
        lora: the settings of an adapter.
        settings: those of :class:`~hf_unlearn.UnlearningConfig`, without output folder and seed.
        source: where the data came from.
    """

    sharding: Sharding
    base: ModelSource
    lora: LoraConfig
    settings: dict[str, Any]
    source: DataSource


def base_model(sharding: Sharding, base: ModelSource) -> Model:
    """The model under the adapters; weights that its files lack, such as a head, are the same each time."""
    labels = dict(enumerate(sharding.labels)) if sharding.labels else None
    with preserved_rng():
        set_seed(sharding.seed)
        return load_model(base, sharding.task, id2label=labels, new_head=True, **loading_of(sharding.settings))


def answers_alone(base: ModelSource, task: Task, labels: list[str] | None) -> bool:
    """Whether the base has learned to answer, with these classes in this order; a head that is drawn has not."""
    config = load_config(base)
    if (config.architectures or [""])[0] not in ARCHITECTURES[task].values():
        return False
    return not TASKS[task].classes or list((config.id2label or {}).values()) == labels


def train_shards(
    training: ShardTraining,
    dealt: Mapping[int, ShardRows],
    folder: Path,
    kept: Mapping[int, Path],
    processes: int = 1,
) -> Sharding:
    """Train the adapters of some shards, and put those that stay beside them.

    An adapter that is in the folder already is finished, and stays.

    Args:
        training: how.
        dealt: the rows of each shard that is trained, by number.
        folder: where to.
        kept: where the adapters lie that are copied byte for byte, by number.
        processes: that train at once, each its own shards; the bits are the same for any number.

    Returns:
        The model as it is now.
    """
    parts = [part for part in training.sharding.parts if part.number in kept]
    for part in parts:
        if not (folder / part.folder).is_dir():
            put_at_once(kept[part.number], folder / part.folder)
    missing = [number for number in dealt if not (folder / shard_folder(number) / WEIGHTS).is_file()]
    calls = [(training, number, dealt[number].rows, folder) for number in missing]
    if processes > 1 and len(calls) > 1:
        run_apart(_finish, calls, processes)
    else:
        for call in calls:
            _finish(*call)
    for number, mine in dealt.items():
        weights = folder / shard_folder(number) / WEIGHTS
        seed = shard_seed(training.sharding.seed, number)
        parts.append(
            Shard(number, seed, len(mine.rows), mine.owners, mine.records, mine.classes, file_digest(weights))
        )
    load_tokenizer([training.base]).save_pretrained(folder)
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return with_parts(training.sharding, parts)


def _finish(training: ShardTraining, number: int, rows: Dataset, folder: Path) -> None:
    """Train one adapter unless it is there."""
    locks = folder / WORK_FOLDER
    locks.mkdir(exist_ok=True)
    # The process of a command that was killed may still be about to end.
    with FileLock(locks / f"{number:04d}.lock"):
        if not (folder / shard_folder(number) / WEIGHTS).is_file():
            _train(training, number, rows, folder)


def _train(training: ShardTraining, number: int, rows: Dataset, folder: Path) -> None:
    """Train one adapter from its own seed on its own rows; goes on from its last checkpoint."""
    # A trainer refers to itself, so that of the shard before holds its model until it is looked for.
    gc.collect()
    work = folder / WORK_FOLDER / f"{number:04d}"
    seed = shard_seed(training.sharding.seed, number)
    config = UnlearningConfig(**{**training.settings, "output_dir": str(work), "seed": seed})
    model = base_model(training.sharding, training.base)
    lora = copy.deepcopy(training.lora)
    if TASKS[training.sharding.task].classes:
        lora.modules_to_save = heads_of(model)
    trainer = UnlearningTrainer(
        model, config, rows, peft_config=lora, source=training.base, task=training.sharding.task
    )
    show_in_one_line(trainer)
    work.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=last_checkpoint(work) or False)
    # The fingerprint of some rows tells of the data set that they were taken from.
    trainer.record = trainer.training_record(replace(training.source, fingerprint=None, rows=len(rows)))
    trainer.save_model()
    _put_in_order(work / ADAPTER_CONFIG)
    put_at_once(work, folder / shard_folder(number))
    shutil.rmtree(work)


def _put_in_order(path: Path) -> None:
    """Sort the names of modules in an adapter's settings: PEFT keeps a set, whose order is another in each process."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    write_text(path, json.dumps(settings, indent=2, sort_keys=True))


def heads_of(model: Model) -> list[str]:
    """The parts of a classifier beside its encoder, which each shard has for itself."""
    assert isinstance(model, PreTrainedModel)
    return [
        name
        for name, part in model.named_children()
        if name != model.base_model_prefix and next(part.parameters(), None) is not None
    ]


def put_at_once(source: Path, place: Path) -> None:
    """Copy an adapter, so that it is there whole or not at all."""
    staging = place.with_name(f".{place.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name in ADAPTER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, staging / name)
    os.rename(staging, place)


def shard_records(folder: Path, numbers: list[int]) -> list[TrainingRecord]:
    """The training records of some adapters in a folder, as far as they are there."""
    found = [load_record(locate(str(folder / shard_folder(number)))) for number in numbers]
    return [record for record in found if record is not None]


def record_of_all(
    records: list[TrainingRecord], sharding: Sharding, source: DataSource, left_out: LeftOut
) -> TrainingRecord:
    """One training record for all adapters: what they cost together."""
    return replace(
        records[0],
        dataset=source,
        seed=sharding.seed,
        epochs=sum(one.epochs * (one.dataset.rows or 0) for one in records) / sum(p.rows for p in sharding.parts),
        steps=sum(one.steps for one in records),
        tokens=sum(one.tokens for one in records),
        flops=sum(one.flops for one in records),
        seconds=sum(one.seconds for one in records),
        left_out=left_out,
    )


def save_sharding(sharding: Sharding, folder: Path) -> None:
    """Write ``sharding.json``."""
    save_json(sharding, folder / SHARDING_FILE)
