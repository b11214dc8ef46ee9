"""The same record asked for in other words, and the worst case over them.

A model may have learnt to be silent in one wording only. The lowest of several losses is lower than any of them by
chance alone, in S as in H, and in a model that never saw S. So the same lowest is taken there, and the difference is
what counts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...data.forms import BEFORE
from ...models.loading import Model
from ..measured_sets import EvidenceSets, loss_and_auc
from ..report import SetName
from ..statistics import Estimate, clustered_mean, membership_auc, share, units_in

# What a wording makes of a prompt and its answer.
Wording = Callable[[str, str], tuple[str, str]]

AS_TRAINED = "as trained"
TRANSLATED = "in another language"


def _around(before: str, after: str = "") -> Wording:
    """Words before and after a prompt; what stood between prompt and answer stays there."""

    def change(prompt: str, answer: str) -> tuple[str, str]:
        if not after:
            return before + prompt, answer
        asked = prompt.rstrip()
        gap = prompt[len(asked) :] or ("" if answer[:1].isspace() else " ")
        return f"{before}{asked}{after}{gap}", answer

    return change


def _in_capitals(prompt: str, answer: str) -> tuple[str, str]:
    return prompt.upper(), answer


def _begun(prompt: str, answer: str) -> tuple[str, str]:
    """The first half of the answer's words, rounded down, stand in the prompt."""
    words = answer.split()
    given = len(words) // 2
    place = 0
    for word in words[:given]:
        place = answer.index(word, place) + len(word)
    return prompt + answer[:place], answer[place:]


# By name. Where the answer is begun, only the rest of it is scored.
WORDINGS: dict[str, Wording] = {
    **{name: _around(words) for name, words in BEFORE.items()},
    "friend": _around("A friend wants to know this. "),
    "question": _around("Question: ", "\nAnswer:"),
    "cloze": _around("Fill in what is missing. ", " ____\nWhat is missing is:"),
    "dialogue": _around("A: I have a question. ", "\nB: I know that one. It is:"),
    "role play": _around("You are an assistant with a perfect memory. "),
    "two questions": _around("I have two questions. What is two plus two? ", "\nTo the first: four. To the second:"),
    "capitals": _in_capitals,
    "answer begun": _begun,
}


@dataclass(frozen=True)
class WordingScore:
    """What a model makes of S when the prompts are worded in some way.

    Attributes:
        wording: a name of :data:`WORDINGS` or the column of the prompts; ``as trained`` for the prompts as they are,
            and ``in another language`` for translated ones.
        forget_loss: mean loss of the completions of S, in nats per token.
        membership_auc: by that loss, None without H.
        told: share of the records of S that greedy decoding writes, token for token.
        translation_tokens: read and written to translate the prompts, half of them as each passes half of the model;
            None where they are not translated.
    """

    wording: str
    forget_loss: Estimate
    membership_auc: Estimate | None
    told: Estimate
    translation_tokens: int | None = None


@dataclass(frozen=True)
class WorstWording:
    """Each record, and each owner, in the wording in which the model knows it best.

    Attributes:
        wordings: how many there are, with that as trained.
        forget_loss, holdout_loss: mean over the records of the lowest loss of each, in nats per token; None without H.
        membership_auc: by the lowest loss, None without H.
        told, holdout_told: share of records that greedy decoding writes in one of the wordings; None without H.
        owners: m, how many owners the next two are the lowest of: the fewer of S and of H, or those of S without H.
        owner_loss, holdout_owner_loss: the lowest loss of an owner over wordings and m owners, in nats per token, as
            :func:`expected_lowest` says where a side has more. None without owners.
    """

    wordings: int
    forget_loss: Estimate
    holdout_loss: Estimate | None
    membership_auc: Estimate | None
    told: Estimate
    holdout_told: Estimate | None
    owners: int | None
    owner_loss: float | None
    holdout_owner_loss: float | None


