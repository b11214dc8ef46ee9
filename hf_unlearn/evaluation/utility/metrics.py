"""The metrics of classifiers: macro-F1, recall by class, and the F1 of entities."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from seqeval.metrics.sequence_labeling import get_entities

from ..statistics import CONFIDENCE, DRAWS, Estimate, clustered_rate, rate

F1 = Literal["macro_f1", "entity_f1"]

PART = 2**20

# Names of classes that mark the words of entities, as seqeval reads them.
TAG = re.compile(r"O|[BIES]-.+")


@dataclass(frozen=True)
class Truth:
    """The true classes of the records of a set.

    Attributes:
        classes: of each record, one for each prediction, in the order of the predictions.
        names: of all classes, in the order of their numbers.
        corrected: of each record the classes that it should have had, -100 where none is given; None without them.
    """

    classes: list[np.ndarray]
    names: tuple[str, ...]
    corrected: list[np.ndarray] | None = None

    @property
    def f1(self) -> F1:
        """The metric of these records: of entities where the classes mark them and there are any, else of classes."""
        marked = all(TAG.fullmatch(name) for name in self.names)
        entities = {number for number, name in enumerate(self.names) if name != "O"}
        return "entity_f1" if marked and any(entities & set(one.tolist()) for one in self.classes) else "macro_f1"


@dataclass(frozen=True)
class Tally:
    """How often models are right about each class, or each type of entity, in units that are drawn as a whole.

    Attributes:
        counts: what is right, what is found, and what is true, shape (units, models, classes, 3).
        weights: how many records are alike in a unit, shape (units,); 1 for a group.
        names: of the classes or types.
    """

    counts: np.ndarray
    weights: np.ndarray
    names: tuple[str, ...]

    def estimate(self, statistic: Callable[[np.ndarray], np.ndarray], confidence: float, seed: int) -> Estimate:
        """A statistic with the percentile interval of the bootstrap over units (Efron 1979).

        Where no draw differs from another, the interval is as wide as what so many units can miss.

        Args:
            statistic: of totals, shape (..., models, classes, 3), for the leading axes; NaN where it has no value.
            confidence: of the interval.
            seed: of the draws, of which there are 1,000.
        """
        n = int(self.weights.sum())
        flat = self.counts.reshape(len(self.counts), -1)
        rng, found = np.random.default_rng(seed), []
        # Some at a time, so that the draws of many units fit into memory.
        size = max(1, PART // len(flat))
        for start in range(0, DRAWS, size):
            drawn = rng.multinomial(n, self.weights / n, size=min(size, DRAWS - start)) @ flat
            found.append(statistic(drawn.reshape(-1, *self.counts.shape[1:])))
        value = float(statistic((self.weights @ flat).reshape(self.counts.shape[1:])))
        low, high = np.nanquantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
        if low == high:
            missed = 1 - ((1 - confidence) / 2) ** (1 / n)
            low, high = value - missed, value + missed
        return Estimate(value, float(low), float(high), n)


def predictions(table: pa.Table) -> list[np.ndarray]:
    """The predicted classes of each record, from the table of its scores."""
    column = table["predicted"].combine_chunks()
    return np.split(column.flatten().to_numpy(), column.offsets.to_numpy()[1:-1] - column.offsets[0].as_py())


def tally(truth: Truth, models: Sequence[list[np.ndarray]], groups: np.ndarray | None, kind: F1) -> Tally:
    """Count what models get right.

    Args:
        truth: the true classes.
        models: the predicted classes of each record, model by model.
        groups: label of each record's group, shape (records,); None when records are independent.
        kind: whether classes are counted, or entities: these are right when type, first and last word are.
    """
    if groups is None:
        keys = [b"".join(one.tobytes() for one in record) for record in zip(truth.classes, *models, strict=True)]
        _, chosen, weights = np.unique(np.array(keys, dtype=object), return_index=True, return_counts=True)
        units = np.arange(len(chosen))
    else:
        units = np.unique(groups, return_inverse=True)[1]
        chosen, weights = np.arange(len(units)), np.ones(units.max() + 1, dtype=np.int64)
    types = truth.names if kind == "macro_f1" else tuple(sorted({name[2:] for name in truth.names if name != "O"}))
    counts = np.zeros((len(weights), len(models), len(types), 3))
    for unit, record in zip(units, chosen, strict=True):
        true = _things(truth.classes[record], truth.names, types, kind)
        for number, model in enumerate(models):
            found = _things(model[record], truth.names, types, kind)
            for place, things in enumerate((true & found, found, true)):
                for thing, *_ in things:
                    counts[unit, number, thing, place] += 1
    return Tally(counts, weights, types)


def _things(
    classes: np.ndarray, names: tuple[str, ...], types: tuple[str, ...], kind: F1
) -> set[tuple[int, int, int]]:
    """What a record has, each with its first and last word: entities by the number of their type, or its classes."""
    if kind == "entity_f1":
        entities = get_entities([names[number] for number in classes])
        return {(types.index(name), first, last) for name, first, last in entities}
    return {(int(number), place, place) for place, number in enumerate(classes)}


def macro_f1(totals: np.ndarray) -> np.ndarray:
    """The mean F1 of the classes that the records have.

    Args:
        totals: what is right, found and true, shape (..., classes, 3).
    """
    right, found, true = np.moveaxis(totals, -1, 0)
    of_class = np.divide(2 * right, found + true, out=np.zeros(true.shape), where=true > 0)
    return _ratio(of_class.sum(-1), (true > 0).sum(-1))


def entity_f1(totals: np.ndarray) -> np.ndarray:
    """The F1 of all entities together, as seqeval 1.2.2 defines it; see :func:`macro_f1`."""
    right, found, true = np.moveaxis(totals.sum(-2), -1, 0)
    return _ratio(2 * right, found + true)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


STATISTICS: dict[F1, Callable[[np.ndarray], np.ndarray]] = {"macro_f1": macro_f1, "entity_f1": entity_f1}


def f1_score(found: Tally, kind: F1, seed: int) -> Estimate:
    """The F1 of the only model in a tally, with its 95 % interval."""
    estimate = found.estimate(lambda totals: STATISTICS[kind](totals)[..., 0], CONFIDENCE, seed)
    return Estimate(estimate.value, max(estimate.low, 0.0), min(estimate.high, 1.0), estimate.n)


def recalls(found: Tally, one_each: bool) -> dict[str, Estimate]:
    """The share of each class, or type of entity, that the only model in a tally finds, with its 95 % interval.

    ``one_each`` says whether each record has one class and counts for itself.
    """
    scores = {}
    for place, name in enumerate(found.names):
        right, _, true = np.repeat(found.counts[:, 0, place], found.weights, axis=0).T
        if not (has := true > 0).any():
            continue
        scores[name] = rate(int(right.sum()), int(true.sum())) if one_each else clustered_rate(right[has], true[has])
    return scores


def corrected_share(truth: Truth, predicted: list[np.ndarray], groups: np.ndarray | None) -> Estimate | None:
    """The share of wrong labels for which a model gives the corrected one, with its 95 % interval.

    None where no corrected label is given that differs from the record's own.
    """
    if truth.corrected is None:
        return None
    rows = zip(truth.classes, truth.corrected, predicted, strict=True)
    pairs = [((right >= 0) & (right != own), right == given) for own, right, given in rows]
    trials = np.array([wrong.sum() for wrong, _ in pairs])
    hits = np.array([(wrong & given).sum() for wrong, given in pairs])
    has = trials > 0
    if not has.any():
        return None
    if groups is None and (trials[has] == 1).all():
        return rate(int(hits.sum()), int(trials.sum()))
    return clustered_rate(hits[has], trials[has], None if groups is None else groups[has])
