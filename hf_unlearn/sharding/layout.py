"""``sharding.json``: whose rows went into which adapter, by keyed digests, and where the adapters lie.

The shard of an owner follows from the owner's id under the data owner's secret key. So without the key nobody can say
whose data an adapter holds, and with it an owner who is unknown or deleted is known as such.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset
from huggingface_hub import snapshot_download

from ..data.arrow_tables import column_names, read_tables, require_columns
from ..data.canonical import content_texts, id_texts, texts_of
from ..data.format import record_format
from ..data.labels import distinct_labels, label_ids
from ..data.request.digests import digest_each, keyed_digest, known_key
from ..data.request.records import value_text
from ..errors import InputError
from ..files import load_json
from ..hub_access import hub_errors
from ..models.location import LEDGER_MARK, ModelSource, file_beside, locate
from ..models.tasks import TASKS, Task
from ..models.training_record import RECORD_FILE
from ..publishing.ledger import file_digest
from ..publishing.ledger_of_model import weights_of

SHARDING_FILE = "sharding.json"
SHARDS_FOLDER = "shards"
SLICES_FOLDER = "slices"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, WEIGHTS, RECORD_FILE)

SHARDING_VERSION = 1

MOST_SHARDS = 9999  # four digits in the name of a folder
MOST_SLICES = 99

Unknown = Literal["base", "vote"]


@dataclass(frozen=True)
class Slice:
    """The checkpoint of a shard after one of its slices.

    Attributes:
        rows: of this slice and those before it, which are all that it has seen.
        seal: keyed digest of the content of these rows and of the weights, which nobody makes without the key.
        weights: SHA-256 of its safetensors file; empty where there were no rows, and so no checkpoint.
    """

    rows: int
    seal: str
    weights: str


@dataclass(frozen=True)
class Shard:
    """One adapter.

    Attributes:
        number: of its folder, counted from 0.
        seed: of its training.
        rows: it was trained on so many.
        owners: keyed digests of the owners of these rows, sorted.
        records: keyed digest of the content of these rows.
        classes: that these rows have, by name in the order of their ids; empty where the model has no classes.
        weights: SHA-256 of its safetensors file.
        slices: the checkpoints after each slice but the last, whose checkpoint is the adapter itself.
    """

    number: int
    seed: int
    rows: int
    owners: list[str]
    records: str
    classes: list[str]
    weights: str
    slices: list[Slice] = field(default_factory=list)

    @property
    def folder(self) -> str:
        return shard_folder(self.number)

    @property
    def stages(self) -> list[int]:
        """The rows that each stage of the training saw."""
        return [*(one.rows for one in self.slices), self.rows]


@dataclass(frozen=True)
class Sharding:
    """A model that is dealt into adapters by owner.

    Attributes:
        task, labels: what it does, and the classes of a classifier in the order of their ids.
        column: of the data set that says whose a row is.
        shards: into how many the owners are dealt; those without rows have no adapter.
        slices: into how many the owners of each shard are dealt.
        unknown: what answers without an owner, or to one who is unknown or deleted: the base, or the vote of all.
        base, base_revision: the model under the adapters.
        base_weights: SHA-256 of each of its safetensors files, by name.
        seed: that the seeds of the shards, and what the base's files lack, follow from.
        key_check: identifies the data owner's key.
        settings: of the training, as they were given.
        parts: the adapters, by number.
    """

    task: Task
    labels: list[str] | None
    column: str
    shards: int
    unknown: Unknown
    base: str
    base_revision: str | None
    base_weights: dict[str, str]
    seed: int
    key_check: str
    settings: dict[str, Any]
    parts: list[Shard] = field(default_factory=list)
    slices: int = 1
    schema_version: int = SHARDING_VERSION

    @property
    def shard_of(self) -> dict[str, int]:
        """The shard of each live owner, by keyed digest."""
        return {owner: part.number for part in self.parts for owner in part.owners}

    def part(self, number: int) -> Shard | None:
        """The adapter of a shard, None where it has none."""
        return next((part for part in self.parts if part.number == number), None)

    def base_source(self, *, trust_remote_code: bool = False) -> ModelSource:
        """Find the model under the adapters; raises InputError where its weights are not those of the training."""
        base = locate(self.base, self.base_revision, trust_remote_code=trust_remote_code)
        if weights_of(base) != self.base_weights:
            raise InputError(
                f"The weights of {base.public_name!r} are not those that the adapters were trained on; restore them."
            )
        return base


def shard_folder(number: int) -> str:
    """The folder of a shard's adapter, below that of the model."""
    return f"{SHARDS_FOLDER}/{number:04d}"


