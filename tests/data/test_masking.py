"""Which tokens are hidden: fixed where models are compared, other ones in each epoch of training."""

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerState, TrainingArguments

from hf_unlearn import InputError
from hf_unlearn.data.encoding import IGNORED, PaddingCollator
from hf_unlearn.data.masking import MEASURING, MaskingCollator, NewMasksEachEpoch, TokenMasking, token_masking

MASK = 4
masking = TokenMasking(MASK, vocabulary=500, probability=0.15, seed=7)


def example(length: int, seed: int = 0) -> tuple[list[int], list[int]]:
    body = np.random.default_rng(seed).integers(5, 500, length).tolist()
    return [2, *body, 3], [IGNORED, *body, IGNORED]


@pytest.mark.parametrize("length", [1, 2, 7, 20, 100])
def test_for_measuring_a_share_of_the_tokens_is_behind_the_mask(length: int) -> None:
    ids, labels = example(length)
    seen, wanted = masking(ids, labels, MEASURING)
    hidden = [i for i, label in enumerate(wanted) if label != IGNORED]
    assert len(hidden) == max(1, round(0.15 * length))
    assert all(seen[i] == MASK and wanted[i] == ids[i] for i in hidden)
    assert all(seen[i] == ids[i] for i in range(len(ids)) if i not in hidden)
    assert not {0, len(ids) - 1} & set(hidden), "special tokens are never hidden"


def test_in_training_some_are_kept_and_some_replaced() -> None:
    fates = {"mask": 0, "kept": 0, "other": 0}
    for seed in range(300):
        ids, labels = example(100, seed)
        seen, wanted = masking(ids, labels, epoch=1)
        for i in np.flatnonzero(np.array(wanted) != IGNORED):
            assert wanted[i] == ids[i]
            fates["mask" if seen[i] == MASK else "kept" if seen[i] == ids[i] else "other"] += 1
    total = sum(fates.values())
    assert total == 300 * 15
    assert fates["mask"] / total == pytest.approx(0.8, abs=0.02)
    assert fates["kept"] / total == pytest.approx(0.1, abs=0.02)
    assert fates["other"] / total == pytest.approx(0.1, abs=0.02)


def test_masks_depend_on_seed_epoch_and_tokens_alone() -> None:
    ids, labels = example(100)
    torch.manual_seed(0), np.random.seed(0)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0), np.random.seed(0)
    first = masking(ids, labels, 1)
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()
    assert masking(ids, labels, 1) == first
    assert masking(ids, labels, 2) != first
    assert masking(ids, labels, MEASURING) != first
    assert TokenMasking(MASK, 500, 0.15, seed=8)(ids, labels, 1) != first


def test_a_batch_is_masked_as_its_examples_are() -> None:
    rows = [example(length, length) for length in (30, 5, 12)]
    examples = [{"input_ids": i, "attention_mask": [1] * len(i), "labels": lab} for i, lab in rows]
    collator = MaskingCollator(masking, PaddingCollator(0), epoch=3)
    batch = collator(examples)
    alone = [collator([one]) for one in examples]
    for i, one in enumerate(alone):
        length = one["input_ids"].shape[1]
        assert torch.equal(batch["input_ids"][i, :length], one["input_ids"][0])
        assert torch.equal(batch["labels"][i, :length], one["labels"][0])
        assert (batch["labels"][i, length:] == IGNORED).all()


def test_each_epoch_has_masks_of_its_own_also_after_an_interruption() -> None:
    collator = MaskingCollator(masking, PaddingCollator(0))
    for begun_at, expected in ((0.0, [1, 2, 3]), (1.4, [2, 3]), (2.0, [3])):
        callback = NewMasksEachEpoch(collator)
        args: Any = TrainingArguments
        for epoch in expected:
            callback.on_epoch_begin(args, TrainerState(epoch=begun_at), args)
            assert collator.epoch == epoch


def test_a_data_set_is_masked_as_a_whole() -> None:
    rows = [example(length, length) for length in (30, 5)]
    data = Dataset.from_list([{"input_ids": i, "labels": lab, "row": r} for r, (i, lab) in enumerate(rows)])
    fixed = masking.fixed(data)
    for found, (ids, labels) in zip(fixed, rows, strict=True):
        assert (found["input_ids"], found["labels"]) == masking(ids, labels, MEASURING)


def test_only_masked_language_models_are_masked(
    byte_level_tokenizer: PreTrainedTokenizerFast, wordpiece_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert token_masking("text-generation", byte_level_tokenizer, 0.15, 0) is None
    found = token_masking("fill-mask", wordpiece_tokenizer, 0.3, 5)
    assert found == TokenMasking(wordpiece_tokenizer.mask_token_id, len(wordpiece_tokenizer), 0.3, 5)
    with pytest.raises(InputError, match="has no mask token"):
        token_masking("fill-mask", byte_level_tokenizer, 0.15, 0)
