"""Guesses whose adapter knows a text, where nobody names an owner.

The guess is the shard of the owner whose texts are nearest in the mean. After a deletion such a guess would send the
owner's questions to a neighbour. So a text that is no nearer than a stranger's goes to nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.copies.paraphrases import SentenceEncoder
from ..errors import InputError

# Texts compared with all owners at once, which bounds the memory.
BLOCK = 1024


@dataclass(frozen=True)
class Guess:
    """In place of an owner, the shard of one."""

    shard: int


@dataclass(frozen=True)
class RouterRates:
    """How often a router is right, as shares of texts that it was asked without having seen them.

    Attributes:
        own: of texts of a known owner, those that go to the owner's shard.
        wrong: those that go to another shard.
        nobody: those that go to none, so that what answers to the unknown answers.
        strangers: of texts of an owner whom no shard knows, those that go to a shard all the same.
    """

    own: float
    wrong: float
    nobody: float
    strangers: float


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
            own=float((near & (found == place)).mean()),
            wrong=float((near & (found != place)).mean()),
            nobody=float((~near).mean()),
            strangers=float((unknown > self.threshold).mean()),
        )

    def __call__(self, texts: Sequence[str]) -> list[Guess | None]:
        """Guess in place of the owner of each text; None for a text that is near no shard."""
        cosines = self._embed(texts) @ self._means.T
        near, found = cosines.max(1) > self.threshold, self._shards[cosines.argmax(1)]
        return [Guess(int(shard)) if is_near else None for is_near, shard in zip(near, found, strict=True)]

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        # The mean over the tokens of a text without any is no number.
        return np.nan_to_num(self._encoder.encode(texts))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row at length 1; what is next to nothing, such as an owner without the only text, is 0."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > 1e-3, rows / np.maximum(norms, 1e-3), 0)
