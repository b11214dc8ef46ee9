"""Which tokens a masked language model has to guess.

The masks are a function of a seed, the pass over the data and the tokens themselves. So they do not depend on batches,
processes or interruptions, they are the same for every model that is measured, and drawing them leaves every random
number generator as it was.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import InputError
from ..models.tasks import IGNORED, Task
from .encoding import PaddingCollator

MEASURING = 0  # the pass under which the masks for measuring are drawn; training's are 1, 2, ...
KEPT, REPLACED = 0.1, 0.1  # of the chosen tokens in training, as BERT: these stay, these become some other token


@dataclass(frozen=True)
class TokenMasking:
    """Chooses tokens and hides them (Devlin et al. 2019, arXiv:1810.04805).

    Attributes:
        mask_token_id: what stands in place of a token.
        vocabulary: how many tokens there are.
        probability: the share of the tokens of an example to choose, at least one.
        seed: of the choice.
    """

    mask_token_id: int
    vocabulary: int
    probability: float
    seed: int

    def __call__(self, ids: list[int], labels: list[int], epoch: int) -> tuple[list[int], list[int]]:
        """Hide some tokens of an example.

        Args:
            ids: its tokens, shape (tokens,).
            labels: the token wherever one may be hidden, -100 elsewhere, shape (tokens,).
            epoch: the pass over the data, counted from 1; :data:`MEASURING` hides every chosen token behind the mask.

        Returns:
            What the model sees, and the labels of what it has to guess, -100 elsewhere.
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
        """The examples with the masks under which every model is measured."""

        def hide(example: dict[str, Any]) -> dict[str, list[int]]:
            ids, labels = self(example["input_ids"], example["labels"], MEASURING)
            return {"input_ids": ids, "labels": labels}

        return examples.map(hide, desc="Masking")


def token_masking(
    task: Task, tokenizer: PreTrainedTokenizerBase, probability: float, seed: int
) -> TokenMasking | None:
    """How to mask, None for a task that has no masks.

    Raises:
        InputError: the tokenizer has no mask token.
    """
    if task != "fill-mask":
        return None
    if tokenizer.mask_token_id is None:
        raise InputError("The tokenizer has no mask token, so the model cannot be trained to fill masks.")
    return TokenMasking(tokenizer.mask_token_id, len(tokenizer), probability, seed)


@dataclass
class MaskingCollator:
    """Hides tokens, other ones in each pass over the data, and pads.

    Attributes:
        masking: chooses.
        padding: stacks.
        epoch: the pass over the data, counted from 1.
    """

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
    """Tells a collator which pass over the data begins."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator
        self.begun = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # After an interruption the first pass is the one that was broken off.
        self.collator.epoch = self.collator.epoch + 1 if self.begun else int(state.epoch or 0) + 1
        self.begun = True
