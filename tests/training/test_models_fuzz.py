"""Random models of many architectures, tokenizers, adapters and shards: a run ends well or in one sentence.

Well means that a plain loader finds the very scores that were measured, one text at a time and without padding.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from hf_unlearn import InputError, Records, UnlearningConfig, UnlearningTrainer, split_retained

from ..models.test_limits import WORDS, tokenizer

USUAL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2}
# By architecture its settings, and what it calls its positions; none where they are relative.
ARCHITECTURES: dict[str, tuple[dict[str, Any], str | None]] = {
    "llama": (USUAL, "max_position_embeddings"),
    "mistral": ({**USUAL, "num_key_value_heads": 1, "sliding_window": 4}, "max_position_embeddings"),
    "phi": (USUAL, "max_position_embeddings"),
    "gpt_neox": ({**USUAL, "rotary_pct": 1.0}, "max_position_embeddings"),
    "gpt2": (GPT, "n_positions"),
    "gpt_neo": (
        {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["local"], 1]], "window_size": 4},
        "max_position_embeddings",
    ),
    "opt": (
        {
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 16,
        },
        "max_position_embeddings",
    ),
    "bloom": ({"hidden_size": 16, "n_layer": 1, "n_head": 2}, None),
    "mpt": ({"d_model": 16, "n_layers": 1, "n_heads": 2}, "max_seq_len"),
    "bert": (USUAL, "max_position_embeddings"),
    "roberta": (USUAL, "max_position_embeddings"),
    "xlnet": ({"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}, None),
}
READERS = ("bert", "roberta", "xlnet")
ONLY_WRITERS = ("gpt_neox", "opt", "mpt", "bloom")


def drawn_tokenizer(draw: random.Random) -> PreTrainedTokenizerFast:
    words = tokenizer("<pad>", "<sep>", **({"pad_token": "<pad>"} if draw.random() < 0.6 else {}))
    if draw.random() < 0.4:
        ids = words.convert_tokens_to_ids(["<s>", "<sep>"])
        words.backend_tokenizer.post_processor = processors.TemplateProcessing(
            "<s> $A <sep>", None, [("<s>", ids[0]), ("<sep>", ids[1])]
        )
    if draw.random() < 0.3:
        words.padding_side = "left"
    return words


def drawn_model(draw: random.Random, folder: Path) -> tuple[str, float]:
    """Save a random model; returns its task and how many tokens it reads."""
    kind = draw.choice(sorted(ARCHITECTURES))
    settings, name = ARCHITECTURES[kind]
    classifies = kind in READERS or (kind not in ONLY_WRITERS and draw.random() < 0.5)
    words = drawn_tokenizer(draw)
    size, length = len(words) + draw.choice([0, 0, 5]), draw.choice([8, 12, 64])
    more: dict[str, Any] = {"pad_token_id": draw.choice([None, 0, 2, 3, 3, size - 1])}
    if kind == "roberta" and more["pad_token_id"] is None:
        more["pad_token_id"] = 1
    if name is not None:
        more[name] = length
    limit = length if name is not None else float("inf")
    if kind == "roberta":
        limit -= more["pad_token_id"] + 1
    if kind not in READERS and not classifies and draw.random() < 0.5:
        more["tie_word_embeddings"] = draw.random() < 0.5
    config = AutoConfig.for_model(kind, **settings, **more, vocab_size=size, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(draw.randrange(99))
    model = (AutoModelForSequenceClassification if classifies else AutoModelForCausalLM).from_config(config)
    if draw.random() < 0.3:
        words.add_tokens(["<added>"])
        if draw.random() < 0.5:
            model.resize_token_embeddings(len(words))
    base = folder / "base"
    model.save_pretrained(base, **({"max_shard_size": "4KB"} if draw.random() < 0.5 else {}))
    words.save_pretrained(base)
    if draw.random() < 0.4:
        task = "SEQ_CLS" if classifies else "CAUSAL_LM"
        base_of = type(model).from_pretrained(base)
        lora = LoraConfig(task_type=task, r=2, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(base_of, lora).save_pretrained(folder / "model")
        words.save_pretrained(folder / "model")
    else:
        base.rename(folder / "model")
    return "text-classification" if classifies else "text-generation", limit


def alone(folder: Path, task: str, limit: float, rows: list[dict[str, Any]]) -> list[float]:
    """The loss of each text by itself, as somebody finds it who knows nothing of this package."""
    adapter = (folder / "adapter_config.json").is_file()
    if task == "text-classification":
        kind: Any = AutoPeftModelForSequenceClassification if adapter else AutoModelForSequenceClassification
    else:
        kind = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    model, words = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    size = int(min(limit, 1024))
    found = []
    for row in rows:
        with torch.no_grad():
            if task == "text-classification":
                ids = words(row["text"], truncation=True, max_length=size, return_tensors="pt")["input_ids"]
                loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits, torch.tensor([row["label"]]))
                found.append(loss.item())
                continue
            ids = words(row["text"])["input_ids"]
            ids = ids if ids[-1] == words.eos_token_id else [*ids, words.eos_token_id]
            losses: list[float] = []
            for start in range(0, len(ids) - 1, size - 1):
                piece = torch.tensor([ids[start : start + size]])
                logits = model(input_ids=piece).logits[0, :-1]
                losses += torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="none").tolist()
            found.append(sum(losses) / len(losses))
    return found


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(i, marks=pytest.mark.slow) for i in range(4, 100))])
def test_a_run_ends_in_a_model_that_loads_as_it_was_measured_or_in_one_sentence(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    task, limit = drawn_model(draw, tmp_path)
    vocabulary = [*WORDS, "unknown", *(["<added>"] if draw.random() < 0.2 else [])]
    rows = [
        {"id": i, "text": " ".join(draw.choices(vocabulary, k=draw.choice([1, 3, 7, 20]))), "label": i % 2}
        for i in range(24)
    ]
    columns = ["id", "text", "label"] if task == "text-classification" else ["id", "text"]
    parts = split_retained(
        Dataset.from_list(rows).select_columns(columns), Records.ids("id", [*range(6)]),
        holdout=Records.ids("id", [*range(6, 12)]), near_duplicates=None, duplicates=None,
    )  # fmt: skip
    full = not (tmp_path / "model" / "adapter_config.json").is_file()
    out = tmp_path / ("model" if draw.random() < 0.3 else "out")
    config = UnlearningConfig(
        str(out), method=draw.choice(["fine_tune", "shrink_perturb"] if full else ["fine_tune", "base"]), max_steps=2,
        use_cpu=True, report_to="none", save_strategy="no", measure_steps=0, per_device_train_batch_size=4,
        disable_tqdm=True, learning_rate=1e-3, merge_adapter=not full and draw.random() < 0.5,
    )  # fmt: skip
    try:
        trainer = UnlearningTrainer(
            str(tmp_path / "model"),
            config,
            parts.retained,
            parts.forget,
            parts.holdout,
            task=task,  # type: ignore[arg-type]
        )
        trainer.train()
        assert trainer.evidence is not None
        tables = [trainer.tables["original"], trainer.measuring.score(trainer.evidence, trainer.model)]
        before = alone(tmp_path / "model", task, limit, rows[:6])
        trainer.save_model()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    for table, expected in zip(tables, (before, alone(out, task, limit, rows[:6])), strict=True):
        assert table["forget"]["loss"].to_pylist() == pytest.approx(expected, abs=2e-4)
