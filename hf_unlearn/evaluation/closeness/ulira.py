"""U-LiRA (Hayes et al. 2024, arXiv:2403.01218): a likelihood ratio of unlearned against retrained models."""

import math
from dataclasses import dataclass

import numpy as np

from ..statistics import Estimate, Separation, clustered_rate, placements
from .epsilon import check_scores, halves

FALSE_POSITIVE_RATE = 0.01
FEWEST_FALSE_POSITIVES = 1  # expected among the retrained models' scores


@dataclass(frozen=True, eq=False)
class UnlearningLira:
    """How well U-LiRA does; a coin would give AUC 0.5 and accuracy 0.5.

    Attributes:
        auc: mean over the examples of the AUC on that example, with models as the unit of sampling.
        accuracy: balanced accuracy of guessing the likelier arm, with models as the unit of sampling.
        tpr: rate of unlearned models' scores above all but 1 % of the retrained ones', examples taken together, with
            models as the unit of sampling for a given threshold; None for less than 100 scores of retrained models.
        auc_of_examples: the AUC on each example, shape (examples,).
    """

    auc: Estimate
    accuracy: Estimate
    tpr: Estimate | None
    auc_of_examples: np.ndarray


def unlearning_lira(unlearned: np.ndarray, retrained: np.ndarray, *, seed: int = 0) -> UnlearningLira:
    """Attack each example by the ratio of two normal densities, fitted to one half of the models of each arm.

    Args:
        unlearned: one score of every unlearned model on every example, shape (models, examples).
        retrained: the same of the retrained models.
        seed: of the halves; see :func:`~hf_unlearn.evaluation.closeness.epsilon.example_bounds`.

    Raises:
        InputError: scores of other shapes or that are no numbers.
    """
    unlearned, retrained = check_scores(unlearned, retrained)
    (fit_u, test_u), (fit_r, test_r) = halves(len(unlearned), seed), halves(len(retrained), seed)
    of_u, of_r = (
        _log_density(tested, unlearned[fit_u]) - _log_density(tested, retrained[fit_r])
        for tested in (unlearned[test_u], retrained[test_r])
    )
    placed_u, placed_r = placements(of_u, of_r)
    # A ratio of 1 is a guess that is right half of the time.
    right_u, right_r = (np.sign(of_u) + 1) / 2, (1 - np.sign(of_r)) / 2
    accuracy = float(right_u.mean() + right_r.mean()) / 2
    tpr = None
    if of_r.size * FALSE_POSITIVE_RATE >= FEWEST_FALSE_POSITIVES:
        above = of_u > np.quantile(of_r, 1 - FALSE_POSITIVE_RATE, method="higher")
        tpr = clustered_rate(above.sum(1), np.full(len(of_u), of_u.shape[1]))
    return UnlearningLira(
        auc=_estimate(float(placed_u.mean()), placed_u.mean(1), placed_r.mean(1)),
        accuracy=_estimate(accuracy, right_u.mean(1) / 2, right_r.mean(1) / 2),
        tpr=tpr,
        auc_of_examples=placed_u.mean(0),
    )


def _log_density(scores: np.ndarray, fitted_to: np.ndarray) -> np.ndarray:
    """Log density, up to a constant, of scores under the normal distribution of each example."""
    variance = fitted_to.var(axis=0, ddof=1) if len(fitted_to) > 1 else np.zeros(fitted_to.shape[1])
    # That of few models can be 0 or nearly so by chance; the mean one of all examples takes part as one more model.
    variance = (variance * len(fitted_to) + variance.mean()) / (len(fitted_to) + 1)
    variance = np.where(variance > 0, variance, 1.0)
    return -((scores - fitted_to.mean(axis=0)) ** 2) / (2 * variance) - np.log(variance) / 2


def _estimate(value: float, of_u: np.ndarray, of_r: np.ndarray) -> Estimate:
    """A sum of two arms' means of one number a model, with the interval of Student for the smaller arm.

    For the placements of an AUC the error is that of DeLong et al. (1988).
    """
    fewest, error = min(len(of_u), len(of_r)), math.inf
    if fewest > 1:
        error = math.sqrt(of_u.var(ddof=1) / len(of_u) + of_r.var(ddof=1) / len(of_r))
    return Separation(value, error, max(fewest - 1, 1), fewest, len(of_u) + len(of_r), lowest=0.0).interval()
