"""The frontier of methods: cells of each kind run to the end, and the published figures are those of the tables."""

import dataclasses
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

FRONTIER = Path(__file__).parents[2] / "recipes" / "benchmarks" / "frontier"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FRONTIER))
    for name in ("tasks", "summary", "frontier", "closeness"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """The planted numbers with few texts and one pass, and the folder for its cells."""
    import tasks

    made = tasks.secrets()
    few = {name: part.take(20) for name, part in made.examples.items()}
    monkeypatch.setattr(tasks, "MOST_STEPS", 2)
    folder = tmp_path / "secrets"
    for place in ("cells", "models"):
        (folder / place).mkdir(parents=True)
    return dataclasses.replace(made, examples=few, settings={**made.settings, "num_train_epochs": 1}, copies=1), folder


@pytest.mark.slow
def test_cells_are_made_once_and_become_tables_and_a_picture(short: Any) -> None:
    from frontier import Cell, Variant, make
    from summary import PICTURE, RESULTS, TABLES, summarise

    task, folder = short
    cells = [Cell("original", 0), *(Cell("retrained", seed) for seed in range(3))]
    cells += [Cell("original", 0, Variant(method), 0.25) for method in ("fine_tune", "retrain", "distill")]
    cells += [Cell("original", 0, Variant("shrink_perturb", 0.45, hot=True), 0.25)]
    for cell in cells:
        make(cell, task, folder)
    written = {file: file.stat().st_mtime_ns for file in (folder / "cells").iterdir()}
    assert {file.stem for file in written} == {cell.name for cell in cells}
    for cell in cells:
        make(cell, task, folder)
    assert written == {file: file.stat().st_mtime_ns for file in (folder / "cells").iterdir()}
    assert {place.name for place in (folder / "models").iterdir()} == {
        "original-0",
        *(f"retrained-{i}" for i in range(3)),
    }

    summarise(folder.parent)
    found = json.loads((folder.parent / RESULTS).read_text())["secrets"]
    assert set(found["variants"]) == {"fine_tune", "retrain", "distill", "shrink_perturb 0.45 hot"}
    numbers = [json.loads(file.read_text())["memorised"] for file in written if file.stem.startswith("retrained-")]
    assert found["retrained"]["memorised"] == pytest.approx([np.mean(numbers), min(numbers), max(numbers)], abs=1e-4)
    assert "shrink_perturb 0.45 hot" in (folder.parent / TABLES).read_text()
    assert (folder.parent / PICTURE).stat().st_size > 5000


def test_hot_is_two_and_a_half_times_the_rate_of_the_original_and_falls_as_a_cosine(short: Any) -> None:
    from frontier import Variant

    task, _ = short
    rate = task.settings["learning_rate"]
    hot = Variant("shrink_perturb", 0.6, hot=True).settings(task, 0.25)
    assert (hot["learning_rate"], hot["lr_scheduler_type"], hot["alpha"]) == (2.5 * rate, "cosine", 0.6)
    plain = {"method": "fine_tune", "alpha": None, "learning_rate": rate}
    assert Variant("fine_tune").settings(task, 0.25) == plain


def test_fitted_is_more_steps_of_smaller_batches_and_a_warm_up(short: Any) -> None:
    from frontier import Variant

    task, _ = short
    variant = Variant("fine_tune", fitted=True)
    asked = {**task.settings, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 16}
    found = variant.settings(replace(task, settings=asked), 0.25)
    assert variant.name == "fine_tune fitted"
    assert (found["per_device_train_batch_size"], found["warmup_steps"]) == (4, 0.1)
    assert found["learning_rate"] == task.settings["learning_rate"]


def test_published_rows_stay_and_missing_ones_are_added() -> None:
    from summary import added

    published = {"tofu": {"retrained": 1, "original": 2, "variants": {"base": {"0.25": 3}}}}
    made = {"retrained": 4, "original": 5, "variants": {"base": {"0.25": 6, "0.1": 7}, "base fitted": {"0.1": 8}}}
    variants = {"base": {"0.25": 3, "0.1": 7}, "base fitted": {"0.1": 8}}
    assert added(published, {"tofu": made, "sms": made}) == {
        "tofu": {"retrained": 1, "original": 2, "variants": variants},
        "sms": made,
    }


def test_one_more_model_lies_in_the_prediction_interval_as_often_as_it_says() -> None:
    from summary import prediction_interval

    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, (4000, 11))
    inside = [low <= row[10] <= high for row in draws for low, high in [prediction_interval(row[:10])]]
    assert stats.binomtest(sum(inside), len(inside), 0.95).pvalue > 0.01


def test_the_ratio_of_means_has_a_limit_below_it() -> None:
    from summary import ratio_of_means

    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(200):
        value, low = ratio_of_means(rng.normal(30, 5, 12), rng.normal(30, 5, 12))
        assert low <= value
        missed += low > 1
    # The true ratio is 1, and the limit lies above it in 5 % of the cases; the bootstrap of 12 is a little short.
    assert missed <= 24
    assert ratio_of_means(np.full(10, 6.0), np.full(10, 3.0)) == (2.0, 2.0)


def test_relearning_counts_the_steps_until_s_is_back(short: Any) -> None:
    import tasks

    task, _ = short
    model = task.new_model(0)
    answers = iter([False, False, True])
    assert tasks.relearn(dataclasses.replace(task, relearnt=lambda _: next(answers)), model, 0) == 2
    assert tasks.relearn(dataclasses.replace(task, relearnt=lambda _: False), model, 0) == tasks.MOST_STEPS + 1


def test_exposure_is_that_of_an_untrained_model_before_any_training(short: Any) -> None:
    task, _ = short
    # By chance it is 1.44 bits on average; of 16 numbers the mean lies within four of its standard errors.
    assert abs(task.memorised(task.new_model(0)) - 1.44) < 4 * 1.3 / math.sqrt(16)


@pytest.mark.slow
def test_the_classifier_of_subjects_is_scored_for_epsilon(short: Any) -> None:
    import closeness
    import tasks

    made = tasks.subjects()
    few = {name: part.take(40) for name, part in made.examples.items()}
    task = dataclasses.replace(made, settings={**made.settings, "num_train_epochs": 1})
    task.examples.update(retained=few["retained"], test=few["test"])
    _, folder = short
    for seed in range(4):
        for of in ("original", "retrained"):
            for variant in (None, closeness.Variant("fine_tune")):
                closeness.make(task, of, variant, seed, folder)
    rows = {row["variant"]: row for row in closeness.summarise(folder)}
    assert set(rows) == {"retrained", "original", "fine_tune"}
    assert set(rows["fine_tune"]) >= {"R0", "R1"}
    assert rows["fine_tune"]["R1"]["forget"]["median"] >= 0


def test_what_is_published_is_what_the_numbers_say() -> None:
    import closeness
    import summary

    text = (FRONTIER / "README.md").read_text(encoding="utf-8")
    results = json.loads((FRONTIER / summary.RESULTS).read_text(encoding="utf-8"))
    tables = (FRONTIER / summary.TABLES).read_text(encoding="utf-8")
    assert set(results) == set(summary.TASKS)
    for name, found in results.items():
        assert summary.as_table(name, found, summary.SHOWN_AT) in text
        for cost in summary.costs_of(found):
            assert summary.as_table(name, found, cost) in tables
    assert closeness.as_table(json.loads((FRONTIER / "closeness.json").read_text(encoding="utf-8"))) in text
    assert (FRONTIER / summary.PICTURE).stat().st_size > 5000