def slice_folder(number: int) -> str:
    """The folder of the checkpoint after a slice, below that of its shard."""
    return f"{SLICES_FOLDER}/{number:02d}"


def shard_seed(seed: int, number: int) -> int:
    """The seed of a shard, which nothing but its number and the seed of all shards decides."""
    return int.from_bytes(hashlib.sha256(f"shard {number} of seed {seed}".encode()).digest()[:4], "big")


def stage_share(slices: int) -> float:
    """The epochs of each stage of a shard, as a share of those that are asked for.

    Stage i of K reads the first i slices. So K stages of 2 / (K + 1) of the epochs read equal slices as often as a
    training without slices does (Bourtoule et al. 2021, arXiv:1912.03817).
    """
    return 2 / (slices + 1)


def passes(stages: Sequence[int], after: int = 0) -> float:
    """Record passes of the stages after a slice, in the epochs that are asked for.

    Args:
        stages: the rows that each stage of a shard trains on.
        after: the slice whose checkpoint is there already, 0 without one.
    """
    return sum(stages[after:]) * stage_share(len(stages))


# Owners


def owner_digests(key: bytes, column: str, owners: Iterable[Any]) -> list[str]:
    """The keyed digest of each owner; a number and the text of it are the same owner."""
    return digest_each(key, [value_text(column, _text(owner)) for owner in owners])


def _text(owner: Any) -> str:
    return owner if isinstance(owner, str) else texts_of(pa.array([owner])).to_pylist()[0]


def number_of(digest: str, shards: int) -> int:
    """The shard of an owner, from the owner's keyed digest."""
    return int(digest, 16) % shards


def slice_of(digest: str, slices: int) -> int:
    """The slice of an owner in any shard, counted from 1, from the owner's keyed digest."""
    return int(hashlib.sha256(f"slice of {digest}".encode()).hexdigest(), 16) % slices + 1


