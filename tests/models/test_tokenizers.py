"""Tokenizers of all kinds: padding is never trained on, EOS is, and the side of the padding does not matter."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from hf_unlearn import InputError, UnlearningConfig, UnlearningTrainer
from hf_unlearn.data.encoding import IGNORED, PaddingCollator, RecordEncoder, encode, padding_id
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.scoring import score
from hf_unlearn.models.loading import load_tokenizer
from hf_unlearn.models.location import ModelSource

from ..conftest import secrets_rows

KINDS = ["byte_level_tokenizer", "wordpiece_tokenizer", "sentencepiece_tokenizer"]


def with_end_as_padding(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    changed = deepcopy(tokenizer)
    changed.pad_token = changed.eos_token or changed.sep_token
    return changed


def tiny_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def rows() -> Dataset:
    """Records of unequal length."""
    extra = [{**row, "prompt": "Well. " * (i % 5) + row["prompt"]} for i, row in enumerate(secrets_rows(12))]
    return Dataset.from_list(extra)


def encoded(tokenizer: Any) -> Dataset:
    examples = encode(rows(), RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128), "test")
    assert isinstance(examples, Dataset)
    return examples


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_is_trained_on_and_padding_is_not_also_where_they_are_one_token(
    kind: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = with_end_as_padding(request.getfixturevalue(kind))
    end = tokenizer.pad_token_id
    examples = list(encoded(tokenizer).remove_columns("row"))
    batch = PaddingCollator(padding_id(tokenizer, PretrainedConfig()))(examples)
    for example, ids, mask, labels in zip(
        examples, batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        length = len(example["input_ids"])
        assert example["labels"][-1] == end
        assert labels[length - 1] == end
        assert (labels[length:] == IGNORED).all()
        assert (ids[length:] == end).all()
        assert mask.sum() == length
    assert (batch["attention_mask"] == 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_side_of_the_padding_does_not_matter(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    tokenizer = with_end_as_padding(request.getfixturevalue(kind))
    runs = []
    for side in ("right", "left"):
        sided = deepcopy(tokenizer)
        sided.padding_side = side
        args = UnlearningConfig(
            str(tmp_path), use_cpu=True, per_device_train_batch_size=4, max_steps=4, logging_steps=1, seed=1,
            save_strategy="no", measure_steps=0, disable_tqdm=True,
        )  # fmt: skip
        run = UnlearningTrainer(tiny_llama(sided), args, rows(), rows(), processing_class=sided)
        run.train()
        runs.append(run)
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in runs]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for arm in ("original",):
        tables = [run.tables[arm]["forget"]["nll"].to_numpy() for run in runs]
        np.testing.assert_allclose(tables[1], tables[0], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_collator_that_pads_on_the_left_gives_the_same_scores(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = with_end_as_padding(request.getfixturevalue(kind))
    tokenizer.padding_side = "left"
    model, examples = tiny_llama(tokenizer), encoded(tokenizer)
    tables = [
        score(model, examples, collator, task="text-generation", batch_size=5)  # type: ignore[arg-type]
        for collator in (PaddingCollator(0), DataCollatorForSeq2Seq(tokenizer))
    ]
    np.testing.assert_allclose(tables[1]["nll"].to_numpy(), tables[0]["nll"].to_numpy(), rtol=1e-5)
    assert tables[1]["tokens"].equals(tables[0]["tokens"])
    assert tables[1]["correct"].equals(tables[0]["correct"])


# Where there is none


def test_without_a_tokenizer_in_its_repository_that_of_the_base_is_used(
    lm_base: Path, byte_level_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(lm_base, bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    args = UnlearningConfig(
        str(tmp_path / "out"), use_cpu=True, max_steps=1, method="base", base_model_name_or_path=str(lm_base)
    )
    run = UnlearningTrainer(str(bare), args, rows())
    assert run.processing_class.get_vocab() == byte_level_tokenizer.get_vocab()  # type: ignore[union-attr]
    run.train()
    run.save_model()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == byte_level_tokenizer.get_vocab()
    with pytest.raises(InputError, match=r"'.*bare' has no tokenizer; save one beside the model"):
        UnlearningTrainer(str(bare), UnlearningConfig(str(tmp_path / "out")), rows())


@pytest.mark.parametrize("kind", ["bert", "gpt2", "roberta", "t5", "deberta-v2", "mbart", "mpnet", "qwen2", "llama"])
def test_a_tokenizer_that_transformers_makes_up_is_none(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer([ModelSource(str(tmp_path))])


def test_the_tokenizer_is_that_of_the_first_model_with_one(wordpiece_base: Path, tmp_path: Path) -> None:
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path)
    found = load_tokenizer([ModelSource(str(tmp_path)), ModelSource(str(wordpiece_base))])
    assert found.tokenize("the function") == AutoTokenizer.from_pretrained(wordpiece_base).tokenize("the function")


@pytest.mark.parametrize(("file", "content"), [("tokenizer.json", "[]"), ("tokenizer_config.json", "{")])
def test_a_damaged_tokenizer_is_not_replaced_by_that_of_the_base(
    lm_base: Path, tmp_path: Path, file: str, content: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(lm_base, damaged)
    (damaged / file).write_text(content)
    with pytest.raises(InputError, match="The tokenizer beside '.*damaged' cannot be loaded"):
        load_tokenizer([ModelSource(str(damaged)), ModelSource(str(lm_base))])
