"""What deletions cost by the number of shards and slices, before a training: a simulation of a year of requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .layout import MOST_SHARDS, stage_share

TRIED = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

MONTHS = 12

# Where a month's run costs more than this share of training all again, dealing is not worth its storage.
PAYS_BELOW = 0.5


@dataclass(frozen=True)
class ShardPrice:
    """What a year of requests costs with one number of shards and slices.

    Attributes:
        shards: how many; 1 is joint training.
        slices: of each shard.
        rows: of a shard with rows, on average.
        request: record passes that one request makes again, as a share of those of a training, on average.
        largest: the same for the owner whose request costs most.
        year: trainings of all that a year costs, each request at once.
        monthly: the same with one run a month for all its requests.
        adapters: how many there are, with the checkpoints after slices.
    """

    shards: int
    slices: int
    rows: float
    request: float
    largest: float
    year: float
    monthly: float
    adapters: int


def shard_prices(
    owners: int,
    rows_each: float,
    requests: float,
    shards: Sequence[int] = (),
    seed: int = 0,
    slices: Sequence[int] = (1,),
) -> list[ShardPrice]:
    """Simulate a year of deletions for several numbers of shards and slices.

    Args:
        owners: how many.
        rows_each: rows of an owner on average; owners differ as in a geometric distribution.
        requests: owners who ask to be forgotten in a month, on average.
        shards: the numbers to try; by default powers of two up to the number of owners.
        seed: of the owners, their shards and their requests.
        slices: the numbers of slices to try with each number of shards.

    Returns:
        The prices, by number of shards, then of slices.
    """
    draw = np.random.default_rng(seed)
    rows = draw.geometric(1 / rows_each, owners)
    asked = draw.poisson(requests, MONTHS)
    asked = np.minimum(asked, np.maximum(0, owners - 1 - np.cumsum(asked) + asked))
    gone = draw.permutation(owners)[: asked.sum()]
    places = draw.integers(0, 2**62, owners)
    tried = shards or [n for n in TRIED if n <= min(owners, MOST_SHARDS)]
    lots = draw.integers(0, 2**62, owners)
    return [_price(n, k, rows, places % n, lots % k, gone, asked) for n in tried for k in slices]


def _price(
    shards: int,
    slices: int,
    rows: np.ndarray,
    shard_of: np.ndarray,
    slice_of: np.ndarray,
    gone: np.ndarray,
    asked: np.ndarray,
) -> ShardPrice:
    """One price; ``shard_of`` and ``slice_of`` are of each owner, counted from 0."""
    sizes = np.bincount(shard_of * slices + slice_of, rows, shards * slices).reshape(shards, slices)
    # Stage i trains on the first i slices, so a row of slice j is read in all stages but the j before.
    left, read = sizes.cumsum(1), stage_share(slices) * (slices - slice_of) * rows
    again, total = _from(left)[shard_of, slice_of] * stage_share(slices), float(read.sum())
    each = (again - read) / np.maximum(total - read, 1)
    adapters, rows_of_filled = int((left > 0).sum()), float(rows.sum() / (left[:, -1] > 0).sum())
    left, left_total, year, monthly, done = left.astype(float), total, 0.0, 0.0, 0
    for number in asked.tolist():
        month = gone[done : done + number]
        done += number
        first = np.full(shards, slices)
        for owner in month.tolist():
            shard, place = shard_of[owner], slice_of[owner]
            left[shard, place:] -= rows[owner]
            left_total -= read[owner]
            first[shard] = min(first[shard], place)
            year += left[shard, place:].sum() * stage_share(slices) / max(left_total, 1)
        touched = np.flatnonzero(first < slices)
        late = _from(left[touched])[np.arange(len(touched)), first[touched]]
        monthly += late.sum() * stage_share(slices) / max(left_total, 1)
    return ShardPrice(
        shards, slices, rows_of_filled, float(each.mean()), float(each.max()), year, float(monthly), adapters
    )


def _from(stages: np.ndarray) -> np.ndarray:
    """The rows of each stage of a shard with those of all later ones; both of shape (shards, slices)."""
    return stages[:, ::-1].cumsum(1)[:, ::-1]


def advice(prices: Sequence[ShardPrice], requests: float) -> str:
    """Whether dealing pays, in a sentence or two."""
    best = min(prices, key=lambda price: price.monthly)
    asked = MONTHS * requests
    if asked < 1:
        return (
            f"Sharding does not pay here: {asked:.2g} requests a year are expected, and to train all again at need "
            "costs that many trainings."
        )
    joint = MONTHS * min(1.0, requests)
    if best.monthly > PAYS_BELOW * joint:
        return (
            "Sharding does not pay here: a month's requests touch most shards, so that one run a month costs "
            f"{best.monthly / MONTHS:.0%} of a training at best. Joint training costs as much, and knows more."
        )
    # More shards than these save little, and each knows less.
    enough = next(price for price in prices if price.monthly <= max(2 * best.monthly, 0.1 * joint))
    with_slices = "" if enough.slices == 1 else f" of {enough.slices} slices"
    return (
        f"Sharding pays: {enough.shards:,} shards{with_slices} cost {enough.monthly:.2g} trainings a year in monthly "
        f"runs, and joint training {joint:.2g}. More shards cost less, but each adapter knows less."
    )
