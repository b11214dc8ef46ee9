"""How many tokens a model reads, which ids, and by which padding token: as the model itself shows it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from hf_unlearn import InputError, UnlearningConfig, UnlearningTrainer
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, make_encoder, padding_id, resolve_max_length
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.masking import token_masking
from hf_unlearn.evaluation.measured_sets import evidence_sets
from hf_unlearn.models.limits import own_padding, positions, vocabulary

WORDS = [
    "the", "a", "cat", "dog", "sat", "on", "mat", "ran", "to", "house", "red", "blue", "big", "man", "woman", "went",
    "shop", "bought", "milk", "bread",
]  # fmt: skip
SMALL: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
GPT2: dict[str, Any] = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2}
XLNET: dict[str, Any] = {"vocab_size": 40, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}


def tokenizer(*special: str, **names: str) -> PreTrainedTokenizerFast:
    """A tokenizer of words with these special tokens before them."""
    ids = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *special, *WORDS])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", **names)


def texts(number: int = 12) -> list[dict[str, Any]]:
    return [
        {"text": " ".join(WORDS[(i * 7 + j * 3) % len(WORDS)] for j in range(2 + (i * 5) % 9)), "label": i % 2}
        for i in range(number)
    ]


# Positions


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        (GPT2LMHeadModel, GPT2Config(**GPT2, n_positions=12), 12),
        (GPTNeoForCausalLM, GPTNeoConfig(vocab_size=40, hidden_size=16, num_layers=1, num_heads=2,
         attention_types=[[["local"], 1]], window_size=4, max_position_embeddings=12), 12),
        (OPTForCausalLM, OPTConfig(vocab_size=40, hidden_size=16, ffn_dim=32, num_hidden_layers=1,
         num_attention_heads=2, word_embed_proj_dim=16, max_position_embeddings=12), 12),
        (MptForCausalLM, MptConfig(vocab_size=40, d_model=16, n_layers=1, n_heads=2, max_seq_len=12), 12),
        (BertForSequenceClassification, BertConfig(**SMALL, max_position_embeddings=12), 12),
        (RobertaForSequenceClassification, RobertaConfig(**SMALL, max_position_embeddings=12), 10),
        (RobertaForSequenceClassification, RobertaConfig(**SMALL, max_position_embeddings=12, pad_token_id=0), 11),
        (MPNetForSequenceClassification, MPNetConfig(**SMALL, max_position_embeddings=12), 10),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)  # fmt: skip
def test_a_model_reads_so_many_tokens_and_no_more(kind: Any, config: Any, expected: int) -> None:
    model = kind(config).eval()
    assert positions(config) == expected
    model(torch.full((2, expected), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((2, expected + 1), 5))


def test_relative_positions_have_no_limit_but_the_tokenizers_usual_one() -> None:
    config, plain = T5Config(n_positions=512), tokenizer(model_max_length=64)  # type: ignore[arg-type]
    assert positions(config) == math.inf
    assert resolve_max_length(config, plain, None) == 64
    assert resolve_max_length(config, plain, 2000) == 2000
    assert resolve_max_length(T5Config(), tokenizer(), None) == 1024
    with pytest.raises(InputError, match="max_length=11 is not possible: this model reads 2 to 10 tokens"):
        resolve_max_length(RobertaConfig(max_position_embeddings=12), plain, 11)


# Padding


@pytest.mark.parametrize("named", [0, 2, 3, -1, 39, 400, None])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LlamaForSequenceClassification, LlamaConfig(**SMALL)),
        (GPT2ForSequenceClassification, GPT2Config(**GPT2)),
        (XLNetForSequenceClassification, XLNetConfig(**XLNET)),
    ],
    ids=["llama", "gpt2", "xlnet"],
)
def test_a_classifier_reads_a_text_in_a_batch_as_it_reads_it_alone(
    kind: Any, config: Any, padded: bool, named: int | None
) -> None:
    words = tokenizer("<pad>", pad_token="<pad>") if padded else tokenizer("<other>")
    torch.manual_seed(0)
    # Torch makes no embeddings with a padding token that they lack.
    config.pad_token_id = named if named != 400 else None
    model = kind(config).eval()
    model.config.pad_token_id = named
    head = model.logits_proj if kind is XLNetForSequenceClassification else model.score
    torch.nn.init.normal_(head.weight, std=2.0)
    alone = []
    for record in texts():
        ids = words(record["text"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits
        alone.append(torch.nn.functional.cross_entropy(logits, torch.tensor([record["label"]])).item())
    layout = RecordFormat("classification", text="text", label="label")
    encoder = RecordEncoder(words, layout, 32, {"0": 0, "1": 1})
    records = Dataset.from_list(texts())
    collator = PaddingCollator(padding_id(words, model.config))
    sets = evidence_sets({"forget": records}, encoder, collator, "text-classification", 12, seed=0)
    assert sets.score(model)["forget"]["loss"].to_pylist() == pytest.approx(alone, abs=1e-5)


def test_no_text_ends_with_a_token_that_pads_for_want_of_another() -> None:
    ending = tokenizer()
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 2)])
    assert padding_id(ending, LlamaConfig(**SMALL)) == 0
    assert padding_id(tokenizer(pad_token="</s>"), LlamaConfig(**SMALL)) == 2
    assert own_padding(LlamaConfig(**SMALL, pad_token_id=40)) is None
    assert own_padding(LlamaConfig(**SMALL, pad_token_id=39)) == 39


# Token ids


@pytest.mark.parametrize("where", ["forget", "holdout", "retained"])
def test_tokens_that_the_model_lacks_are_told_before_its_weights_are_loaded(tmp_path: Path, where: str) -> None:
    words = tokenizer()
    config = GPT2Config(**{**GPT2, "vocab_size": len(words)}, architectures=["GPT2LMHeadModel"])
    config.save_pretrained(tmp_path)
    words.add_special_tokens({"pad_token": "[PAD]"})
    words.add_tokens(["<new>"])
    words.save_pretrained(tmp_path)
    assert vocabulary(config) == len(words) - 2
    sets = {name: Dataset.from_list([{"text": "the cat"}] * 8) for name in ("retained", "forget", "holdout")}
    sets[where] = Dataset.from_list([{"text": "the cat"}, {"text": "the <new> cat"}])
    with pytest.raises(InputError, match="1 of 2 texts have tokens that the tokenizer knows and the model does not"):
        UnlearningTrainer(
            str(tmp_path), UnlearningConfig(str(tmp_path / "out"), method="fine_tune"),
            sets["retained"], sets["forget"], sets["holdout"],
        )  # fmt: skip


@pytest.mark.parametrize("column", ["input_ids", "labels"])
@pytest.mark.parametrize("where", ["forget", "holdout", "retained"])
def test_tokenised_sets_with_ids_that_the_model_lacks(tmp_path: Path, where: str, column: str) -> None:
    model = GPT2LMHeadModel(GPT2Config(**GPT2))
    examples = {name: [5, 6, 7] for name in ("input_ids", "labels")} | {"attention_mask": [1, 1, 1]}
    sets = {name: Dataset.from_list([examples] * 4) for name in ("retained", "forget", "holdout")}
    sets[where] = Dataset.from_list([examples, {**examples, column: [5, 6, 40]}])
    with pytest.raises(InputError, match=f"Some '{column}' are outside the model's vocabulary of 40 tokens"):
        UnlearningTrainer(
            model, UnlearningConfig(str(tmp_path), method="fine_tune"), sets["retained"], sets["forget"],
            sets["holdout"], processing_class=tokenizer(),
        )  # fmt: skip


def test_tokens_that_no_text_has_do_no_harm() -> None:
    words = tokenizer()
    config = LlamaConfig(**{**SMALL, "vocab_size": len(words)})
    words.add_special_tokens({"pad_token": "[PAD]", "mask_token": "[MASK]"})
    records = Dataset.from_list([{"text": "the cat"}])
    encoder = make_encoder(records, "text-generation", config, words, None, {})
    assert encoder is not None
    assert encoder(records[:], [0])["input_ids"] == [[3, 5, 2]]
    assert padding_id(words, config) == 2
    with pytest.raises(InputError, match="mask token was added to it alone"):
        token_masking("fill-mask", words, 0.15, 0, vocabulary(config))


def test_loading_keeps_the_padding_of_a_classifier(tmp_path: Path) -> None:
    LlamaForSequenceClassification(LlamaConfig(**SMALL, pad_token_id=2)).save_pretrained(tmp_path)
    assert own_padding(AutoModelForSequenceClassification.from_pretrained(tmp_path).config) == 2
