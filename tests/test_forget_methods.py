"""The methods that use S, in the trainer: what they move, and what they are compared with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, TrainerCallback

from hf_unlearn import InputError
from hf_unlearn.forget_methods import FORGET_METHODS

from .test_trainer import same, tickets, trainer, weights

NAMES = [method.name for method in FORGET_METHODS]
ON_TEXT = [method.name for method in FORGET_METHODS if "text-generation" in method.tasks]
ON_CLASSIFIER = [method.name for method in FORGET_METHODS if "text-classification" in method.tasks]
QUICK: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-3, "warmup_steps": 0}


class Stop(TrainerCallback):
    def __init__(self, step: int = 5):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def finite(model: Any) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("method", ON_TEXT)
def test_methods_that_fit_train_a_language_model(method: str, lora: bool, lm_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=2)} if lora else {}
    run = trainer(tmp_path, str(lm_original), method=method, **QUICK, **options)
    before = weights(run.model)
    trained = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    run.train()
    after = weights(run.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= trained
    assert finite(run.model)
    assert run.passes.teachers == {}


@pytest.mark.parametrize("method", ON_CLASSIFIER)
def test_methods_that_fit_train_a_classifier(method: str, classifier_original: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(classifier_original), tickets(), method=method, **QUICK)
    before = weights(run.model)
    run.train()
    assert not same(before, weights(run.model))
    assert finite(run.model)


@pytest.mark.parametrize("method", sorted(set(NAMES) - set(ON_CLASSIFIER)))
def test_methods_that_do_not_fit_say_so(method: str, classifier_original: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"The method '{method}' does not fit text-classification, because it "):
        trainer(tmp_path, str(classifier_original), tickets(), method=method)


@pytest.mark.parametrize("method", ["npo", "gradient_difference", "scrub", "dpo", "pdu", "rmu", "task_vector"])
def test_a_run_goes_on_to_the_same_weights(method: str, lm_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "save_strategy": "steps", "save_steps": 4, **QUICK, "max_steps": 8}
    whole = trainer(tmp_path / "whole", str(lm_original), **options)
    whole.train()
    stopped = trainer(tmp_path / "stopped", str(lm_original), callbacks=[Stop()], **options)
    stopped.train()
    assert stopped.state.global_step == 5
    resumed = trainer(tmp_path / "stopped", str(lm_original), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-4"))
    assert same(weights(resumed.model), weights(whole.model))
    assert resumed.state.total_flos == whole.state.total_flos


@pytest.mark.parametrize("method", ["salun", "scrub_rewind"])
def test_a_classifiers_run_goes_on_to_the_same_weights(method: str, classifier_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "save_strategy": "steps", "save_steps": 20}
    options |= {**QUICK, "num_train_epochs": 3, "max_steps": -1, "learning_rate": 1e-2}
    whole = trainer(tmp_path / "whole", str(classifier_original), tickets(), **options)
    whole.train()
    stopped = trainer(tmp_path / "stopped", str(classifier_original), tickets(), callbacks=[Stop(25)], **options)
    stopped.train()
    assert stopped.state.global_step == 25 < whole.state.global_step == 39
    resumed = trainer(tmp_path / "stopped", str(classifier_original), tickets(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-20"))
    assert same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("method", ["npo", "gradient_difference", "kl_ascent", "scrub", "pdu", "rmu", "idk"])
def test_accumulated_batches_add_up_to_one_large_batch(method: str, lm_original: Path, tmp_path: Path) -> None:
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):
        model = AutoModelForCausalLM.from_pretrained(lm_original, attention_dropout=0.0)
        run = trainer(
            tmp_path, model, method=method, per_device_train_batch_size=batch, optim="sgd", logging_steps=1,
            gradient_accumulation_steps=accumulation, **{**QUICK, "max_steps": 3, "learning_rate": 0.01},
        )  # fmt: skip
        run.train()
        results.append((weights(run.model), [entry["loss"] for entry in run.state.log_history if "loss" in entry]))
    for name, weight in results[0][0].items():
        torch.testing.assert_close(weight, results[1][0][name], rtol=1e-4, atol=2e-6, msg=name)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-3)
