"""One adapter a shard, each trained on its own rows alone; what is finished stays, and a kill changes no bit.

A shard may have slices, as in SISA (Bourtoule et al. 2021, arXiv:1912.03817): it trains on the first, then on the
first two, and so on. The checkpoint after each is a plain adapter. There the next stage begins, with a new optimiser.
"""

import copy
import gc
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from filelock import FileLock
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel, set_seed
from transformers.utils.logging import tqdm

from ..evaluation.scoring import preserved_rng
from ..files import save_json, write_text
from ..models.loading import ARCHITECTURES, Model, load_config, load_model, load_tokenizer, loading_of
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
from ..models.training_record import DataSource, LeftOut, TrainingRecord, load_record
from ..publishing.ledger import file_digest
from ..training.callbacks import show_nothing
from ..training.config import UnlearningConfig
from ..training.saving import last_checkpoint
from ..training.trainer import UnlearningTrainer
from .layout import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    SHARDING_FILE,
    WEIGHTS,
    Shard,
    Sharding,
    ShardRows,
    Slice,
    seal,
    shard_folder,
    shard_seed,
    slice_folder,
    stage_share,
    with_parts,
)
from .processes import run_apart

# Where the checkpoints of the adapter in training lie.
WORK_FOLDER = "training"


# Lets a trainer show how far it is.
Show = Callable[[UnlearningTrainer], None]


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
    key: bytes,
    processes: int = 1,
    begun: Mapping[int, Mapping[int, Path]] | None = None,
    show: Show = show_nothing,
) -> Sharding:
    """Train the adapters of some shards, and put those that stay beside them.

    An adapter that is in the folder already is finished, and stays.

    Args:
        training: how.
        dealt: the rows of each shard that is trained, by number.
        folder: where to.
        kept: where the adapters lie that are copied byte for byte, by number.
        key: that the owners were dealt by.
        processes: that train at once, each its own shards; the bits are the same for any number.
        begun: where the checkpoints lie that a shard goes on from, by number and slice; by default none.
        show: lets a trainer of this process show how far it is.

    Returns:
        The model as it is now.
    """
    parts = [part for part in training.sharding.parts if part.number in kept]
    for part in parts:
        if not (folder / part.folder).is_dir():
            slices = {one: kept[part.number] / slice_folder(one) for one in range(1, len(part.slices) + 1)}
            there = {one: place for one, place in slices.items() if part.slices[one - 1].rows and place.is_dir()}
            put_at_once(kept[part.number], folder / part.folder, there)
    missing = [number for number in dealt if not (folder / shard_folder(number) / WEIGHTS).is_file()]
    calls = [(training, number, dealt[number], folder, dict((begun or {}).get(number, {}))) for number in missing]
    if processes > 1 and len(calls) > 1:
        run_apart(_finish, calls, processes)
    else:
        for _, number, mine, _, there in tqdm(calls, desc="Shards", leave=False, disable=None):
            _finish(training, number, mine, folder, there, show)
    parts += [_trained(training.sharding, number, mine, folder, key) for number, mine in dealt.items()]
    load_tokenizer([training.base]).save_pretrained(folder)
    shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
    return with_parts(training.sharding, parts)


def _trained(sharding: Sharding, number: int, mine: ShardRows, folder: Path, key: bytes) -> Shard:
    """What is to be noted of an adapter that is there."""
    place = folder / shard_folder(number)
    slices = []
    for one, (rows, records) in enumerate(mine.slices, 1):
        weights = file_digest(place / slice_folder(one) / WEIGHTS) if len(rows) else ""
        slices.append(Slice(len(rows), seal(key, records, weights), weights))
    seed, weights = shard_seed(sharding.seed, number), file_digest(place / WEIGHTS)
    return Shard(number, seed, len(mine.rows), mine.owners, mine.records, mine.classes, weights, slices)


def _finish(
    training: ShardTraining,
    number: int,
    mine: ShardRows,
    folder: Path,
    begun: Mapping[int, Path],
    show: Show = show_nothing,
) -> None:
    """Train one adapter unless it is there."""
    locks = folder / WORK_FOLDER
    locks.mkdir(exist_ok=True)
    # The process of a command that was killed may still be about to end.
    with FileLock(locks / f"{number:04d}.lock"):
        if not (folder / shard_folder(number) / WEIGHTS).is_file():
            _train_slices(training, number, mine, folder, begun, show)


