"""``hf-unlearn plan``: how many models the proof of an epsilon needs, and what they cost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn.cli import main
from hf_unlearn.files import json_values, save_json
from hf_unlearn.models.training_record import RECORD_FILE, DataSource, TrainingRecord

RECORD = TrainingRecord(
    task="text-classification",
    labels=["a", "b"],
    base_model="acme/base",
    base_revision=None,
    dataset=DataSource(name="acme/messages", rows=100),
    settings={},
    peft=None,
    seed=0,
    epochs=3.0,
    steps=30,
    world_size=1,
    tokens=1000,
    flops=2e12,
    seconds=90.0,
)


def original(folder: Path, record: TrainingRecord | None) -> str:
    folder.mkdir()
    if record is not None:
        save_json(record, folder / RECORD_FILE)
    return str(folder)


def test_a_plan_names_the_models_and_the_ceilings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--epsilon", "1"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "epsilon > 1 (delta = 1e-05, confidence 95%)" in text
    assert "tested on 12 unlearned and 12 retrained models" in text
    assert "chosen on as many others: 24 models of each kind" in text
    for row in ("16 8 0.53", "32 16 1.35", "64 32 2.10", "128 64 2.82", "256 128 3.53"):
        assert row in text
    assert "Cost" not in text


def test_delta_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--epsilon", "3", "--delta", "0.2"]) == 0
    assert "tested on 96 unlearned" in capsys.readouterr().out


def test_a_plan_says_what_the_models_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = original(tmp_path / "original", RECORD)
    assert main(["plan", "--epsilon", "1", "--model_name_or_path", place]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "training of 2e+12 FLOPs (90.0 s)" in text
    assert "retraining 24: 4.8e+13 FLOPs (36.0 min)" in text
    assert "unlearning 24 at a budget of 0.25: 1.2e+13 FLOPs (9.0 min)" in text
    assert "together 6e+13 FLOPs (45.0 min)" in text
    assert main(["plan", "--epsilon", "1", "--model_name_or_path", place, "--budget", "1"]) == 0
    assert "together 9.6e+13 FLOPs (72.0 min)" in capsys.readouterr().out
    slow = original(tmp_path / "slow", replace(RECORD, seconds=86400.0))
    assert main(["plan", "--epsilon", "1", "--model_name_or_path", slow]) == 0
    assert "together 6e+13 FLOPs (30.0 days)" in capsys.readouterr().out


def test_without_a_record_the_cost_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--epsilon", "1", "--model_name_or_path", original(tmp_path / "original", None)]) == 0
    assert f"unknown: there is no {RECORD_FILE}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the following arguments are required: --epsilon"),
        (["--epsilon", "two"], "argument --epsilon: the value is no number"),
        (["--epsilon", "0"], "epsilon=0.0 is not possible"),
        (["--epsilon", "nan"], "epsilon=nan is not possible"),
        (["--epsilon", "51"], "at most 50"),
        (["--epsilon", "1", "--delta", "1"], "delta=1.0 is not possible"),
        (["--epsilon", "1", "--delta", "-0.1"], "delta=-0.1 is not possible"),
        (["--epsilon", "1", "--budget", "0"], "--budget 0.0 is not possible"),
    ],
)
def test_what_cannot_be_planned_is_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *flags]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("hf-unlearn plan: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_record_of_another_version_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = original(tmp_path / "original", RECORD)
    values = json_values(RECORD) | {"schema_version": 99}
    (Path(place) / RECORD_FILE).write_text(json.dumps(values))
    assert main(["plan", "--epsilon", "1", "--model_name_or_path", place]) == 2
    shown = capsys.readouterr()
    assert "it is not of version 1; train again" in shown.err
    assert shown.out == ""
