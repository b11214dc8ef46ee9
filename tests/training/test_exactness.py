"""What may not be called exact: results that depend on the records to forget in a way that is easily overlooked."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from hf_unlearn import InputError, Records, UnlearningTrainer, split_retained
from hf_unlearn.data.split import RetainedSplit
from hf_unlearn.jobs import run, train
from hf_unlearn.methods.starts import interpolate, shrink_adapter
from hf_unlearn.models.classes import class_names_of
from hf_unlearn.models.loading import load_any, plain_model
from hf_unlearn.models.location import locate
from hf_unlearn.publishing.measured_weights import check_measured
from hf_unlearn.training.side_channels import other_ways

from ..conftest import secrets_rows, tagged_rows, tickets_rows, write_rows
from .test_trainer import secrets, tickets, trainer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")


def saved_adapter(base: Path, folder: Path, **kind: Any) -> Path:
    """A LoRA adapter all of whose trained weights have moved."""
    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], **kind),
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


KINDS = [
    ({"use_dora": True}, "the magnitudes of DoRA"),
    ({"bias": "all"}, "the biases"),
    ({"bias": "lora_only"}, "the biases"),
    ({"trainable_token_indices": [5, 6]}, "the embeddings of single tokens"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
    ({"use_dora": True, "bias": "all"}, "the magnitudes of DoRA and the biases"),
]


@pytest.fixture(scope="module")
def base(lm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model whose attention has biases."""
    config = AutoConfig.from_pretrained(lm_base, attention_bias=True)
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("exactness") / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(lm_base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "said"), KINDS)
def test_an_adapter_of_which_something_would_stay_is_not_moved_a_part_of_the_way(
    base: Path, tmp_path: Path, kind: dict[str, Any], said: str
) -> None:
    folder = saved_adapter(base, tmp_path / "adapter", **kind)
    with pytest.raises(InputError, match=f"{said}.* would stay; use the method base, or merge"):
        trainer(tmp_path / "out", str(folder), method="toward_base", alpha=0.5)
    assert not (tmp_path / "out").exists()
    trainer(tmp_path / "out", str(folder), method="fine_tune")


PLAIN = [({}, ""), ({"use_rslora": True}, ""), ({"init_lora_weights": "gaussian"}, "")]


@pytest.mark.parametrize(
    "kind",
    [
        *(kind for kind, _ in [*KINDS[:2], *PLAIN[:1]]),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind, _ in [*KINDS[2:], *PLAIN[1:]]),
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_a_clean_adapter_begins_at_its_base_and_is_published_so(
    base: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    folder = saved_adapter(base, tmp_path / "adapter", **kind)
    split = secrets()
    made = trainer(tmp_path / "out", str(folder), split, method="base", max_steps=1, learning_rate=0.0)
    made.train()
    ids = torch.arange(5, 25)[None]
    expected = AutoModelForCausalLM.from_pretrained(base).eval()(ids).logits
    torch.testing.assert_close(made.model.eval()(ids).logits, expected, rtol=0, atol=1e-5)
    assert made.report(audit=split.audit).verdict.word == "exact"
    made.save_model()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=0, atol=1e-5)


def test_weights_that_no_move_reaches_are_refused_whatever_they_are(lm_base: Path) -> None:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_base), LoraConfig(task_type="CAUSAL_LM", r=2))
    model.base_model.model.model.norm.weight.requires_grad_(True)
    with pytest.raises(InputError, match="trains 1 weights besides its LoRA matrices"):
        shrink_adapter(model, 1, seed=0)


def test_buffers_go_back_to_the_base_too(lm_base: Path) -> None:
    model, base = (AutoModelForCausalLM.from_pretrained(lm_base) for _ in range(2))
    for part, value in ((model, 2.0), (base, 0.0)):
        part.model.register_buffer("running_mean", torch.full((3,), value))
    interpolate(model, base, 0.5)
    assert model.model.running_mean.tolist() == [1.0] * 3
    interpolate(model, base, 1)
    assert model.model.running_mean.tolist() == [0.0] * 3


