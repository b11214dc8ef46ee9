"""A deletion from a sharded model: the shards touched are trained again without S, or dropped; all others stay."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset

from ..data.arrow_tables import column_names
from ..data.copies.exact import texts_of
from ..data.format import layout_of, record_format
from ..data.labels import class_names
from ..data.split import RetainedSplit
from ..errors import InputError
from ..models.location import ModelSource
from ..models.tasks import TASKS
from .layout import (
    SHARDING_FILE,
    Shard,
    Sharding,
    ShardRows,
    adapter_folder,
    deal,
    number_of,
    owners_of,
    passes,
    seal,
    slice_folders,
    slice_of,
)


@dataclass(frozen=True)
class Deletion:
    """What a request does to a sharded model.

    Attributes:
        sharding: the model from before, with the classes that stay.
        retrained: the rows of each shard that is trained again, by number.
        begun: the checkpoints that these go on from, by number and slice; those of the slices before them stay, too.
        dropped: the numbers of those that end without an adapter.
        kept: the adapters that stay byte for byte, by number.
        unproven: how many of these were trained on other rows than the data set has for them now.
        passes: record passes of a training of all shards without S.
        copies_elsewhere: rows with a text of S in shards that it was not in; None where nobody looked.
        why_all: why all adapters are trained again; empty where they are not.
    """

    sharding: Sharding
    retrained: dict[int, ShardRows]
    begun: dict[int, dict[int, Path]]
    dropped: list[int]
    kept: dict[int, Shard]
    unproven: int
    passes: float
    copies_elsewhere: int | None
    why_all: str = ""

    @property
    def price(self) -> float:
        """The record passes that are made again, as a share of those of a training of all that stay."""
        again = (passes(mine.sizes, self.start(number)) for number, mine in self.retrained.items())
        return sum(again) / self.passes

    def start(self, number: int) -> int:
        """The slice that a shard goes on after, 0 where it is trained again from the seed."""
        return max(self.begun.get(number, {}), default=0)

    @property
    def shard_of(self) -> dict[str, int]:
        """The shard of each owner whom an adapter knows afterwards, by keyed digest."""
        kept = {owner: number for number, part in self.kept.items() for owner in part.owners}
        return kept | {owner: number for number, mine in self.retrained.items() for owner in mine.owners}

    def folders(self, source: ModelSource) -> dict[int, Path]:
        """Where the adapters lie that stay; raises InputError where one is not the one that was trained."""
        for part in self.kept.values():
            slice_folders(source, part)
        return {number: adapter_folder(source, part) for number, part in self.kept.items()}


def plan_deletion(
    sharding: Sharding, parts: RetainedSplit, key: bytes, source: ModelSource, *, drop: bool
) -> Deletion:
    """Find the shards that a request touches, and say what becomes of each.

    A shard that has rows and no adapter, because it was dropped before or its owners are new, counts as touched.

    Args:
        sharding: the model from before.
        parts: of the split of D.
        key: that the owners were dealt by.
        source: where the model lies.
        drop: whether the shards touched are left without an adapter, and not trained again.

    Raises:
        InputError: a row has no owner, the data set is a stream, no row would be left to train on, or a checkpoint is
            not that of the record.
    """
    retained, forget = parts.retained, parts.forget
    if not isinstance(retained, Dataset) or not isinstance(forget, Dataset):
        raise InputError("A sharded model needs the whole data set to find shards; leave --dataset_streaming out.")
    layout = layout_of(sharding.settings)
    if any(len(part.slices) != sharding.slices - 1 for part in sharding.parts):
        raise InputError(
            f"{SHARDING_FILE} tells of {sharding.slices} slices in each shard, and its shards have others; restore it "
            "from its history."
        )
    gone = set(owners_of(forget, sharding.column, key).tolist())
    touched = {number_of(owner, sharding.shards) for owner in gone}
    labels, why_all = sharding.labels, ""
    if labels is not None and TASKS[sharding.task].classes:
        labels = class_names(retained, record_format(column_names(retained), sharding.task, **layout).label)
        if labels != sharding.labels:
            # A head has a place for each class, also in shards that never saw one of its records.
            why_all = (
                f"{len(set(sharding.labels or ()) ^ set(labels))} classes come or go, and each adapter's head has a "
                "place for every class, so that all adapters are trained again. Classes that the data set declares as "
                "a ClassLabel stay."
            )
    sharding = replace(sharding, labels=labels)
    dealt = deal(retained, sharding, key, layout)
    there = {part.number: part for part in sharding.parts}
    again = {number for number in dealt if number in touched or number not in there or why_all}
    kept = {number: part for number, part in there.items() if number not in touched and number not in again}
    if drop and not kept:
        raise InputError("The request touches all adapters, so that --drop would leave none; leave it out.")
    unproven = sum(number not in dealt or dealt[number].records != part.records for number, part in kept.items())
    retrained = {} if drop else {number: dealt[number] for number in sorted(again)}
    begun: dict[int, dict[int, Path]] = {}
    if not why_all:
        begun = {
            number: _checkpoints(source, sharding, there[number], mine, gone, key)
            for number, mine in retrained.items()
            if number in there
        }
    return Deletion(
        sharding=sharding,
        retrained=retrained,
        begun=begun,
        dropped=sorted((touched | again if drop else touched - set(dealt)) & (set(dealt) | set(there))),
        kept=kept,
        unproven=unproven,
        passes=sum(passes(mine.sizes) for mine in dealt.values()),
        copies_elsewhere=_copies_elsewhere(sharding, parts, key),
        why_all=why_all,
    )


def _checkpoints(
    source: ModelSource, sharding: Sharding, part: Shard, mine: ShardRows, gone: set[str], key: bytes
) -> dict[int, Path]:
    """The checkpoints of a shard that saw the very rows that stay, and so no record of S, by slice.

    Args:
        source: where the model lies.
        sharding: the model.
        part: the adapter.
        mine: the rows of the shard that stay.
        gone: keyed digests of the owners in S.
        key: that the owners were dealt by.
    """
    touched = [slice_of(owner, sharding.slices) for owner in gone if number_of(owner, sharding.shards) == part.number]
    there, found = slice_folders(source, part), {}
    for number, (was, (rows, records)) in enumerate(zip(part.slices, mine.slices, strict=True), 1):
        shown = (was.rows, was.seal) == (len(rows), seal(key, records, was.weights))
        if number >= min(touched) or not shown:
            break
        if was.rows:
            if number not in there:
                break
            found[number] = there[number]
    return found


def _copies_elsewhere(sharding: Sharding, parts: RetainedSplit, key: bytes) -> int | None:
    """Rows of L with a text of S, in shards that this text of S was not in."""
    columns = parts.audit.duplicate_columns
    if parts.audit.duplicate_policy is None:
        return None
    shards: dict[str, set[int]] = {}
    for text, number in _texts(sharding, parts.forget, columns, key):
        shards.setdefault(text, set()).add(number)
    return sum(
        text in shards and number not in shards[text]
        for text, number in _texts(sharding, parts.retained, columns, key)
    )


def _texts(sharding: Sharding, rows: object, columns: list[str], key: bytes) -> Iterable[tuple[str, int]]:
    assert isinstance(rows, Dataset)
    numbers = [number_of(owner, sharding.shards) for owner in owners_of(rows, sharding.column, key).tolist()]
    return zip(texts_of(rows, columns).to_pylist(), numbers, strict=True)


def reasons(deletion: Deletion, base: str) -> list[str]:
    """What was done, a sentence or two for each thing, in counts."""
    before = len(deletion.sharding.parts)
    again, gone = len(deletion.retrained), len(deletion.dropped)
    found = [f"The model is dealt into {before:,} adapters by owner."]
    if again:
        seeds = sum(not deletion.start(number) for number in deletion.retrained)
        if seeds:
            found.append(f"{seeds:,} {_were(seeds)} trained again from the seed, without S.")
        if late := again - seeds:
            found.append(
                f"{late:,} {_were(late)} trained again from a checkpoint before the first slice with a record of S, "
                "without S. The later checkpoints are gone."
            )
    if gone:
        found.append(f"{gone:,} {_were(gone)} dropped.")
    if deletion.why_all:
        found.append(deletion.why_all)
    found.append(f"{len(deletion.kept):,} {'is' if len(deletion.kept) == 1 else 'are'} byte for byte as before.")
    of = "rows that stay" if deletion.sharding.slices == 1 else "record passes of a training of all that stays"
    found.append(f"Trained again: {deletion.price:.1%} of the {of}.")
    if deletion.copies_elsewhere:
        found.append(
            f"{deletion.copies_elsewhere:,} rows of other shards have a text of S, so their adapters know it."
        )
    answer = {
        "base": f"To an owner who is deleted now {base} answers.",
        "vote": "To an owner who is deleted now the mean of all adapters answers.",
    }
    return [*found, answer[deletion.sharding.unknown]]


def unproven_way(deletion: Deletion) -> tuple[str, ...]:
    """What of the adapters that stay no record shows; empty where all is shown."""
    if not deletion.unproven:
        return ()
    return (
        f"{deletion.unproven:,} of the adapters that stay were trained on other rows than the data set has for them "
        "now, so nothing shows that S was not among these.",
    )


def _were(count: int) -> str:
    return "was" if count == 1 else "were"
