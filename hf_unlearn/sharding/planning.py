"""What deletions cost by the number of shards, before anything is trained: a simulation of a year of requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .layout import MOST_SHARDS

TRIED = (1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

MONTHS = 12

# Where a month's run costs more than this share of training all again, dealing is not worth its storage.
PAYS_BELOW = 0.5


@dataclass(frozen=True)
class ShardPrice:
    """What a year of requests costs with one number of shards.

    Attributes:
        shards: how many; 1 is joint training.
        rows: of a shard with rows, on average.
        request: the rows that one request trains again, as a share of all; on average, and at most.
        largest: the same for the owner in the largest shard.
        year: trainings of all that a year costs, each request at once.
        monthly: the same with one run a month for all its requests.
        adapters: how many there are.
    """

    shards: int
    rows: float
    request: float
    largest: float
    year: float
    monthly: float
    adapters: int


def shard_prices(
    owners: int, rows_each: float, requests: float, shards: Sequence[int] = (), seed: int = 0
) -> list[ShardPrice]:
    """Simulate a year of deletions for several numbers of shards.

    Args:
        owners: how many.
        rows_each: rows of an owner on average; owners differ as in a geometric distribution.
        requests: owners who ask to be forgotten in a month, on average.
        shards: the numbers to try; by default powers of two up to the number of owners.
        seed: of the owners, their shards and their requests.

    Returns:
        The prices, by number of shards.
    """
    draw = np.random.default_rng(seed)
    rows = draw.geometric(1 / rows_each, owners)
    asked = draw.poisson(requests, MONTHS)
    asked = np.minimum(asked, np.maximum(0, owners - 1 - np.cumsum(asked) + asked))
    gone = draw.permutation(owners)[: asked.sum()]
    places = draw.integers(0, 2**62, owners)
    tried = shards or [n for n in TRIED if n <= min(owners, MOST_SHARDS)]
    return [_price(n, rows, places % n, gone, asked) for n in tried]


def _price(shards: int, rows: np.ndarray, shard_of: np.ndarray, gone: np.ndarray, asked: np.ndarray) -> ShardPrice:
    sizes = np.bincount(shard_of, rows, shards)
    total, year, monthly = float(rows.sum()), 0.0, 0.0
    each = (sizes[shard_of] - rows) / np.maximum(total - rows, 1)
    left, left_total, done = sizes.copy(), total, 0
    for number in asked.tolist():
        month = gone[done : done + number]
        done += number
        for owner in month.tolist():
            left[shard_of[owner]] -= rows[owner]
            left_total -= rows[owner]
            year += left[shard_of[owner]] / max(left_total, 1)
        monthly += left[np.unique(shard_of[month])].sum() / max(left_total, 1)
    filled = sizes[sizes > 0]
    return ShardPrice(
        shards, float(filled.mean()), float(each.mean()), float(each.max()), year, float(monthly), len(filled)
    )


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
    return (
        f"Sharding pays: {enough.shards:,} shards cost {enough.monthly:.2g} trainings a year in monthly runs, and "
        f"joint training {joint:.2g}. More shards cost less, but each adapter knows less."
    )
