"""The live line: what it shows of the work, that it is alone, and that nothing of it stays."""

import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tqdm import tqdm as foreign_bar
from transformers.utils import logging as transformers_logging

import hf_unlearn
from hf_unlearn import Records, UnlearningConfig, UnlearningReport, UnlearningTrainer, split_retained
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import CostEntry
from hf_unlearn.jobs.console import terminal as results
from hf_unlearn.jobs.helping import live as module
from hf_unlearn.jobs.helping.live import Bar, Display, live, show_training, stage

from ..conftest import secrets_rows
from ..support.screen import Screen, terminal

STAGES = "Working|Training|Measuring|Loading weights|Counting shingles|Near copies of S|Writing model shards|Trial"
LIVE = re.compile(rf"({STAGES})( \d|,| \||$)")
PRICE = re.compile(r"\| (\d+)% of retraining's price$")


def live_rows(rows: list[str]) -> list[str]:
    return [row for row in rows if LIVE.match(row)]


def quick(settings: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    """A short run."""
    short = {"max_steps": 6, "logging_steps": 2, "measure": "sample", "save_strategy": "no", "measure_steps": 0}
    return {**settings, **short, "output_dir": str(folder), **more}


def test_one_line_shows_the_work_and_nothing_of_it_stays(
    lm_settings: dict[str, Any],
    lm_original: Path,
    recipe: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pictures_left_blank: None,
) -> None:
    monkeypatch.setattr(module, "REFRESHED", 0.0)
    with terminal(monkeypatch) as written:
        assert main(["run", "--config", str(recipe(**quick(lm_settings, tmp_path / "out")))]) == 0
    screen = Screen(written())
    assert max(len(live_rows(rows)) for rows in screen.history) == 1
    assert live_rows(screen.rows) == []
    assert screen.cursor
    assert not re.search(r"it/s|s/it|examples/s|%\|", written())
    for found in ("The split", "What it will cost", "The evidence (fine_tune)"):
        assert found in screen.rows
    assert [row for row in screen.rows if row.startswith("Verdict: ")]
    assert not any(screen.rows[screen.row :])
    assert all(screen.rows[: screen.row]), "no empty rows are left"

    shown = [row for rows in screen.history for row in live_rows(rows)]
    training = list(dict.fromkeys(row for row in shown if row.startswith("Training")))
    steps = [int(row.split()[1]) for row in training]
    assert sorted(set(steps)) == list(range(7))
    assert re.fullmatch(r"Training 3 of 6, loss \d[\d.]*, 0:00:\d\d left \| \d+% of retraining's price", training[3])
    assert {row.split()[0] for row in shown} >= {"Working", "Measuring", "Training"}
    # What the price counts: the measuring of the original at first, and then each step.
    prices = [int(found[1]) for row in training if (found := PRICE.search(row))]
    assert len(prices) == len(training)
    record = json.loads((lm_original / "training_record.json").read_text())
    cost = UnlearningReport.load(tmp_path / "out" / "unlearning_report.json").cost
    assert cost is not None
    assert prices == sorted(prices)
    retraining = record["flops"] * 40 / 50
    assert prices[-1] - prices[0] == pytest.approx(100 * cost.flops / retraining, abs=1)
    assert prices[0] > 0
    assert prices[-1] < 100 * (cost.flops + cost.measuring_flops) / retraining


def test_ctrl_c_gives_the_terminal_back(
    lm_settings: dict[str, Any], lm_original: Path, recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    def watch(written: bytes) -> None:
        if b"Training 2 of" in written and not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module, "REFRESHED", 0.0)
    before = sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)
    long = quick(lm_settings, tmp_path / "out", max_steps=1000)
    with terminal(monkeypatch, watch) as written:
        assert main(["run", "--config", str(recipe(**long))]) == 130
    screen = Screen(written())
    assert sent
    assert live_rows(screen.rows) == []
    assert screen.cursor
    assert "hf-unlearn run: interrupted, stopped after step" in "".join(screen.rows)
    assert (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT)) == before


