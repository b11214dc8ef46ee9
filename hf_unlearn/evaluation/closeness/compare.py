"""How close unlearned models are to reference models that never saw S: epsilon, the challenge's F and U-LiRA.

Both arms are many models of which each was scored on every record. Their score of a record is log(p / (1 - p)) of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from ...errors import InputError
from ..membership import logit_confidence
from ..report import SetName
from ..statistics import Estimate
from .challenge import challenge_epsilons, dealt_epsilons, qualities
from .epsilon import ALPHA, DELTA, EpsilonBound, example_bounds, models_needed, pooled_bound
from .ulira import unlearning_lira

HISTOGRAM_FILE = "epsilon_histogram.png"

# The challenge's score is 0 for fewer models, whatever they are.
FEWEST_MODELS = 3

Tables: TypeAlias = Mapping[SetName, pa.Table]
Compared = Literal["forget", "holdout"]
LETTERS: dict[Compared, str] = {"forget": "S", "holdout": "H"}


@dataclass(frozen=True)
class SetCloseness:
    """How far apart two arms are on one set of records.

    Attributes:
        records: of the set.
        pooled: the bound by all records at once; of S the deciding figure.
        single: the bound by one record alone, the one on which the models of the calibration prove most.
        quality: the challenge's F, the mean over the records; 1 is out of reach.
        quality_null: F of arms that are alike: the same models, divided at random.
        quality_ratio: quality / quality_null; near 1 for arms that are alike, None where they get 0.
        lira_auc, lira_accuracy, lira_tpr: of U-LiRA, see ``UnlearningLira``.
    """

    records: int
    pooled: EpsilonBound
    single: EpsilonBound
    quality: float
    quality_null: float
    quality_ratio: float | None
    lira_auc: Estimate
    lira_accuracy: Estimate
    lira_tpr: Estimate | None


@dataclass(frozen=True)
class Closeness:
    """How far unlearned models are from the models of one reference arm.

    Attributes:
        sets: by ``forget`` (S) and ``holdout`` (H). H is a control: neither arm saw it, so what is proven there is no
            trace of S.
        n_unlearned, n_reference: models of each arm.
        n_quality: models of each arm that F is computed on, the first ones.
        originals: the number of originals, trained on D, that were unlearned.
        delta: of the definition.
        confidence: of every bound by itself.
        assumptions: what the figures rest on, in words.
    """

    sets: dict[Compared, SetCloseness]
    n_unlearned: int
    n_reference: int
    n_quality: int
    originals: int
    delta: float
    confidence: float
    assumptions: list[str]

    @property
    def findings(self) -> list[str]:
        """The finding on each set, in sentences without their full stop."""
        found = []
        for name, numbers in self.sets.items():
            sentence = _finding(name, numbers, self.confidence)
            if name == "holdout" and max(numbers.pooled.epsilon, numbers.single.epsilon) > 0:
                sentence += "; neither arm saw H, so the distance is not all about S"
            found.append(sentence)
        return found


def closeness(
    unlearned: Sequence[Tables],
    reference: Sequence[Tables],
    *,
    delta: float = DELTA,
    alpha: float = ALPHA,
    seed: int = 0,
    originals: int = 1,
) -> Closeness:
    """Measure how far unlearned models are from reference models.

    Args:
        unlearned: the tables of each unlearned model by set, all on the same records.
        reference: the same of the reference models; their number may differ.
        delta: of the definition.
        alpha: the probability that a bound is too large.
        seed: of the halves, of which one chooses the attacks and one tests them.
        originals: the number of originals, trained on D, that were unlearned.

    Raises:
        InputError: an arm has fewer than three models, or the records differ.
    """
    n_u, n_r = len(unlearned), len(reference)
    if min(n_u, n_r) < FEWEST_MODELS:
        raise InputError(
            f"There are {n_u} unlearned and {n_r} reference models; closeness needs {FEWEST_MODELS} of each or more."
        )
    n = min(n_u, n_r)
    sets: dict[Compared, SetCloseness] = {}
    for name in LETTERS:
        if not all(name in tables for tables in (*unlearned, *reference)):
            continue
        u, r = model_scores(unlearned, name), model_scores(reference, name)
        examples = example_bounds(u, r, alpha=alpha, delta=delta, seed=seed)
        lira = unlearning_lira(u, r, seed=seed)
        quality, null = (
            float(qualities(found, n).mean())
            for found in (
                challenge_epsilons(u[:n], r[:n], delta),
                dealt_epsilons(u[:n], r[:n], delta=delta, seed=seed),
            )
        )
        sets[name] = SetCloseness(
            records=u.shape[1],
            pooled=pooled_bound(u, r, alpha=alpha, delta=delta, seed=seed),
            single=examples.bound(examples.witness),
            quality=quality,
            quality_null=null,
            quality_ratio=quality / null if null > 0 else None,
            lira_auc=lira.auc,
            lira_accuracy=lira.accuracy,
            lira_tpr=lira.tpr,
        )
    return Closeness(
        sets=sets,
        n_unlearned=n_u,
        n_reference=n_r,
        n_quality=n,
        originals=originals,
        delta=delta,
        confidence=1 - alpha,
        assumptions=_assumptions(sets["forget"].pooled, originals),
    )


def model_scores(models: Sequence[Tables], name: Compared) -> np.ndarray:
    """The score of each model on each record of a set, shape (models, records)."""
    return np.stack([logit_confidence(tables[name]["loss"].to_numpy()) for tables in models])


def _assumptions(tested: EpsilonBound, originals: int) -> list[str]:
    chosen_u, chosen_r = tested.calibrated_on
    origin = (
        "All unlearned models come from one original, so they differ in the seed of the unlearning alone. Epsilon is "
        "conditional on this original: what is particular to it by chance, and no trace of S, counts as distance too"
        if originals == 1
        else f"The unlearned models come from {originals} originals, trained on D with seeds of their own"
    )
    return [
        f"The definition's delta is {tested.delta:g}; each bound by itself is too large with a probability of "
        f"{tested.alpha:.0%} at most.",
        f"Every model has a seed of its own. {chosen_u} unlearned and {chosen_r} reference models chose the attacks, "
        f"with their threshold and direction; {tested.n_unlearned} and {tested.n_retrained} others tested them.",
        f"{origin}.",
        "A bound from below proves distance and never closeness: a better attack or more models may prove more.",
    ]


def _finding(name: Compared, found: SetCloseness, confidence: float) -> str:
    """What is proven on one set."""
    bound, letter = found.pooled, LETTERS[name]
    if bound.ceiling == 0 and max(bound.epsilon, found.single.epsilon) == 0:
        tested = models_needed(1e-9, bound.alpha, bound.delta)
        return (
            f"On {letter} no epsilon can be proven: {bound.n_unlearned} and {bound.n_retrained} tested models are too "
            f"few, train {2 * tested} of each kind or more"
        )
    if bound.epsilon > 0:
        most = ", the most that so few models can show" if math.isclose(bound.epsilon, bound.ceiling) else ""
        return f"On {letter} epsilon > {bound.epsilon:.2f} is proven (confidence {confidence:.0%}){most}"
    if found.single.epsilon > 0:
        return (
            f"On {letter} one record alone proves epsilon > {found.single.epsilon:.2f} (confidence {confidence:.0%}), "
            "all records together nothing"
        )
    return f"On {letter} no epsilon is proven, and {bound.ceiling:.2f} is the most that so many models could show"