def _train_slices(
    training: ShardTraining, number: int, mine: ShardRows, folder: Path, begun: Mapping[int, Path], show: Show
) -> None:
    """Train one adapter slice by slice, from the last checkpoint that has begun it."""
    work = folder / WORK_FOLDER / f"{number:04d}"
    first = max(begun, default=0) + 1
    there: dict[int, Path] = {}
    for stage, rows in enumerate(mine.stages, 1):
        place = work / slice_folder(stage)
        if not place.is_dir():
            if stage in begun:
                put_at_once(begun[stage], place)
            elif stage >= first and len(rows):
                _train(training, number, stage, rows, work, there.get(stage - 1), show)
        if place.is_dir():
            there[stage] = place
    put_at_once(there.pop(len(mine.stages)), folder / shard_folder(number), there)
    shutil.rmtree(work)


def _seed(sharding: Sharding, number: int, stage: int) -> int:
    """The seed of a stage, which no row decides; a shard without slices has its own."""
    seed = shard_seed(sharding.seed, number)
    return seed if sharding.slices == 1 else shard_seed(seed, stage)


def _train(
    training: ShardTraining, number: int, stage: int, rows: Dataset, folder: Path, start: Path | None, show: Show
) -> None:
    """Train one stage from its own seed on its own rows; goes on from its last checkpoint.

    ``folder`` is for what is unfinished of the shard, and ``start`` that of the stage before, None for the first.
    """
    # A trainer refers to itself, so that of the shard before holds its model until it is looked for.
    gc.collect()
    work = folder / f"stage-{stage}"
    seed = _seed(training.sharding, number, stage)
    config = UnlearningConfig(**{**training.settings, "output_dir": str(work), "seed": seed})
    config.num_train_epochs *= stage_share(training.sharding.slices)
    model = base_model(training.sharding, training.base)
    lora = copy.deepcopy(training.lora)
    if TASKS[training.sharding.task].classes:
        lora.modules_to_save = heads_of(model)
    trainer = UnlearningTrainer(
        model, config, rows, peft_config=lora, source=training.base, task=training.sharding.task
    )
    if start is not None:
        _begin_at(trainer.model, start)
    show(trainer)
    work.mkdir(parents=True, exist_ok=True)
    trainer.train(resume_from_checkpoint=last_checkpoint(work) or False)
    # The fingerprint of some rows tells of the data set that they were taken from.
    trainer.record = trainer.training_record(replace(training.source, fingerprint=None, rows=len(rows)))
    trainer.save_model()
    _put_in_order(work / ADAPTER_CONFIG)
    put_at_once(work, folder / slice_folder(stage))
    shutil.rmtree(work)


def _begin_at(model: Model, checkpoint: Path) -> None:
    """Give an adapter and its head the weights of a checkpoint."""
    assert isinstance(model, PeftModel)
    weights = load_file(checkpoint / WEIGHTS)
    set_peft_model_state_dict(model, weights)
    now = get_peft_model_state_dict(model)
    if now.keys() != weights.keys() or any(not torch.equal(now[name].cpu(), weights[name]) for name in weights):
        raise RuntimeError(f"PEFT did not load all weights of {checkpoint}")


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


def put_at_once(source: Path, place: Path, slices: Mapping[int, Path] | None = None) -> None:
    """Copy an adapter with its checkpoints, which are given by slice, so that it is there whole or not at all."""
    staging = place.with_name(f".{place.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    for one, to in ((source, staging), *((of, staging / slice_folder(i)) for i, of in (slices or {}).items())):
        to.mkdir(parents=True)
        for name in ADAPTER_FILES:
            if (one / name).is_file():
                shutil.copyfile(one / name, to / name)
    os.rename(staging, place)


def shard_records(folder: Path, part: Shard, after: int = 0) -> list[TrainingRecord]:
    """The training records of an adapter's stages after a slice, as far as they are there."""
    place = folder / part.folder
    places = [*(place / slice_folder(one) for one in range(after + 1, len(part.slices) + 1)), place]
    found = [load_record(locate(str(one))) for one in places if one.is_dir()]
    return [record for record in found if record is not None]


def record_of_all(
    records: list[TrainingRecord], sharding: Sharding, source: DataSource, left_out: LeftOut
) -> TrainingRecord:
    """One training record for all adapters: what they cost together, from those of all stages."""
    asked = records[0].asked_epochs
    return replace(
        records[0],
        dataset=source,
        seed=sharding.seed,
        asked_epochs=None if asked is None else asked / stage_share(sharding.slices),
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