def owners_of(dataset: Dataset, column: str, key: bytes) -> np.ndarray:
    """The keyed digest of each row's owner, text of shape (rows,); raises InputError for a row that has none."""
    require_columns([column], column_names(dataset))
    found: list[str | None] = []
    for table, _ in read_tables(dataset, [column]):
        kind = table.schema.field(column).type
        if pa.types.is_nested(kind):
            raise InputError(f"Column {column!r} holds {kind} values; an owner is a text or a number.")
        found.extend(id_texts(table, column, dataset.features[column]).to_pylist())
    if missing := sum(not owner for owner in found):
        raise InputError(f"{missing:,} rows have no owner in column {column!r}; fill them in, or remove these rows.")
    distinct = list(dict.fromkeys(found))
    digests = dict(zip(distinct, owner_digests(key, column, distinct), strict=True))
    return np.array([digests[owner] for owner in found])


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard; ``owners``, ``records`` and ``classes`` are those of :class:`Shard`.

    ``slices`` are the rows of each slice but the last with those of the slices before it, and their keyed digest.
    """

    rows: Dataset
    owners: list[str]
    records: str
    classes: list[str]
    slices: list[tuple[Dataset, str]]

    @property
    def stages(self) -> list[Dataset]:
        """What each stage of the training sees."""
        return [*(rows for rows, _ in self.slices), self.rows]

    @property
    def sizes(self) -> list[int]:
        """The rows of each stage."""
        return [len(rows) for rows in self.stages]


def deal(dataset: Dataset, sharding: Sharding, key: bytes, layout: dict[str, Any]) -> dict[int, ShardRows]:
    """Deal the rows of a data set into shards and slices by their owner, in the order of the rows.

    Args:
        dataset: the rows.
        sharding: the model, whose adapters do not matter.
        key: the data owner's secret key.
        layout: the options of :func:`~hf_unlearn.data.format.record_format`.

    Returns:
        The shards that have rows, by number.

    Raises:
        InputError: the column is missing, or a row has no owner.
    """
    owners = owners_of(dataset, sharding.column, key)
    numbers = np.array([number_of(owner, sharding.shards) for owner in owners])
    slices = np.array([slice_of(owner, sharding.slices) for owner in owners])
    found = {}
    for number in np.unique(numbers).tolist():
        places = np.flatnonzero(numbers == number)
        rows = dataset.select(places)
        until = [dataset.select(places[slices[places] <= one]) for one in range(1, sharding.slices)]
        found[number] = ShardRows(
            rows,
            sorted(set(owners[places].tolist())),
            content_digest(rows, key),
            classes_in(rows, sharding.task, sharding.labels, layout),
            [(part, content_digest(part, key)) for part in until],
        )
    return found


def content_digest(rows: Dataset, key: bytes) -> str:
    """A keyed digest of what rows hold, whatever their order."""
    columns = column_names(rows)
    tables = (table for table, _ in read_tables(rows, columns))
    return keyed_digest(key, [text for table in tables for text in content_texts(table, columns, rows.features)])


def seal(key: bytes, records: str, weights: str) -> str:
    """A keyed digest that ties the weights of a checkpoint to the digest of the rows that it saw."""
    return keyed_digest(key, [f"{records} {weights}"])


def classes_in(rows: Dataset, task: Task, labels: list[str] | None, layout: dict[str, Any]) -> list[str]:
    """The classes that rows have, by name in the order of their ids; none where the model has no classes."""
    if labels is None or not TASKS[task].classes:
        return []
    column = record_format(column_names(rows), task, **layout).label
    known = label_ids(rows, column, {name: i for i, name in enumerate(labels)})
    return [labels[i] for i in sorted({known[label] for label in distinct_labels(rows, column)})]


# Where it lies


def load_sharding(source: ModelSource) -> Sharding | None:
    """What lies beside a model that is dealt into adapters, None for another model."""
    path = file_beside(source, SHARDING_FILE)
    if path is None:
        return None
    # Whether a ledger belongs to the model is for those who look for one.
    return load_json(Sharding, path, "sharding of a model", SHARDING_VERSION, "train again", dropped=(LEDGER_MARK,))


def adapter_folder(source: ModelSource, part: Shard) -> Path:
    """The folder of an adapter on this machine; raises InputError where its weights are not those of the record."""
    folder = _fetched(source, part.folder)
    if not (folder / WEIGHTS).is_file() or file_digest(folder / WEIGHTS) != part.weights:
        raise InputError(
            f"The adapter {part.folder} of {source.public_name!r} is not the one that {SHARDING_FILE} names; restore "
            "the folder from its history."
        )
    return folder


def slice_folders(source: ModelSource, part: Shard) -> dict[int, Path]:
    """The folders of a shard's checkpoints on this machine, by slice, without those that somebody has taken away.

    Raises InputError where one has other weights than the record says.
    """
    found = {}
    for number, one in enumerate(part.slices, 1):
        place = f"{part.folder}/{slice_folder(number)}"
        folder = _fetched(source, place) if one.rows else None
        if folder is None or not folder.is_dir():
            continue
        if not (folder / WEIGHTS).is_file() or file_digest(folder / WEIGHTS) != one.weights:
            raise InputError(
                f"The checkpoint {place} of {source.public_name!r} is not the one that {SHARDING_FILE} names; restore "
                "it from its history, or remove its folder, and the shard trains again from an earlier one."
            )
        found[number] = folder
    return found


def _fetched(source: ModelSource, folder: str) -> Path:
    """Where the folder of an adapter lies on this machine, fetched from the Hub where it is there."""
    if source.is_local:
        return Path(source.name) / folder
    with hub_errors(f"The model {source.name!r}"):
        names = [f"{folder}/{name}" for name in ADAPTER_FILES]
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=names)) / folder


def owner_key(path: str | None, sharding: Sharding) -> bytes | None:
    """The key that owners are recognised with; None where no file is named and the usual one is not this model's.

    Raises InputError where the file that is named is not there, or holds another key.
    """
    key = known_key(path, [sharding.key_check])
    if key is None and path is not None:
        raise InputError(f"{path} is not the key that the owners were dealt by; name that one.")
    return key


def with_parts(sharding: Sharding, parts: Iterable[Shard]) -> Sharding:
    """The same model with other adapters."""
    return replace(sharding, parts=sorted(parts, key=lambda part: part.number))
