"""How far a model prefers a secret to all that could have stood in its place."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from ...data.encoding import RecordEncoder, encode
from ...errors import InputError
from ..scoring import score


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


def candidate_losses(
    model: nn.Module,
    prompts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    encoder: RecordEncoder,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]],
    *,
    batch_size: int,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> np.ndarray:
    """Score every candidate after its prompt.

    Args:
        model: a causal language model.
        prompts: what stands before each secret, shape (secrets,).
        candidates: what could stand there, shape (secrets, candidates).
        encoder: reads the columns ``prompt`` and ``completion``.
        collator: stacks examples.
        batch_size: candidates in a forward pass.
        context: makes what is entered around the forward passes, such as ``accelerator.autocast``.

    Returns:
        Summed negative log-likelihoods in nats, shape (secrets, candidates), for :func:`exposure`.

    Raises:
        InputError: the secrets do not all have the same number of candidates, or one of these has no token.
    """
    counts = {len(options) for options in candidates}
    if len(prompts) != len(candidates) or len(counts) != 1:
        raise InputError(
            f"{len(prompts)} prompts and {len(candidates)} lists of candidates with {sorted(counts)} candidates each: "
            "give one list for each prompt, all of the same length."
        )
    texts = [(prompt, option) for prompt, options in zip(prompts, candidates, strict=True) for option in options]
    records = Dataset.from_dict({"prompt": [p for p, _ in texts], "completion": [c for _, c in texts]})
    examples = encode(records, encoder, "candidate")
    assert isinstance(examples, Dataset)
    table = score(model, examples, collator, task="text-generation", batch_size=batch_size, context=context)
    if table.num_rows != len(texts):
        raise InputError(f"{len(texts) - table.num_rows} of the {len(texts)} candidates have no token to predict.")
    return table["nll"].to_numpy().reshape(len(prompts), -1)