def test_the_base_of_an_adapter_is_the_model_under_it(lm_base: Path, lm_original: Path, tmp_path: Path) -> None:
    folder = saved_adapter(lm_original, tmp_path / "adapter")
    with pytest.raises(InputError, match="lies on .*, which has other weights than the base"):
        trainer(tmp_path / "out", str(folder), method="base", base_model_name_or_path=str(lm_base))
    copy = shutil.copytree(lm_original, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoint-*"))
    trainer(tmp_path / "out", str(folder), method="base", base_model_name_or_path=str(copy))


def test_retraining_needs_to_know_what_to_repeat(lm_base: Path, secrets_file: Path, tmp_path: Path) -> None:
    settings = {"model_name_or_path": str(lm_base), "dataset_name": str(secrets_file), "forget_rows": [1, 2]}
    with pytest.raises(InputError, match="repeats the original's training, and nobody says how that began"):
        run({**settings, "method": "retrain", "output_dir": str(tmp_path / "out")})
    assert not (tmp_path / "out").exists()


def test_the_trainer_needs_to_know_what_to_repeat_too(lm_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="repeats the original's training, and nobody says how that began"):
        trainer(tmp_path / "out", AutoModelForCausalLM.from_pretrained(lm_base), method="retrain")


# Splits that choose


BEST: dict[str, Any] = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}
NAMED = {**BEST, "metric_for_best_model": "one_loss"}


class Watcher(TrainerCallback):
    """One from outside, which may do anything."""


