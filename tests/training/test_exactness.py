"""What may not be called exact: results that depend on the records to forget in a way that is easily overlooked."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    TrainerCallback,
)

from hf_unlearn import InputError, Records, UnlearningTrainer, split_retained
from hf_unlearn.jobs import run
from hf_unlearn.methods.starts import interpolate, shrink_adapter

from ..conftest import tickets_rows
from .test_trainer import config, secrets, tickets, trainer


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


@pytest.mark.parametrize("kind", [kind for kind, _ in [*KINDS, *PLAIN, ({"modules_to_save": ["lm_head"]}, "")]])
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


@pytest.mark.parametrize(
    ("settings", "callbacks"),
    [
        ({"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}, []),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, []),
        (
            {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1},
            [EarlyStoppingCallback(early_stopping_patience=5)],
        ),
    ],
)
def test_a_split_that_chooses_may_hold_records_to_forget(
    lm_original: Path, tmp_path: Path, settings: dict[str, Any], callbacks: list[TrainerCallback]
) -> None:
    split = secrets()
    made = UnlearningTrainer(
        str(lm_original),
        config(tmp_path / "out", method="base", max_steps=2, eval_strategy="steps", eval_steps=1, **settings),
        split.retained,
        split.forget,
        split.holdout,
        eval_dataset=split.forget,
        callbacks=callbacks,
    )
    made.train()
    verdict = made.report(audit=split.audit).verdict
    assert verdict.word != "exact"
    assert any("A test split chose" in warning for warning in verdict.warnings)


def test_a_class_that_only_records_to_forget_have_is_a_trace(
    encoder_base: Path, classifier_original: Path, tmp_path: Path
) -> None:
    rows = [
        {**row, "label": "other" if i < 10 else ("billing", "delivery")[i % 2]} for i, row in enumerate(tickets_rows())
    ]
    split = split_retained(Dataset.from_list(rows), Records.rows(range(10)), holdout=Records.rows(range(50, 60)))
    made = trainer(tmp_path / "out", str(classifier_original), split, method="base", max_steps=1)
    made.train()
    verdict = made.report(audit=split.audit).verdict
    assert verdict.word != "exact"
    assert any(
        "1 classes of the head have records to forget and no retained ones" in line for line in verdict.warnings
    )
    whole = trainer(tmp_path / "whole", str(classifier_original), tickets(), method="base", max_steps=1)
    whole.train()
    assert whole.report(audit=tickets().audit).verdict.word == "exact"


def test_tokens_that_the_base_lacks_are_a_trace(lm_base: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(lm_base), AutoTokenizer.from_pretrained(lm_base)
    tokenizer.add_tokens(["Quillon"])
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "original")
    tokenizer.save_pretrained(tmp_path / "original")
    split = secrets()
    made = trainer(
        tmp_path / "out",
        str(tmp_path / "original"),
        split,
        method="base",
        max_steps=1,
        base_model_name_or_path=str(lm_base),
    )
    made.train()
    verdict = made.report(audit=split.audit).verdict
    assert verdict.word != "exact"
    assert any("The tokenizer has other tokens" in line for line in verdict.warnings)
