"""The methods that use S, in the trainer: what they move, and what they are compared with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from hf_unlearn.forget_methods import FORGET_METHODS

from .test_trainer import trainer, weights

NAMES = [method.name for method in FORGET_METHODS]
ON_CLASSIFIER = [method.name for method in FORGET_METHODS if "text-classification" in method.tasks]
QUICK: dict[str, Any] = {"max_steps": 4, "learning_rate": 1e-3, "warmup_steps": 0}


def finite(model: Any) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("method", NAMES)
def test_every_method_trains_a_language_model(method: str, lora: bool, lm_original: Path, tmp_path: Path) -> None:
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
