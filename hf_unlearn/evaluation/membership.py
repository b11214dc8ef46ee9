"""Membership inference: scores of records, and how well an attack by such a score works.

A higher score means that the model more likely saw the record. Scores that need one model only are made from its
tables by :func:`~hf_unlearn.evaluation.measured_sets.attack_scores`.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .statistics import Estimate, Groups, bootstrap, folds, membership_auc, share

# With fewer held-out records no threshold can be shown to have a false positive rate of 0.1 %.
FEWEST_FOR_01PCT = 1000

# With fewer models a variance of each record's own is noisier than one for all (Carlini et al. 2022, section VI).
FEWEST_FOR_OWN_VARIANCE = 64

# RMIA takes the mean probability under models that saw a record for A p + 1 - A, with p that under those that did not.
A = 0.3

# With a lower loss the float32 probability is one.
LEAST_LOSS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class AttackResult:
    """How well one score distinguishes the records to forget (S) from the held-out records (H).

    Attributes:
        auc: the probability that a record of S has the higher score; 0.5 is chance, below it S is avoided.
        tpr_at_1pct: the share of S above the lowest threshold that at most 1 % of H lies above; with fewer than 100
            records in H none of it does, and the interval begins at zero.
        tpr_at_01pct: the same at 0.1 %; None with fewer than 1,000 records in H.
        balanced_accuracy: mean of the shares of S and of H on the right side of the threshold that is best on one
            half, judged on the other; None where a side cannot be halved.
    """

    auc: Estimate
    tpr_at_1pct: Estimate
    tpr_at_01pct: Estimate | None
    balanced_accuracy: Estimate | None


def attack_result(
    forget_scores: np.ndarray,
    holdout_scores: np.ndarray,
    groups: Groups | None = None,
    *,
    seed: int,
) -> AttackResult:
    """Judge an attack by the scores that it gives.

    Args:
        forget_scores, holdout_scores: shapes (m,) and (n,).
        groups: label of each record's group, for S and H; then every interval takes groups for the unit of sampling.
        seed: of the halves and of the draws.

    Raises:
        InputError: a side is empty, or a score is not a number.
    """
    forget, holdout = (np.asarray(scores, dtype=np.float64) for scores in (forget_scores, holdout_scores))
    if not len(forget) or not len(holdout):
        raise InputError("An attack needs the scores of at least one record to forget and one held-out record.")
    bad = int(np.isnan(forget).sum() + np.isnan(holdout).sum())
    if bad:
        raise InputError(f"{bad:,} of {len(forget) + len(holdout):,} attack scores are not a number. Leave them out.")
    rare = None
    if len(holdout) >= FEWEST_FOR_01PCT:
        rare = _tpr(forget, holdout, 0.001, groups, seed)
    return AttackResult(
        auc=membership_auc(-forget, -holdout, groups=groups),
        tpr_at_1pct=_tpr(forget, holdout, 0.01, groups, seed),
        tpr_at_01pct=rare,
        balanced_accuracy=_balanced_accuracy(forget, holdout, groups, seed),
    )


def logit_confidence(loss: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) with p = exp(-loss), which is nearer to a Gaussian than the loss (Carlini et al. 2022, eq. 3).

    Args:
        loss: in nats, any shape; of a language model the mean per token, so p is the geometric mean. Losses below
            1.2e-7, which float32 cannot tell from zero, count as that.
    """
    loss = np.maximum(np.asarray(loss, dtype=np.float64), LEAST_LOSS)
    return -loss - np.log(-np.expm1(-loss))


