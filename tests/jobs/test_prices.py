"""The prices: by hand, and without a trace in what is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from rich.console import Console

from hf_unlearn.jobs.console import print_prices
from hf_unlearn.jobs.prices import Price, Prices, estimate, recorded_pass, step_factor
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.layers import flops_per_token
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import TrainingRecord, load_record

from ..training.test_trainer import same, tickets, trainer, weights

pytestmark = pytest.mark.usefixtures("pictures_left_blank")


@pytest.fixture
def record(lm_original: Path) -> TrainingRecord:
    found = load_record(locate(str(lm_original)))
    assert found is not None
    return found


def test_by_hand() -> None:
    # all weights: forward 2, back 4 operations a weight; an adapter on them: forward 2, back 2
    assert step_factor(6.0, 2.0, 0.0, adapter_recorded=False) == 1
    assert step_factor(6.0, 2.0, 2.0, adapter_recorded=False) == pytest.approx(4 / 3), "with a teacher"
    assert step_factor(4.0, 2.0, 0.0, adapter_recorded=False) == pytest.approx(2 / 3), "an adapter on a full model"
    assert step_factor(4.0, 2.0, 0.0, adapter_recorded=True) == 1
    retraining = Price(8e12, 120.0)
    prices = Prices(Price(2e12, 30.0), retraining, {"base": Price(2e12, 30.0)}, ["base"], Price(1e11, 2.0), 1.0)
    assert prices.share(prices.roads["base"]) == 0.25
    assert prices.recommendation.startswith("Recommended: base, which is exact")


def test_the_record_gives_the_price(record: TrainingRecord, lm_original: Path, tmp_path: Path) -> None:
    one = recorded_pass(record, rows=40)
    assert one is not None
    # the original's training: 40 passes over 50 rows
    assert one.flops == pytest.approx(record.flops / 40 * 40 / 50)
    assert one.seconds == pytest.approx(record.seconds / 40 * 40 / 50)
    run = trainer(tmp_path, str(lm_original), max_steps=-1, budget=0.25)
    prices = estimate(run, [METHODS[name] for name in ("base", "toward_base", "distill")])
    assert prices is not None
    assert prices.retraining is not None
    assert prices.exact == ["base"]
    assert prices.retraining.flops == pytest.approx(record.flops * 40 / 50)
    assert prices.roads["base"].flops == pytest.approx(0.25 * prices.retraining.flops)
    assert prices.roads["distill"].flops == pytest.approx(prices.roads["toward_base"].flops * 4 / 3)
    assert run.evidence is not None
    assert prices.measuring.flops == flops_per_token(run.model)[1] * 3 * run.evidence.tokens, "three models"
    assert prices.earliest == 1
    console = Console(record=True, width=120)
    print_prices(console, prices)
    said = console.export_text()
    assert "25%" in said
    assert "Recommended: base, which is exact for the stage of training that it repeats where toward_base" in said
    # ten steps of four examples are one pass over 40
    steps = estimate(trainer(tmp_path, str(lm_original), max_steps=10), [METHODS["base"]])
    assert steps is not None
    assert steps.roads["base"].flops == pytest.approx(one.flops)


def test_without_a_record_a_few_steps_are_timed_and_leave_no_trace(
    lm_original: Path, lm_base: Path, tmp_path: Path
) -> None:
    runs: list[Any] = [trainer(tmp_path / str(i), str(lm_base), max_steps=4) for i in range(2)]
    before, state = weights(runs[0].model), torch.get_rng_state()
    prices = estimate(runs[0], [METHODS["shrink_perturb"]])
    assert same(weights(runs[0].model), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in runs[0].model.parameters())
    assert prices is not None
    assert prices.retraining is None
    assert prices.timed > 0
    assert prices.one_pass.seconds > 0
    for run in runs:
        run.train()
    assert same(weights(runs[0].model), weights(runs[1].model))
    # four of the ten steps of a pass
    spent = runs[0].state.total_flos
    assert prices.roads["shrink_perturb"].flops == pytest.approx(spent, rel=0.2)
    assert prices.recommendation == (
        "Recommended: shrink_perturb, as no base model is known that it could begin at; exact would be a whole "
        "retraining."
    )
    console = Console(record=True, width=120)
    print_prices(console, prices)
    assert "no record says how many passes the original's training made" in console.export_text()


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["gradient_ascent", "npo", "kl_ascent", "undial", "rmu", "idk", "dpo", "scrub"])
def test_a_method_that_uses_s_costs_what_it_says(method: str, lora: bool, lm_original: Path, tmp_path: Path) -> None:
    """Its passes over S, L and refusals, its teachers and references; of RMU the blocks that it runs."""
    options: dict[str, Any] = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=2)} if lora else {}
    options |= {"method": method, "learning_rate": 1e-4, "warmup_steps": 0, "gradient_accumulation_steps": 2}
    run = trainer(tmp_path, str(lm_original), **options, max_steps=9 if method == "scrub" else 3)
    prices = estimate(run, [METHODS[method]])
    assert prices is not None
    assert prices.one_pass.seconds > 0
    run.evidence = None
    run.train()
    assert prices.roads[method].flops == pytest.approx(run.state.total_flos, rel=1e-6)
    assert prices.roads[method].seconds == pytest.approx(
        prices.one_pass.seconds * run.state.total_flos / prices.one_pass.flops
    )


@pytest.mark.parametrize("method", ["salun", "fisher"])
def test_what_a_method_looks_at_before_its_first_step_is_in_its_price(
    method: str, classifier_original: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"method": method, "max_steps": 3, "per_device_eval_batch_size": 1}
    run = trainer(tmp_path, str(classifier_original), tickets(), **options)
    prices = estimate(run, [METHODS[method]])
    assert prices is not None
    step, forward = run.flops_per_token
    examples = run.forget_examples if method == "salun" else run.train_dataset
    looked = sum(len(ids) for ids in examples["input_ids"]) * (
        forward + (step - forward) * {"salun": 1, "fisher": 3}[method]
    )
    run.evidence = None
    run.train()
    assert run.state.total_flos > 1.1 * looked, "with the steps"
    assert looked > 0.1 * run.state.total_flos
    assert prices.roads[method].flops == pytest.approx(run.state.total_flos, rel=0.05)


def test_without_a_record_a_method_that_uses_s_costs_the_same(
    lm_original: Path, lm_base: Path, tmp_path: Path
) -> None:
    """And a road over L beside RMU trains all weights."""
    found = [
        estimate(trainer(tmp_path, str(model), method="rmu", max_steps=3), [METHODS["rmu"], METHODS["shrink_perturb"]])
        for model in (lm_original, lm_base)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].timed is not None
    assert found[1].roads["rmu"].flops == pytest.approx(found[0].roads["rmu"].flops)
    plain = estimate(trainer(tmp_path, str(lm_base), max_steps=10), [METHODS["shrink_perturb"]])
    assert plain is not None
    # Ten steps of four are one pass over 40 records, and three are 1.2 over the ten to forget.
    roads = [prices.roads["shrink_perturb"].flops for prices in (plain, found[1])]
    assert roads[1] == pytest.approx(1.2 * roads[0])
