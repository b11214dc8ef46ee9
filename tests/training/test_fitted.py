"""Settings that fit a short training: what they are, and that nothing of S is in them."""

from dataclasses import replace
from typing import Any

import pytest

from hf_unlearn.models.training_record import DataSource, TrainingRecord
from hf_unlearn.training.fitted import Fitted, fitted, inherited_settings

SETTINGS = {
    "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0, "weight_decay": 0.01,
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1,
}  # fmt: skip


def record(**settings: Any) -> TrainingRecord:
    return TrainingRecord(
        "text-generation", None, "base", None, DataSource(rows=100), {**SETTINGS, **settings}, None,
        seed=0, epochs=4.0, steps=28, world_size=1, tokens=1000, flops=1e9, seconds=10.0, asked_epochs=4.0,
    )  # fmt: skip


def fitted_to(budget: float, device: str, processes: int = 1, **settings: Any) -> Fitted | None:
    made = record(**settings)
    return fitted(made.settings, made.step_records, budget, device, processes)


@pytest.mark.parametrize(
    ("budget", "batch", "rate"),
    [
        (0.5, 4, 1),
        (0.25, 4, 1),
        (0.1, 4, (4 / 1.6) ** 0.5),
        (0.01, 4, 2),
        (0.7, 8, 1),
    ],
)
def test_smaller_batches_give_back_the_steps_and_the_rate_does_the_rest(
    budget: float, batch: int, rate: float
) -> None:
    found = fitted_to(budget, "cpu")
    assert found is not None
    assert found.settings["per_device_train_batch_size"] * found.settings["gradient_accumulation_steps"] == batch
    assert found.settings["learning_rate"] == pytest.approx(1e-3 * rate)
    assert (found.settings["warmup_steps"], found.settings["lr_scheduler_type"]) == (0.1, "cosine")
    assert f"{batch} records a step instead of 16" in found.reason


def test_batches_are_no_larger_than_the_originals_and_fit_the_device_and_the_processes() -> None:
    assert fitted_to(1.0, "cpu") is None
    small = fitted_to(0.25, "cpu", per_device_train_batch_size=2)
    assert small is not None
    assert small.settings["per_device_train_batch_size"] == 2
    assert small.settings["learning_rate"] == 2e-3
    wide = fitted_to(0.25, "cuda", 2, per_device_train_batch_size=8, gradient_accumulation_steps=16)
    assert wide is not None
    assert (wide.settings["per_device_train_batch_size"], wide.settings["gradient_accumulation_steps"]) == (8, 1)
    on_cuda = fitted_to(0.25, "cuda")
    assert on_cuda is not None
    assert on_cuda.settings["per_device_train_batch_size"] == 16
    assert on_cuda.settings["learning_rate"] == 2e-3
    held = fitted_to(0.25, "cpu", lr_scheduler_type="constant")
    assert held is not None
    assert held.settings["lr_scheduler_type"] == "linear"


def test_what_the_user_says_goes_before_the_fit() -> None:
    found = inherited_settings(record(), {"method": "base", "use_cpu": True})
    assert (found["budget"], found["per_device_train_batch_size"], found["weight_decay"]) == (0.25, 4, 0.01)
    for given in ({"learning_rate": 1e-3}, {"per_device_train_batch_size": 16}, {"num_train_epochs": 1.0}):
        found = inherited_settings(record(), {"method": "base", "use_cpu": True, **given})
        assert not {"warmup_steps": 0.1}.items() <= found.items()
        assert not given.keys() & found.keys()


def test_methods_with_a_rate_of_their_own_keep_it() -> None:
    hot = inherited_settings(record(), {"method": "shrink_reheat", "use_cpu": True, "budget": 0.1})
    assert hot["learning_rate"] == pytest.approx(2.5e-3)
    assert hot["per_device_train_batch_size"] == 4
    assert "budget" not in inherited_settings(record(), {"method": "npo", "use_cpu": True})
    assert inherited_settings(record(), {"method": "npo"})["per_device_train_batch_size"] == 16


def test_what_the_original_reached_decides_nothing() -> None:
    asked = {"method": "auto", "use_cpu": True, "budget": 1.0, "stop_when_useful": True}
    one = inherited_settings(record(), asked)
    assert one["per_device_train_batch_size"] == 8
    other = replace(record(), epochs=1.3, steps=3, flops=7e12, seconds=1e4, tokens=5, dataset=DataSource(rows=7))
    assert inherited_settings(other, asked) == one
    assert other.planned_epochs == 4
