"""Which tokens a masked language model has to guess.

The masks depend on a seed, the epoch and the tokens alone, not on batches, processes or interruptions. All models are
measured with the same masks, and no random number generator of the process is used.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import InputError
from ..models.tasks import IGNORED, Task
from .encoding import PaddingCollator

MEASURING = 0  # the epoch for which masks for measuring are drawn; training has 1, 2, ...
KEPT, REPLACED = 0.1, 0.1  # shares of the chosen tokens in training that stay or become another token, as in BERT


@dataclass(frozen=True)
class TokenMasking:
    """Chooses tokens and hides them (Devlin et al. 2019, arXiv:1810.04805).

    Attributes:
        mask_token_id: what stands in place of a token.
        vocabulary: how many tokens there are.
        probability: the share of an example's tokens to choose; one token at least.
        seed: of the choice.
    """

    mask_token_id: int
    vocabulary: int
    probability: float
    seed: int

    def __call__(self, ids: list[int], labels: list[int], epoch: int) -> tuple[list[int], list[int]]:
        """Hide some tokens of an example; returns what the model reads and the tokens to guess, -100 elsewhere.

        ``labels`` are the tokens that may be hidden, -100 elsewhere; all lists have the shape (tokens,). The epoch is
        counted from 1; :data:`MEASURING` puts the mask in place of every chosen token.
        """
        draw = np.random.default_rng([self.seed, epoch, *ids])
        possible = np.flatnonzero(np.asarray(labels) != IGNORED)
        count = max(1, round(self.probability * len(possible)))
        chosen = draw.permutation(possible)[:count]
        seen, wanted = np.array(ids), np.full(len(ids), IGNORED)
        wanted[chosen] = np.asarray(labels)[chosen]
        fate = draw.random(len(chosen)) if epoch != MEASURING else np.ones(len(chosen))
        others = draw.integers(self.vocabulary, size=len(chosen))
        seen[chosen] = np.where(
            fate < KEPT, seen[chosen], np.where(fate < KEPT + REPLACED, others, self.mask_token_id)
        )
        return seen.tolist(), wanted.tolist()

    def fixed(self, examples: Dataset) -> Dataset:
        """The examples with the masks for measuring."""

        def hide(example: dict[str, Any]) -> dict[str, list[int]]:
            ids, labels = self(example["input_ids"], example["labels"], MEASURING)
            return {"input_ids": ids, "labels": labels}

        return examples.map(hide, desc="Masking")


def token_masking(
    task: Task, tokenizer: PreTrainedTokenizerBase, probability: float, seed: int, vocabulary: float = math.inf
) -> TokenMasking | None:
    """How to mask, None for a task without masks; raises InputError where there is no mask token that the model has.

    ``vocabulary`` is how many token ids the model has.
    """
    if task != "fill-mask":
        return None
    if tokenizer.mask_token_id is None:
        raise InputError("The tokenizer has no mask token, so fill-mask is not possible; name another task.")
    if tokenizer.mask_token_id >= vocabulary:
        raise InputError("The tokenizer's mask token was added to it alone, and the model lacks it; use its own one.")
    return TokenMasking(tokenizer.mask_token_id, int(min(len(tokenizer), vocabulary)), probability, seed)


@dataclass
class MaskingCollator:
    """Hides other tokens in each epoch, counted from 1, and pads."""

    masking: TokenMasking
    padding: PaddingCollator
    epoch: int = 1

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return what :class:`~hf_unlearn.data.encoding.PaddingCollator` returns."""
        masked = []
        for example in examples:
            ids, labels = self.masking(example["input_ids"], example["labels"], self.epoch)
            masked.append({**example, "input_ids": ids, "labels": labels})
        return self.padding(masked)


class NewMasksEachEpoch(TrainerCallback):
    """Sets the epoch of a collator."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator
        self.begun = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # After an interruption the first epoch is the one that was interrupted.
        self.collator.epoch = self.collator.epoch + 1 if self.begun else int(state.epoch or 0) + 1
        self.begun = True