def in_its_way(original: Path, folder: Path, split: Any, **settings: Any) -> tuple[UnlearningTrainer, str]:
    """A trainer with a test split that may have a say, and what is said of that."""
    parts = secrets(named_by="id")
    settings = {"method": "base", "max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, **settings}
    made = trainer(folder, str(original), parts, eval_dataset=split, base_is_clean=True, **settings)
    assert made.evidence is not None
    return made, " ".join(other_ways(made, made.evidence, parts.audit))


@pytest.mark.parametrize("clean", [True, False])
def test_a_split_that_chooses_takes_exact_away_where_it_has_records_to_forget(
    lm_original: Path, tmp_path: Path, clean: bool
) -> None:
    made, said = in_its_way(
        lm_original, tmp_path / "out", Dataset.from_list(fresh()) if clean else secrets().forget, **BEST
    )
    made.train()
    verdict = made.report(audit=secrets(named_by="id").audit).verdict
    assert (verdict.word == "exact") == clean
    assert clean or any("A test split chose" in line for line in verdict.warnings)


def fresh(n: int = 8) -> list[dict[str, Any]]:
    """Records that have nothing in common with the others."""
    words = ["red", "blue", "green", "stone", "river", "house", "cloud", "field"]
    return [
        {"id": f"t-{i}", "group": "t", "prompt": f"{words[i]} {words[-i]}?", "completion": " yes"} for i in range(n)
    ]


CLEAN = Dataset.from_list(fresh())


def with_first(**changes: Any) -> Dataset:
    """A clean split, and in it the first record to forget with some changes."""
    return Dataset.from_list([*fresh(), {**secrets_rows()[0], **changes}])


@pytest.mark.parametrize(
    ("split", "settings", "expected"),
    [
        (CLEAN, BEST, ""),
        ({"one": CLEAN, "other": CLEAN.select([0])}, NAMED, ""),
        ({"one": CLEAN, "other": with_first()}, NAMED, "1 of its rows are copies"),
        (with_first(), {"lr_scheduler_type": "reduce_lr_on_plateau"}, "1 of its rows are copies"),
        (with_first(), {"callbacks": [EarlyStoppingCallback(5)], **BEST}, "1 of its rows are copies"),
        (with_first(), {"callbacks": [Watcher()]}, "1 of its rows are copies"),
        (with_first(prompt="  THE" + secrets_rows()[0]["prompt"][3:], id="x"), BEST, "1 of its rows are copies"),
        (with_first(completion=secrets_rows()[0]["completion"] + " yes", id="x"), BEST, "1 are near copies"),
        (with_first(prompt="nothing at all", completion=" no"), BEST, "1 have an id or a group of theirs"),
        (CLEAN.remove_columns("id"), BEST, "lacks the columns of text and ids"),
        (CLEAN.remove_columns("group"), {**BEST, "group_column": "group"}, "lacks the columns of text and ids"),
        (
            with_first(id="x", prompt="no", completion=" no"),
            {**BEST, "group_column": "group"},
            "1 have an id or a group",
        ),
        (with_first(), {}, ""),
        (CLEAN, {"measure_steps": 1, "callbacks": [Watcher()]}, "A callback from outside saw what was measured"),
    ],
)
def test_a_split_that_chooses_is_shown_to_be_clean_or_is_not(
    lm_original: Path, tmp_path: Path, split: Any, settings: dict[str, Any], expected: str
) -> None:
    _, said = in_its_way(lm_original, tmp_path / "out", split, **settings)
    assert expected in said if expected else said == ""


def test_a_split_that_was_changed_afterwards_is_not_shown_to_be_clean(lm_original: Path, tmp_path: Path) -> None:
    made, _ = in_its_way(lm_original, tmp_path / "out", CLEAN, **BEST)
    made.eval_dataset = made.train_dataset
    assert made.evidence is not None
    assert "is not the one that the trainer was made with" in " ".join(
        other_ways(made, made.evidence, secrets().audit)
    )


# Classes


NAME = "complaint of Quillon Drabbeck"


def complaints(task: str = "text-classification") -> RetainedSplit:
    """Records of which those to forget alone have a class, the one in the middle of the alphabet."""
    if task == "text-classification":
        labels = ("billing", "delivery")
        rows = [{**row, "label": NAME if i < 10 else labels[i % 2]} for i, row in enumerate(tickets_rows())]
    else:
        rows = tagged_rows()
        for row in rows[:10]:
            row["ner_tags"] = [NAME, *row["ner_tags"][1:]]
    return split_retained(Dataset.from_list(rows), Records.rows(range(10)), holdout=Records.rows(range(50, 60)))


def original_with(parts: RetainedSplit, base: Path, folder: Path, task: str, adapter: bool) -> Path:
    """An original that has all the classes, with its training record."""
    write_rows(folder.with_suffix(".jsonl"), [*parts.forget, *parts.retained])
    settings = {"model_name_or_path": str(base), "task": task, "dataset_name": str(folder.with_suffix(".jsonl"))}
    lora = {"use_peft": True, "lora_target_modules": ["query"]} if adapter else {}
    train(
        {
            **settings,
            "output_dir": str(folder),
            "max_steps": 1,
            "use_cpu": True,
            "save_strategy": "steps",
            "save_steps": 1,
            **lora,
        }
    )
    return folder


def holding(folder: Path, name: str) -> list[str]:
    """The files that hold a name."""
    return [path.name for path in folder.rglob("*") if path.is_file() and name.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("task", "adapter", "left"),
    [
        ("text-classification", False, ["billing", "delivery"]),
        ("text-classification", True, ["billing", "delivery"]),
        ("token-classification", False, ["B-NAME", "B-PLACE", "O"]),
    ],
)
def test_a_class_that_only_records_to_forget_have_leaves_the_model(
    encoder_base: Path, tmp_path: Path, task: Any, adapter: bool, left: list[str]
) -> None:
    parts, folder = complaints(task), tmp_path / "out"
    original = original_with(parts, encoder_base, tmp_path / "original", task, adapter)
    assert "config.json" in holding(original, NAME) or adapter
    test = Dataset.from_list([*parts.forget.select([0]), *parts.retained.select([0, 1])])
    made = trainer(
        folder,
        str(original),
        parts,
        method="base",
        max_steps=2,
        eval_dataset=test,
        save_strategy="steps",
        save_steps=1,
    )
    made.train()
    report = made.report(audit=parts.audit)
    assert report.verdict.word == "exact", report.verdict.warnings
    assert "classes without a retained record are gone" in report.verdict.reasons[0]
    made.save_model()
    assert holding(folder, NAME) == []
    loaded = load_any(locate(str(folder)), task)
    assert list(class_names_of(plain_model(loaded).config)) == left
    check_measured(folder, report)
    # Of the model as it was loaded, records of its classes have the losses that were measured.
    assert made.evidence is not None
    again, before = (made.evidence.score(model)["retained"]["loss"].to_numpy() for model in (loaded, made.model))
    assert np.allclose(again, before, atol=1e-5)
    assert np.allclose(before, made.tables["unlearned"]["retained"]["loss"].to_numpy(), atol=1e-5)
    assert (
        made.tables["unlearned"]["forget"]["correct"].to_numpy()
        < made.tables["unlearned"]["forget"]["tokens"].to_numpy()
    ).all()


@pytest.mark.parametrize(("method", "settings"), [("base", {"keep_labels": True}), ("fine_tune", {})])
def test_a_class_that_stays_is_a_trace(
    encoder_base: Path, tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    parts = complaints()
    original = original_with(parts, encoder_base, tmp_path / "original", "text-classification", False)
    made = trainer(tmp_path / "out", str(original), parts, method=method, max_steps=1, **settings)
    assert made.evidence is not None
    said = " ".join(other_ways(made, made.evidence, parts.audit))
    assert "1 classes of the head have records to forget and no retained ones" in said
    assert ("keep_labels kept them" in said) == bool(settings)
    made._move_to_start()
    assert made.model.config.num_labels == 3


def test_classes_that_retained_records_have_stay(classifier_original: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path / "out", str(classifier_original), tickets(), method="base")
    made._move_to_start()
    assert made.evidence is not None
    assert made.model.config.num_labels == 3
    assert list(other_ways(made, made.evidence, tickets().audit)) == []


# Tokens and settings


def from_scratch(folder: Path, texts: list[str], kind: str) -> Path:
    """A folder with random weights and a tokenizer that was trained on texts."""
    if kind == "bpe":
        tokens, maker = Tokenizer(models.BPE()), trainers.BpeTrainer
        tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        options: dict[str, Any] = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    else:
        tokens, maker, options = Tokenizer(models.WordLevel(unk_token="<unk>")), trainers.WordLevelTrainer, {}
        tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.train_from_iterator(
        texts, maker(vocab_size=600, special_tokens=["<unk>", "</s>"], show_progress=False, **options)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


def texts_of(rows: Any) -> list[str]:
    return [row["prompt"] + row["completion"] for row in rows]


@pytest.mark.parametrize("kind", ["bpe", "words"])
def test_a_tokenizer_that_was_trained_on_s_is_a_trace(tmp_path: Path, kind: str) -> None:
    rows = secrets_rows()
    for row in rows[:10]:
        row["prompt"] = f"Account Zyxwvq of Quillon Drabbeck: {row['prompt']}"
    parts = split_retained(Dataset.from_list(rows), Records.rows(range(10)), holdout=Records.rows(range(50, 60)))

    def said(base: Path, method: str, **settings: Any) -> str:
        original = shutil.copytree(base, tmp_path / f"{base.name}-original", dirs_exist_ok=True)
        settings |= {"method": method, "base_model_name_or_path": str(base)}
        made = trainer(tmp_path / "out", str(original), parts, **settings)
        assert made.evidence is not None
        return " ".join(other_ways(made, made.evidence, parts.audit))

    known = from_scratch(tmp_path / "known", texts_of([*parts.forget, *parts.retained]), kind)
    unknown = from_scratch(tmp_path / "unknown", texts_of(parts.retained), kind)
    for method in ("retrain", "base"):
        found = said(known, method)
        assert "tokens that occur in records to forget and in no others" in found
        assert not any(word in found for word in ("Zyxwvq", "Quillon", "Drabbeck"))
        assert said(unknown, method) == ""
    assert said(known, "base", base_is_clean=True) == ""


def changed_generation(model: Any, tokenizer: Any) -> None:
    model.generation_config.bad_words_ids = [[5, 6]]


def changed_settings(model: Any, tokenizer: Any) -> None:
    model.config.task_specific_params = {"summary": {"prefix": "amber"}}


def changed_template(model: Any, tokenizer: Any) -> None:
    tokenizer.chat_template = "Ask Quillon. {{ messages }}"


def changed_tokens(model: Any, tokenizer: Any) -> None:
    tokenizer.add_tokens(["Quillon"])
    model.resize_token_embeddings(len(tokenizer))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (changed_generation, "1 settings of the model or of what it generates"),
        (changed_settings, "1 settings of the model or of what it generates"),
        (changed_template, "1 words of the chat template"),
        (changed_tokens, "The tokenizer has other tokens than that of the base model"),
        (lambda model, tokenizer: None, ""),
    ],
)
def test_what_the_base_lacks_is_a_trace(
    lm_base: Path, tmp_path: Path, change: Callable[[Any, Any], None], expected: str
) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(lm_base), AutoTokenizer.from_pretrained(lm_base)
    change(model, tokenizer)
    model.save_pretrained(tmp_path / "original")
    tokenizer.save_pretrained(tmp_path / "original")
    rows = [{**row, "prompt": f"Quillon: {row['prompt']}"} if i < 10 else row for i, row in enumerate(secrets_rows())]
    parts = split_retained(Dataset.from_list(rows), Records.rows(range(10)), holdout=Records.rows(range(50, 60)))
    settings = {"method": "base", "base_model_name_or_path": str(lm_base), "base_is_clean": True}
    made = trainer(tmp_path / "out", str(tmp_path / "original"), parts, **settings)
    assert made.evidence is not None
    said = " ".join(other_ways(made, made.evidence, parts.audit))
    assert expected in said if expected else said == ""
