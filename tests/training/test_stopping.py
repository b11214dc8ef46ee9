"""Stopping: by the verdict's tests, in both directions, at no more than their error over all looks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import TrainerState

from hf_unlearn import Records, UnlearningTrainer, split_retained
from hf_unlearn.data.split import RetainedSplit
from hf_unlearn.evaluation.report import UnlearningReport
from hf_unlearn.evaluation.verdict import Scores
from hf_unlearn.training.callbacks import StopWhenForgotten, planned_looks

from ..conftest import WORDS, many_secrets, secrets_rows
from ..support.draws import few_of
from .test_trainer import StopAt, config, same, trainer, weights

pytestmark = pytest.mark.usefixtures("pictures_left_blank")


def many() -> RetainedSplit:
    """Enough records to test on: 120 of S, of which the original knows 40, 120 of H, and 10 of L."""
    dataset = Dataset.from_list(many_secrets())
    return split_retained(dataset, Records.rows(range(120)), holdout=Records.rows(range(130, 250)))


def stopping(folder: Path, model: Path, split: RetainedSplit | None = None, **settings: Any) -> UnlearningTrainer:
    options = {"stop_when_forgotten": True, "measure_steps": 2, "max_steps": 12, "auc_margin": 0.25}
    return trainer(folder, str(model), split or many(), **{**options, **settings})


def scores(rng: np.random.Generator, n: int = 200, **shifts: float) -> Scores:
    """What attacks make of S and H that lie so many standard deviations apart."""
    return Scores(
        {name: rng.normal(by, 1, n) for name, by in shifts.items()}, {name: rng.normal(0, 1, n) for name in shifts}
    )


def looked(rule: StopWhenForgotten, step: int, found: Scores, max_steps: int = 60) -> str | None:
    """Why the rule stops after a look, None when it goes on."""
    rule.look(found, TrainerState(global_step=step, max_steps=max_steps))
    return rule.reason


# The rule


@pytest.mark.parametrize(
    ("every", "max_steps"),
    few_of([(2, 6), (2, 7), (0.5, 6), (0.2, 11), (0.01, 3), (9, 6), (1, 1)], {(2, 7), (0.2, 11)}),
)
def test_as_many_looks_are_planned_as_are_made(lm_base: Path, tmp_path: Path, every: float, max_steps: int) -> None:
    run = trainer(tmp_path, str(lm_base), measure_steps=every, max_steps=max_steps)
    run.train()
    made = sum("forget_loss" in entry for entry in run.state.log_history)
    assert planned_looks(every, max_steps) == made


@pytest.mark.slow
def test_all_looks_together_wrongly_find_it_forgotten_in_no_more_than_five_of_a_hundred_runs() -> None:
    # 0.358 standard deviations apart is an AUC of 0.60, which is just outside the margin, in ten different models
    rng, stopped, at_first = np.random.default_rng(0), 0, 0
    for _ in range(200):
        rule = StopWhenForgotten(0.10, every=1)
        rule.watch(scores(rng, n=100, loss=3.0), None)
        reasons = [looked(rule, step, scores(rng, n=400, loss=0.3583), max_steps=11) for step in range(1, 11)]
        stopped += reasons[-1] is not None
        at_first += reasons[0] is not None
    assert stopped <= 18, "5 % of 200, and two and a half standard deviations"
    assert at_first <= 6, "the first look has a tenth of the 5 %"


def test_every_attack_has_to_be_blind_and_overshoot_stops_too() -> None:
    rng = np.random.default_rng(1)
    original = scores(rng, n=900, loss=3.0, min_k=3.0)
    for shifts, begins in (
        ({"loss": 0.0, "min_k": 0.0}, "forgotten, at look 1 of 5 at 1 % each. No attack distinguishes"),
        ({"loss": 0.0, "min_k": 1.0}, None),
        ({"loss": -1.0, "min_k": 0.0}, "overshoot, at look 1 of 5 at 1 % each. The model treats S worse than records"),
    ):
        rule = StopWhenForgotten(0.10, every=10)
        rule.watch(original, None)
        reason = looked(rule, 10, scores(rng, n=900, **shifts))
        assert rule.stopped == (begins is not None)
        assert reason is None if begins is None else reason is not None and reason.startswith(begins)


def test_what_no_attack_saw_in_the_original_is_not_found_forgotten() -> None:
    rng = np.random.default_rng(1)
    rule = StopWhenForgotten(0.10, every=10)
    rule.watch(scores(rng, n=900, loss=0.0), None)
    assert looked(rule, 10, scores(rng, n=900, loss=0.0)) is None
    assert StopWhenForgotten.from_state(rule.state()).state() == rule.state()


# In a training


def test_stopping_watches_one_half_and_is_judged_on_the_other(lm_original: Path, tmp_path: Path) -> None:
    run = stopping(tmp_path, lm_original, method="base", measure_steps=6)
    assert run.evidence is not None
    halves = [set(sets.sets["forget"]["row"]) for sets in (run.watched, run.evidence)]
    assert not halves[0] & halves[1]
    assert [len(half) for half in halves] == [60, 60]
    run.train()
    report = run.report(audit=many().audit)
    assert report.verdict.word != "exact", "S decided when to stop"
    assert "S decided when the training stopped" in report.verdict.warnings[0]
    assert run.state.global_step == 6
    assert report.method.stopped_early
    assert report.method.stop_reason is not None
    assert report.method.stop_reason.startswith("forgotten, at look 1 of 1 at 5 % each. No attack distinguishes")
    assert report.judged_on_part
    assert report.arms["unlearned"].sets["forget"].records == 60
    assert "reference" in report.arms["unlearned"].attacks, "the base is known"
    point = report.curve[0]
    assert point.worst_gap is not None
    assert point.worst_gap_low is not None
    assert point.worst_gap_low < point.worst_gap < 0.25
    path = tmp_path / "report.json"
    report.save(path)
    assert UnlearningReport.load(path) == report


def test_a_model_that_was_taught_otherwise_overshoots(lm_original: Path, tmp_path: Path) -> None:
    rows = secrets_rows(100)
    split = split_retained(Dataset.from_list(rows), Records.rows(range(40)), holdout=Records.rows(range(50, 100)))
    wrong = [{**row, "completion": f" 0000 {WORDS[i % 16]} {WORDS[i % 5]}."} for i, row in enumerate(rows[:40])]
    taught = UnlearningTrainer(
        str(lm_original),
        config(tmp_path, stop_when_forgotten=True, measure_steps=120, max_steps=600, learning_rate=1e-2),
        Dataset.from_list(wrong + rows[50:]),
        forget_dataset=split.forget,
        holdout_dataset=split.holdout,
    )
    taught.train()
    assert taught.stopping.reason is not None
    assert taught.stopping.reason.startswith("overshoot")
    assert taught.state.global_step < 600
    assert taught.report().verdict.word == "over_forgotten"


def test_an_original_that_knows_nothing_of_s_cannot_be_found_to_have_forgotten(lm_base: Path, tmp_path: Path) -> None:
    run = stopping(tmp_path, lm_base, learning_rate=1e-5)
    run.train()
    gaps = [point.worst_gap for point in run.report().curve if point.worst_gap is not None]
    assert gaps
    assert max(map(abs, gaps)) < 0.25, "within the margin"
    assert not run.stopping.stopped


def test_watching_does_not_change_the_training(lm_original: Path, tmp_path: Path) -> None:
    silent = trainer(tmp_path, str(lm_original), many(), max_steps=12, learning_rate=1e-5)
    watched = stopping(tmp_path, lm_original, learning_rate=1e-5)
    silent.train()
    watched.train()
    assert same(weights(silent.model), weights(watched.model))


@pytest.mark.parametrize("save_strategy", ["steps", pytest.param("epoch", marks=pytest.mark.slow)])
def test_a_run_that_has_stopped_goes_on_where_it_stopped(
    lm_original: Path, tmp_path: Path, save_strategy: str
) -> None:
    options = {"method": "base", "measure_steps": 6, "save_strategy": save_strategy, "save_steps": 6}
    stopped = stopping(tmp_path, lm_original, **options)
    stopped.train()
    assert stopped.stopping.stopped
    assert stopped.state.global_step == 6
    resumed = stopping(tmp_path, lm_original, **options)
    resumed.train(resume_from_checkpoint=True)
    assert same(weights(resumed.model), weights(stopped.model))
    assert resumed.state.global_step == 6
    assert resumed.report().method.stop_reason == stopped.stopping.reason


@pytest.mark.slow
def test_looks_before_and_after_ctrl_c_are_counted_together(lm_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"learning_rate": 1e-5, "save_strategy": "steps"}
    whole = stopping(tmp_path / "whole", lm_original, **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        stopping(tmp_path / "cut", lm_original, callbacks=[StopAt(8)], **options).train()
    resumed = stopping(tmp_path / "cut", lm_original, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.stopping.state() == whole.stopping.state()
    assert resumed.stopping.steps == [2, 4, 6, 8, 10]