def lira_scores(confidence: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """The offline likelihood ratio attack (Carlini et al. 2022) with Gaussians fitted to each record's references.

    It is the standard score (c - mean) / sd under ``outside``: the order of the paper's 1 - P[Z > c], which no number
    near one can hold. The means are of each record; so are the variances from 64 models on. With fewer models all
    records share the mean of their variances. Where the models show none it is one.

    Args:
        confidence: of the judged model, shape (records,); see :func:`logit_confidence`.
        outside: of two models or more that never saw the record, shape (models, records).
    """
    own = outside.var(axis=0, ddof=1)
    variance = common = own.mean()
    if common == 0:
        variance = np.array(1.0)
    elif len(outside) >= FEWEST_FOR_OWN_VARIANCE:
        variance = np.maximum(own, 1e-6 * common)
    return (confidence - outside.mean(axis=0)) / np.sqrt(variance)


def rmia_scores(
    loss: np.ndarray, population_loss: np.ndarray, outside: np.ndarray, population_outside: np.ndarray
) -> np.ndarray:
    """The offline robust membership attack (Zarifzadeh et al. 2024), with gamma 1.

    It is the share of records z of a population with p(x | model) / p(x) > p(z | model) / p(z), where
    p(. | model) = exp(-loss) and p(.) = ((1 + a) p_out(.) + 1 - a) / 2, with the mean p_out over the references.

    Args:
        loss: of the judged model, shape (records,).
        population_loss: of the judged model on a population; any records will do for the order of the scores.
            Shape (population,).
        outside: losses of references that never saw the record, shape (models, records).
        population_outside: losses of the same references on the population, shape (models, population).
    """

    def ratios(losses: np.ndarray, references: np.ndarray) -> np.ndarray:
        return np.exp(-losses) / (((1 + A) * np.exp(-references).mean(axis=0) + 1 - A) / 2)

    population = np.sort(ratios(population_loss, population_outside))
    return np.searchsorted(population, ratios(loss, outside), side="left") / len(population)


def _tpr(
    forget: np.ndarray, holdout: np.ndarray, false_positives: float, groups: Groups | None, seed: int
) -> Estimate:
    """True positive rate at a false positive rate.

    Its interval is the union of two: that of a rate at this threshold, which shows how little no hit in few records
    means, and that of the bootstrap, which shows that another H would give another threshold. Where H is too small to
    allow a false positive, the interval begins at zero. On Gaussian scores with means one deviation apart, 95 %
    intervals at 1 % covered in 97 % of draws with 1,000 records a side, in 92 % with 200 and in 84 % with 100, where
    they begin too high; those of the rate at this threshold alone covered in 57 to 61 %.
    """

    def hits(members: np.ndarray, others: np.ndarray) -> np.ndarray:
        # Above the lowest threshold with at most this share of H above it.
        position = len(others) - 1 - int(false_positives * len(others))
        return members > np.partition(others, position)[position]

    found = share(hits(forget, holdout), groups[0] if groups else None)
    drawn = bootstrap(lambda *sides: float(hits(*sides).mean()), forget, holdout, groups, seed=seed)
    low = min(found.low, drawn.low) if int(false_positives * len(holdout)) else 0.0
    return Estimate(found.value, low, max(found.high, drawn.high), found.n)


def _balanced_accuracy(forget: np.ndarray, holdout: np.ndarray, groups: Groups | None, seed: int) -> Estimate | None:
    """At the threshold chosen on one half, judged on the other; groups stay whole.

    The limits are those of the two shares, squared and added (Zou and Donner 2008, Statistics in Medicine 27). Groups
    that are in S and in H make one share high where the other is low, and the interval wider than necessary.
    """
    dealt = folds(len(forget), len(holdout), groups, 2, seed)
    if dealt is None:
        return None
    choose, judge = ([fold == half for fold in dealt] for half in (0, 1))
    threshold = _best_threshold(forget[choose[0]], holdout[choose[1]])
    right = forget >= threshold, holdout < threshold
    shares = [
        share(hits[half], labels[half] if labels is not None else None)
        for hits, half, labels in zip(right, judge, groups or (None, None), strict=True)
    ]
    value = sum(share.value for share in shares) / 2
    below = math.hypot(*(share.value - share.low for share in shares)) / 2
    above = math.hypot(*(share.high - share.value for share in shares)) / 2
    return Estimate(value, max(value - below, 0.0), min(value + above, 1.0), sum(share.n for share in shares))


def _best_threshold(forget: np.ndarray, holdout: np.ndarray) -> float:
    """The score from which on a record counts as a member, with the best balanced accuracy; infinite for none."""
    candidates = np.append(np.unique(np.concatenate([forget, holdout])), np.inf)
    missed = np.searchsorted(np.sort(forget), candidates)
    cleared = np.searchsorted(np.sort(holdout), candidates)
    # In whole numbers, so that of equal ones the first wins.
    return float(candidates[np.argmax(cleared * len(forget) - missed * len(holdout))])
