"""How much of a text a model has by heart, from what it makes of each token."""

import numpy as np

from ..models.tasks import IGNORED


def exact_memorization(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of a text's tokens that greedy decoding gives when it has seen the true ones before.

    Tirumala et al. 2022, arXiv:2205.10770.

    Args:
        predicted: the most likely token at the place of each label, -100 where there is none, shape (records, tokens).
        labels: token ids, -100 where there is none or where the token carries no text, such as EOS; same shape.

    Returns:
        Shape (records,), NaN for a record without a token.
    """
    counted = (labels != IGNORED) & (predicted != IGNORED)
    hits = ((predicted == labels) & counted).sum(1)
    return _share(hits, counted.sum(1))


def extraction_strength(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The largest share at the end of a text that greedy decoding gives when it has seen the true tokens before.

    1 - k/N for the shortest prefix of k of N tokens after which all are right (after Carlini et al. 2021,
    arXiv:2012.07805, with the true tokens given instead of those that the model wrote). A text whose last token is
    missed has k = N and strength 0; open-unlearning stops at k = N - 1 and gives it 1/N.

    Args:
        predicted, labels: as in :func:`exact_memorization`.

    Returns:
        Shape (records,), NaN for a record without a token.
    """
    counted = (labels != IGNORED) & (predicted != IGNORED)
    missed = (predicted != labels) & counted
    missed_from_here = np.cumsum(missed[:, ::-1], axis=1)[:, ::-1]
    return _share((counted & (missed_from_here == 0)).sum(1), counted.sum(1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
