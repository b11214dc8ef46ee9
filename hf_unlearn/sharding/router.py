"""Guesses whose adapter knows a text, where nobody names an owner.

The guess is the shard of the owner whose texts are nearest in the mean. After a deletion such a guess would send the
owner's questions to a neighbour. So a text that is no nearer than a stranger's goes to nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.arrow_tables import AnyDataset, column_names
from ..data.copies.exact import texts_of
from ..data.copies.paraphrases import SentenceEncoder
from ..data.format import layout_of, record_format
from ..data.split import RetainedSplit
from ..errors import InputError
from ..evaluation.router_rates import RouterEntry, RouterRates
from ..evaluation.statistics import share
from .layout import Sharding, owners_of

# Texts compared with all owners at once, which bounds the memory.
BLOCK = 1024

# The share of texts of unknown owners that may go to a neighbour's adapter.
STRANGERS = 0.05


@dataclass(frozen=True)
class Guess:
    """In place of an owner, the shard of one."""

    shard: int


class Router:
    """The mean embedding of each owner, and how near a text must be to one.

    A mean tells of its owner. So the means stay in memory, and nothing saves them. Made again from the texts that stay
    after a deletion, they hold nothing of S.

    Attributes:
        rates: measured on each text without that text in the means, and without its owner for strangers.
        threshold: the cosine above which a text goes to the shard of the nearest owner.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        texts: Sequence[str],
        owner: Sequence[Any],
        shards: Sequence[int | None],
        strangers: float,
    ):
        """See :meth:`~hf_unlearn.sharding.serving.ShardedModel.router`; ``shards`` are those of the owners."""
        if len(texts) != len(owner):
            raise InputError(
                f"There are {len(texts):,} texts and {len(owner):,} owners; give one owner for each text."
            )
        if not 0 <= strangers < 1:
            raise InputError(f"strangers={strangers:g} is not possible; it must be a share of 1, such as 0.05.")
        known = [i for i, shard in enumerate(shards) if shard is not None]
        people, mine = np.unique([str(owner[i]) for i in known], return_inverse=True)
        if len(people) < 2:
            raise InputError(
                "A router needs texts of two owners whom the model knows; name the key that they were dealt by, and "
                "give texts of more."
            )
        self._encoder = encoder
        place = np.array([shards[i] for i in known])
        self._shards = np.zeros(len(people), int)
        self._shards[mine] = place
        embedded = self._embed([texts[i] for i in known])
        sums = np.zeros((len(people), embedded.shape[1]), np.float32)
        np.add.at(sums, mine, embedded)
        self._means = _unit(sums)
        asked, unknown = np.zeros(len(known), np.float32), np.zeros(len(known), np.float32)
        found = np.zeros(len(known), int)
        for start in range(0, len(known), BLOCK):
            part = slice(start, start + BLOCK)
            cosines, own = embedded[part] @ self._means.T, mine[part]
            rows = np.arange(len(own))
            cosines[rows, own] = -1
            unknown[part] = cosines.max(1)
            cosines[rows, own] = (embedded[part] * _unit(sums[own] - embedded[part])).sum(1)
            asked[part], found[part] = cosines.max(1), self._shards[cosines.argmax(1)]
        self.threshold = float(np.quantile(unknown, 1 - strangers, method="higher"))
        near = asked > self.threshold
        self.rates = RouterRates(
            own=share(near & (found == place), mine),
            wrong=share(near & (found != place), mine),
            nobody=share(~near, mine),
            strangers=share(unknown > self.threshold, mine),
        )

    def __call__(self, texts: Sequence[str]) -> list[Guess | None]:
        """Guess in place of the owner of each text; None for a text that is near no shard."""
        cosines = self._embed(texts) @ self._means.T
        near, found = cosines.max(1) > self.threshold, self._shards[cosines.argmax(1)]
        return [Guess(int(shard)) if is_near else None for is_near, shard in zip(near, found, strict=True)]

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        # The mean over the tokens of a text without any is no number.
        return np.nan_to_num(self._encoder.encode(texts))


def measured_router(
    sharding: Sharding, shard_of: Mapping[str, int], parts: RetainedSplit, key: bytes, encoder: SentenceEncoder
) -> RouterEntry | None:
    """How often a router errs that is made from the texts of L, and where it sends those of S.

    The texts are those that the model reads before it answers, as the search for copies reads them: of a conversation
    all turns.

    Args:
        sharding: the model.
        shard_of: the shard of each owner whom its adapters know, or will know, by keyed digest.
        parts: of the split of D.
        key: that the owners were dealt by.
        encoder: of the router.

    Returns:
        The rates; None where the adapters know fewer than two owners in L.

    Raises:
        InputError: a row has no owner, or nothing to read.
    """
    (texts, owners), (asked, of_asked) = (_asked(rows, sharding, key) for rows in (parts.retained, parts.forget))
    if len({owner for owner in owners if owner in shard_of}) < 2:
        return None
    router = Router(encoder, texts, owners, [shard_of.get(owner) for owner in owners], STRANGERS)
    gone = [i for i, owner in enumerate(of_asked) if owner not in shard_of]
    forgotten = None
    if gone:
        to_neighbour = np.array([guess is not None for guess in router([asked[i] for i in gone])])
        forgotten = share(to_neighbour, np.array([of_asked[i] for i in gone]))
    return RouterEntry(encoder.public_name, router.rates, forgotten, sharding.unknown)


def _asked(rows: AnyDataset, sharding: Sharding, key: bytes) -> tuple[list[str], list[str]]:
    """What is asked in each row, and the keyed digest of its owner."""
    assert isinstance(rows, Dataset)
    form = record_format(column_names(rows), sharding.task, **layout_of(sharding.settings))
    texts = [text or "" for text in texts_of(rows, form.asked_columns).to_pylist()]
    return texts, owners_of(rows, sharding.column, key).tolist()


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row at length 1; what is next to nothing, such as an owner without the only text, is 0."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > 1e-3, rows / np.maximum(norms, 1e-3), 0)
