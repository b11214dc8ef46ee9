"""Exposure: how much a model prefers a secret to all that could have stood in its place."""

import numpy as np

from ...errors import InputError


def exposure(losses: np.ndarray, canaries: np.ndarray) -> np.ndarray:
    """Exposure of secrets among all that could have stood in their place, with the exact rank.

    log2 |R| - log2 rank, where the rank counts the candidates that the model finds at least as likely (Carlini et al.
    2019, arXiv:1802.08232). It is log2 |R| for a secret that the model prefers to all other candidates; for one that
    it never saw it is 1.44 bits on average. Ties, and candidates whose loss is no number, count against the secret.

    Args:
        losses: summed negative log-likelihood of each candidate, shape (secrets, candidates).
        canaries: which candidate is the true one, shape (secrets,).

    Returns:
        In bits, shape (secrets,).

    Raises:
        InputError: there is no candidate of that number.
    """
    count = losses.shape[1]
    if len(canaries) != len(losses) or ((canaries < 0) | (canaries >= count)).any():
        raise InputError(f"canaries must name one of the {count} candidates for each of the {len(losses)} secrets.")
    own = np.take_along_axis(losses, canaries[:, None], axis=1)
    rank = (~(losses > own)).sum(1)
    return np.log2(count) - np.log2(rank)