def test_without_a_terminal_there_are_few_plain_lines(
    classifier_settings: dict[str, Any],
    classifier_original: Path,
    recipe: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    pictures_left_blank: None,
) -> None:
    run = quick(classifier_settings, tmp_path / "out", max_steps=20, save_strategy="steps", save_steps=20)
    assert main(["run", "--config", str(recipe(**run))]) == 0
    told = capfd.readouterr()
    assert "\r" not in told.out + told.err
    assert "\x1b" not in told.out + told.err
    assert "{'loss'" not in told.out + told.err
    assert told.err == "", "a short run tells its results alone"
    state = json.loads((tmp_path / "out" / "checkpoint-20" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == list(range(2, 21, 2))
    # As a run of ten minutes does, in which a minute goes by from tenth to tenth.
    monkeypatch.setattr(module, "TOLD", 0.0)
    assert main(["run", "--config", str(recipe(**{**run, "output_dir": str(tmp_path / "again")}))]) == 0
    told = capfd.readouterr()
    assert "\r" not in told.out + told.err
    assert "\x1b" not in told.out + told.err
    lines = [line for line in told.err.splitlines() if line.startswith("Training") and "Writing" not in line]
    assert [int(line.split()[1]) for line in lines] == list(range(2, 21, 2))
    assert re.fullmatch(r"Training 10 of 20, loss \d[\d.e-]*, 0:00:\d\d left \| \d+% of retraining's price", lines[4])


def test_python_shows_nothing_in_a_terminal(
    lm_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures_left_blank: None
) -> None:
    request = {"forget": Records.ids("id", ["p-001", "p-002"]), "holdout": Records.ids("id", ["p-058", "p-059"])}
    with terminal(monkeypatch) as written:
        data = Dataset.from_list(secrets_rows())
        short = {"max_steps": 1, "measure": "sample", "save_strategy": "no"}
        hf_unlearn.unlearn(str(lm_original), data, **request, **short, method="fine_tune", output_dir=tmp_path / "out")
    assert written() == ""


def say_much(log: logging.Logger) -> None:
    """What may be written while a stage goes on."""
    results().print("a result")
    print("printed")
    print("an error", file=sys.stderr)
    log.warning("logged")
    for _ in foreign_bar(range(3), desc="foreign", mininterval=0):
        pass


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_is_written_meanwhile_stands_above(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    monkeypatch.setenv("RANK", rank)
    log = logging.getLogger("hf_unlearn.test_live")
    hook = transformers_logging.set_tqdm_hook(None)
    transformers_logging.set_tqdm_hook(hook)
    with terminal(monkeypatch) as written:
        handler = logging.StreamHandler()
        log.addHandler(handler)
        monkeypatch.setattr(log, "propagate", False)
        before = sys.stdout, sys.stderr, handler.stream
        with live(), stage("Trial 1 of 4"):
            for done in transformers_logging.tqdm(range(3), desc="Training"):
                if done == 1:
                    say_much(log)
        assert (sys.stdout, sys.stderr, handler.stream) == before
        log.removeHandler(handler)
    screen = Screen(written())
    rows = [row for row in screen.rows if row]
    assert rows == ["a result", "printed", "an error", "logged"]
    assert "foreign" not in written()
    assert live_rows(screen.rows) == []
    shown = max(len(live_rows(rows)) for rows in screen.history)
    assert shown == (1 if rank == "0" else 0)
    assert ("Trial 1 of 4 | Training 0 of 3" in written()) == (rank == "0")
    assert transformers_logging.set_tqdm_hook(hook) is hook


def test_an_output_in_a_file_leaves_the_line_in_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with terminal(monkeypatch) as written, (tmp_path / "out.txt").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with live(), stage("Trial 1 of 4"):
            results().print("a result")
            print("printed")
    assert "Trial 1 of 4" in written()
    assert (tmp_path / "out.txt").read_text() == "a result\nprinted\n"


def test_the_time_left_is_that_of_the_steps_so_far() -> None:
    bar = Bar(Display(results(quiet=True), None), total=1000, desc="Training")
    bar.update(400)
    assert str(bar) == "Training 400 of 1,000"
    assert bar.begun is not None
    # Of a training that went on at step 400: 100 steps in 20 minutes leave 500 in 100.
    bar.begun = (time.monotonic() - 1200, 400)
    bar.update(100)
    assert str(bar) == "Training 500 of 1,000, 1:40:00 left"


def test_the_price_counts_earlier_trials_and_is_left_out_where_it_is_unknown(
    lm_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "TOLD", 0.0)
    split = split_retained(
        Dataset.from_list(secrets_rows()[:50]), Records.ids("id", [f"p-{i:03d}" for i in range(10)])
    )
    record = json.loads((lm_original / "training_record.json").read_text())
    retraining = record["flops"] * 40 / 50
    earlier = CostEntry(0, 0, 0, 2 * retraining, retraining, 0, None, None, None)

    def train(priced: bool) -> tuple[str, UnlearningTrainer]:
        args = UnlearningConfig(
            str(tmp_path), method="fine_tune", max_steps=1, measure_steps=0, save_strategy="no", report_to=[], seed=1
        )
        trainer = UnlearningTrainer(str(lm_original), args, split.retained, split.forget)
        show_training(trainer, priced=priced)
        capfd.readouterr()
        with live(), stage("Trial 2 of 4", [earlier]):
            trainer.train()
        return capfd.readouterr().err, trainer

    told, trainer = train(True)
    cost = trainer.cost_entry(None)
    share = 3 + (cost.flops + cost.measuring_flops) / retraining
    assert f"Trial 2 of 4 | Training 1 of 1 | {share:.0%} of retraining's price\n" in told
    assert share > 3
    told, _ = train(False)
    assert "Trial 2 of 4 | Training 1 of 1\n" in told
    assert "price" not in told