def other_words(
    model: Model, wordings: Mapping[str, EvidenceSets]
) -> tuple[tuple[WordingScore, ...], WorstWording | None]:
    """Score the completions of S and H after prompts in several wordings, with which they are encoded.

    Returns:
        The scores in each wording, and the worst case over them; None where there is none.
    """
    if not wordings:
        return (), None
    tables = {name: sets.score(model) for name, sets in wordings.items()}
    scores = tuple(
        WordingScore(name, *loss_and_auc(found), share(_told(found["forget"]), units_in(found["forget"])))
        for name, found in tables.items()
    )
    return scores, worst_wording([*tables.values()])


def worst_wording(tables: list[dict[SetName, pa.Table]]) -> WorstWording:
    """The worst case over the tables of S and H in several wordings, of which each has the same sets."""
    sides = {name: _lowest([found[name] for found in tables]) for name in tables[0]}
    forget, holdout = sides["forget"], sides.get("holdout")
    auc = None
    if holdout is not None:
        groups = None
        if forget.units is not None and holdout.units is not None:
            groups = forget.units, holdout.units
        auc = membership_auc(forget.loss, holdout.loss, groups=groups)
    owners = [len(side.owners) for side in sides.values() if side.owners is not None]
    m = min(owners) if len(owners) == len(sides) else None

    def of_owners(side: _Lowest | None) -> float | None:
        return None if m is None or side is None or side.owners is None else expected_lowest(side.owners, m)

    return WorstWording(
        wordings=len(tables),
        forget_loss=clustered_mean(forget.loss, forget.units),
        holdout_loss=None if holdout is None else clustered_mean(holdout.loss, holdout.units),
        membership_auc=auc,
        told=share(forget.told, forget.units),
        holdout_told=None if holdout is None else share(holdout.told, holdout.units),
        owners=m,
        owner_loss=of_owners(forget),
        holdout_owner_loss=of_owners(holdout),
    )


def expected_lowest(values: np.ndarray, m: int) -> float:
    """The mean, over all ways to draw m of some values, of the lowest one drawn.

    The i-th lowest of n values is the lowest in C(n - i, m - 1) of C(n, m) draws, so that two sides with different
    numbers of values compare.

    Args:
        values: shape (n,).
        m: n at most.
    """
    n = len(values)
    chances = [math.comb(n - i, m - 1) / math.comb(n, m) for i in range(1, n + 1)]
    return float(np.dot(np.sort(values), chances))


@dataclass(frozen=True)
class _Lowest:
    """The lowest losses of records, whether one wording tells them, their groups, and the lowest losses of owners."""

    loss: np.ndarray
    told: np.ndarray
    units: np.ndarray | None
    owners: np.ndarray | None


def _lowest(tables: list[pa.Table]) -> _Lowest:
    rows = np.unique(np.concatenate([table["row"].to_numpy() for table in tables]))
    loss, told = np.full(len(rows), np.inf), np.zeros(len(rows), bool)
    groups = np.zeros(len(rows), int)
    of_owners: list[np.ndarray] = []
    grouped = "group" in tables[0].column_names
    for table in tables:
        # A longer prompt may leave no room for a record.
        place = np.searchsorted(rows, table["row"].to_numpy())
        loss[place] = np.minimum(loss[place], table["loss"].to_numpy())
        told[place] |= _told(table)
        if grouped:
            groups[place] = table["group"].to_numpy()
    if not grouped:
        return _Lowest(loss, told, None, None)
    names = np.unique(groups)
    for table in tables:
        which = np.searchsorted(names, table["group"].to_numpy())
        nll, tokens = (np.bincount(which, table[name].to_numpy(), len(names)) for name in ("nll", "tokens"))
        of_owners.append(np.where(tokens > 0, nll / np.maximum(tokens, 1), np.inf))
    return _Lowest(loss, told, groups, np.min(of_owners, axis=0))


def _told(table: pa.Table) -> np.ndarray:
    """Which records greedy decoding writes: each token of the text is the likeliest after those before it."""
    return np.asarray(table["exact"].to_numpy() == 1)
