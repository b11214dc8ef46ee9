"""How far a measure of forgetting deserves trust: the formulae, on plain numbers.

Every measure lies from 0 to 1 and is high where a model knows S. After Dorna et al. 2025 (arXiv:2506.12618).
"""

from collections.abc import Sequence

import numpy as np

from hf_unlearn.evaluation.statistics import Estimate, membership_auc, rate

ACQUITTALS = ("exact", "certified", "not_distinguished")
ACCUSATIONS = ("not_forgotten", "over_forgotten")


def faithfulness(known: Sequence[float], unknown: Sequence[float]) -> Estimate:
    """The chance that a measure is higher for a model that knows S than for one that does not; ties count half.

    Args:
        known, unknown: the measure of each model of the two pools.

    Returns:
        The AUC with its 95 % interval over models.
    """
    return membership_auc(-np.asarray(known, dtype=float), -np.asarray(unknown, dtype=float))


def relearning(unlearned: tuple[float, float], retrained: tuple[float, float]) -> tuple[float, float]:
    """How far relearning raises a measure on an unlearned model no more than on a retrained one.

    Args:
        unlearned, retrained: the measure before and after relearning, of each model.

    Returns:
        OpenUnlearning's min(rise of the retrained / rise of the unlearned, 1), with rises below zero as zero, and 1
        where the unlearned one does not rise; and the symmetric 1 - |u - r| / (|u| + |r|) of arXiv:2605.24614.
    """
    of_unlearned, of_retrained = (after - before for before, after in (unlearned, retrained))
    one_sided = 1.0 if of_unlearned <= 0 else min(max(of_retrained, 0.0) / of_unlearned, 1.0)
    return one_sided, _alike(of_unlearned, of_retrained)


def low_bits(before: float, after: float) -> tuple[float, float]:
    """How far few bits leave a measure on an unlearned model as it was.

    Args:
        before, after: the measure with whole weights, and with weights in few bits.

    Returns:
        OpenUnlearning's min(before / after, 1), and the symmetric 1 - |a - b| / (a + b).
    """
    return 1.0 if after <= before else before / after, _alike(before, after)


def _alike(one: float, other: float) -> float:
    """1 for equal numbers, 0 where one is zero or has the other sign."""
    total = abs(one) + abs(other)
    return 1.0 if total == 0 else 1 - abs(one - other) / total


def harmonic(*values: float) -> float:
    """The harmonic mean of numbers that are not negative; 0 where one is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def verdict_errors(known: Sequence[str], unknown: Sequence[str]) -> dict[str, Estimate]:
    """How often the verdict's word is wrong or missing.

    Args:
        known, unknown: its words for the models of the two pools.

    Returns:
        Rates with their 95 % interval: of models that know S and are acquitted, of models that do not and are
        accused, and of all the share without a decision.
    """
    words = [*known, *unknown]
    return {
        "wrong acquittals": rate(sum(word in ACQUITTALS for word in known), len(known)),
        "wrong accusations": rate(sum(word in ACCUSATIONS for word in unknown), len(unknown)),
        "undecided": rate(words.count("undecided"), len(words)),
    }
