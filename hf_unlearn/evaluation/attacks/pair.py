"""The attack of whoever has the checkpoint before and the one after: what changed between them points at S.

It works against exact unlearning too, because a model that never saw S differs from the original in S all the same.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from ...errors import InputError
from ...models.loading import Model, plain_model
from ..generation import generate, measure
from ..measured_sets import JUDGED, EvidenceSets, first_pieces, judged_units
from ..report import SetName
from ..statistics import Estimate, clustered_mean, membership_auc, share
from .sampling import GIVEN_TOKENS, SAMPLED_TOKENS, SIMILAR

# The weight of the difference, and how far below the likeliest token one may lie in nats, as in the code of
# arXiv:2505.24379 for MUSE.
WEIGHT, CUT = 2.0, 5.0


@dataclass(frozen=True)
class WrittenTexts:
    """How much of a set is written, by greedy decoding.

    Attributes:
        verbatim: share of the texts that are written word for word.
        similar: share that is written with a ROUGE-L recall of 0.8 or more; None in scripts that ROUGE cannot read.
        recall: mean ROUGE-L recall; None there too.
    """

    verbatim: Estimate
    similar: Estimate | None
    recall: Estimate | None


@dataclass(frozen=True)
class GuidedTexts:
    """How much of S, and of H, the original writes.

    Attributes:
        forget, holdout: of S, and of H where there is one.
    """

    forget: WrittenTexts
    holdout: WrittenTexts | None


@dataclass(frozen=True)
class PairAttack:
    """What the original and a later model give away together.

    Attributes:
        weight: of the difference in decoding.
        cut: how far below the original's likeliest token a token may lie, in nats.
        seed: of the records that are asked for.
        membership: by the later model (``unlearned``, ``retrained``), the AUC of :func:`changed_losses`.
        texts: ``alone``: what the original writes; by the later model: what it writes guided away from that one.
            Empty for models that do not go on writing.
    """

    weight: float
    cut: float
    seed: int
    membership: dict[str, Estimate]
    texts: dict[str, GuidedTexts] = field(default_factory=dict)


# Membership


def changed_losses(before: Mapping[SetName, pa.Table], after: Mapping[SetName, pa.Table]) -> Estimate | None:
    """How well the change of each record's loss tells S from H, for whoever has both models.

    The AUC is the chance that the loss of a record of S rises more than that of a record of H (the difference of two
    models, as in Chen et al. 2021, arXiv:2005.02205; for language models arXiv:2512.18035). It is 0.5 where the pair
    tells nothing, and high for an exact unlearning of what the original knew.

    Args:
        before, after: the tables of both models by set, as scored, with the records in the same order.

    Returns:
        The AUC with its interval over records or groups; None without H.
    """
    if not all(set(JUDGED) <= tables.keys() for tables in (before, after)):
        return None
    fall = {name: before[name]["loss"].to_numpy() - after[name]["loss"].to_numpy() for name in JUDGED}
    return membership_auc(fall["forget"], fall["holdout"], groups=judged_units(after))


# Texts


class Guidance(LogitsProcessor):
    """Scores that lead away from another model: log q + w (log p - log q), of the tokens that p finds possible.

    With p of the model that writes, the original, q of the other, later one, and w > 1 (arXiv:2505.24379). A token
    counts as possible whose log p is at most ``cut`` below the highest.

    Args:
        other: the later model.
        mask: of the batch as it is given to the model that writes, shape (texts, tokens).
        weight: w.
        cut: in nats.
    """

    def __init__(self, other: PreTrainedModel, mask: torch.Tensor, weight: float = WEIGHT, cut: float = CUT):
        self.other, self.mask, self.weight, self.cut = other, mask, weight, cut
        self.takes_positions = "position_ids" in inspect.signature(other.forward).parameters
        self.past: Any = None

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The guided scores, shape (texts, vocabulary), after what was read and written so far."""
        read = input_ids
        if self.past is not None:
            read = input_ids[:, -1:]
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        inputs = {"input_ids": read, "attention_mask": self.mask}
        if self.takes_positions:
            # Padding stands on the left.
            inputs["position_ids"] = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -read.shape[1] :]
        output = self.other(**inputs, past_key_values=self.past, use_cache=True)
        self.past = output.past_key_values
        later = output.logits[:, -1].float()
        if later.shape != scores.shape:
            raise InputError("The models differ in the size of their vocabulary, so that their scores do not compare.")
        before, after = scores.float().log_softmax(-1), later.log_softmax(-1)
        guided = after + self.weight * (before - after)
        return guided.masked_fill(before < before.amax(-1, keepdim=True) - self.cut, -torch.inf)


def guided_texts(
    original: Model,
    other: Model | None,
    evidence: EvidenceSets,
    tokenizer: PreTrainedTokenizerBase,
    *,
    records: int,
    seed: int,
) -> GuidedTexts | None:
    """Let the original write the records of S and of H, guided away from a later model.

    It writes greedily after the prompt, or after the first tokens of texts that have none, as in
    :func:`~hf_unlearn.evaluation.attacks.prompting.sample_leaks`.

    Args:
        original, other: causal language models; both stay as they are. With None the original writes alone.
        evidence: S, and H where there is one, encoded.
        tokenizer: the original's.
        records: of each set at most, drawn at random.
        seed: of the draw.

    Returns:
        How much is written; None where the texts of S are too short.

    Raises:
        InputError: the models have vocabularies of different sizes.
    """
    found: dict[SetName, WrittenTexts] = {}
    for given in (0, GIVEN_TOKENS):
        for name, part in evidence.at_most(records, seed).sets.items():
            if name in JUDGED and (written := _written(original, other, part, evidence, tokenizer, given)):
                found[name] = written
        if "forget" in found:
            return GuidedTexts(found["forget"], found.get("holdout"))
    return None


def _written(
    original: Model,
    other: Model | None,
    part: Dataset,
    evidence: EvidenceSets,
    tokenizer: PreTrainedTokenizerBase,
    given: int,
) -> WrittenTexts | None:
    """What is written of one set after so many tokens of each text; None where all are shorter."""
    examples = first_pieces(part)

    def guide(inputs: dict[str, torch.Tensor]) -> LogitsProcessor:
        assert other is not None
        return Guidance(plain_model(other), inputs["attention_mask"])

    found = generate(
        original,
        examples,
        tokenizer,
        task=evidence.task,
        batch_size=evidence.batch_size,
        prefixes=(given,),
        new_tokens=SAMPLED_TOKENS,
        guide=None if other is None else guide,
    )
    if not found:
        return None
    # More than that it could not write.
    table = measure([replace(one, wanted=one.wanted[:SAMPLED_TOKENS]) for one in found], tokenizer)
    units = table["row"].to_numpy()
    if "group" in examples.column_names:
        of_rows = dict(zip(examples["row"], examples["group"], strict=True))
        units = np.array([of_rows[row] for row in units])
    groups = units if len(np.unique(units)) < len(units) else None
    verbatim = share(table["extracted"].to_numpy(zero_copy_only=False), groups)
    recall = table["rougeL_recall"].to_numpy(zero_copy_only=False)
    readable = ~np.isnan(recall)
    if not readable.any():
        return WrittenTexts(verbatim, None, None)
    groups = None if groups is None else groups[readable]
    recall = recall[readable]
    return WrittenTexts(verbatim, share(recall >= SIMILAR, groups), clustered_mean(recall, groups))
