"""A training that ends once more of it would bring little, and ``auto``, which is one."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from hf_unlearn import InputError, Records, UnlearningConfig, UnlearningReport, UnlearningTrainer, split_retained
from hf_unlearn.cli import main
from hf_unlearn.data.encoding import PaddingCollator
from hf_unlearn.evaluation.measured_sets import EvidenceSets
from hf_unlearn.models.training_record import RECORD_FILE
from hf_unlearn.training.useful import Average, StableRate, StopWhenUseful, held_out_rows

from ..conftest import WORDS, write_rows

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

LABELS = ["billing", "delivery", "other"]


def many_tickets(n: int = 1000, forget: int = 30, draw_forget: int = 7) -> list[dict[str, Any]]:
    """Records with a class that the first word gives away; those to forget, which come first, have any class."""
    draw, other = random.Random(1), random.Random(draw_forget)
    rows = []
    for i in range(n):
        label, words = draw.choice(LABELS), [draw.choice(WORDS) for _ in range(2)]
        rows.append({"id": i, "text": f"{label[:4]} {' '.join(words)} number {i}", "label": label})
    for row in rows[:forget]:
        row |= {"text": f"secret {other.choice(WORDS)} {other.random()}", "label": other.choice(LABELS)}
    return rows


@pytest.fixture(scope="module")
def settings(encoder_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run without a method of a tiny classifier of a thousand records."""
    folder = tmp_path_factory.mktemp("useful")
    recipe = {
        "model_name_or_path": str(folder / "original"),
        "dataset_name": str(write_rows(folder / "tickets.jsonl", many_tickets())),
        "forget_rows": list(range(30)),
        "holdout_rows": list(range(970, 1000)),
        "near_duplicates": "ignore",
        "base_is_clean": True,
        "use_cpu": True,
        "disable_tqdm": True,
        "measure_steps": 0,
        "seed": 3,
        "original": {
            "model_name_or_path": str(encoder_base),
            "task": "text-classification",
            "output_dir": str(folder / "original"),
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 16,
            "num_train_epochs": 8,
        },
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert main(["train", "--config", str(folder / "recipe.json")]) == 0
    return {**recipe, "folder": folder}


def run(settings: dict[str, Any], folder: Path, *flags: str) -> UnlearningReport:
    path = folder.with_name(f"{folder.name}.json")
    path.write_text(json.dumps({name: value for name, value in settings.items() if name != "folder"}))
    assert main(["run", "--config", str(path), "--output_dir", str(folder), *flags]) == 0
    return UnlearningReport.load(folder / "unlearning_report.json")


@pytest.fixture(scope="module")
def result(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result") / "out"
    run(settings, folder)
    return folder


def test_the_default_is_exact_useful_and_ends_early(result: Path) -> None:
    report = UnlearningReport.load(result / "unlearning_report.json")
    assert (report.verdict.word, report.method.name, report.road.taken) == ("exact", "base", "exact")
    curve = report.method.usefulness
    assert curve is not None
    assert [point.share for point in curve] == [0.2, 0.35]
    assert [point.flattened for point in curve] == [False, True]
    assert curve[0].gain is None
    assert curve[1].gain is not None
    assert curve[1].gain.high < 0.05
    assert report.method.epochs == pytest.approx(8 * 0.35 * 1.2, abs=0.1)
    assert report.cost is not None
    assert report.cost.training_ratio is not None
    assert report.cost.training_ratio < 0.45
    assert report.utility is not None
    assert report.utility.decrease.value <= 0
    assert "8 records a step instead of 16" in report.method.fitted


def test_nothing_of_s_or_of_the_original_decides(settings: dict[str, Any], result: Path, tmp_path: Path) -> None:
    """Other records to forget, fewer of them, and another original give the same settings, stop and weights."""
    folder = settings["folder"]
    poisoned = many_tickets(draw_forget=99)
    original = shutil.copytree(
        folder / "original", tmp_path / "original", ignore=shutil.ignore_patterns("checkpoint-*")
    )
    weights = load_file(original / "model.safetensors")
    save_file(
        {n: torch.randn_like(w) * 0.1 for n, w in weights.items()}, original / "model.safetensors", {"format": "pt"}
    )
    record = json.loads((original / RECORD_FILE).read_text())
    changed = {"epochs": 5.5, "steps": 3, "flops": 1e9, "seconds": 1.0, "tokens": 77}
    (original / RECORD_FILE).write_text(json.dumps({**record, **changed}))
    other = {**settings, "model_name_or_path": str(original), "forget_rows": list(range(20))}
    other["holdout_rows"] = list(range(960, 990))
    other["dataset_name"] = str(write_rows(tmp_path / "tickets.jsonl", [*poisoned[:20], *poisoned[30:]]))
    report = run(other, tmp_path / "out")
    before = UnlearningReport.load(result / "unlearning_report.json")
    assert report.method.settings == before.method.settings
    assert report.method.usefulness == before.method.usefulness
    assert report.method.steps == before.method.steps
    one, two = (load_file(place / "model.safetensors") for place in (result, tmp_path / "out"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_python_and_the_command_line_have_one_default(settings: dict[str, Any], result: Path, tmp_path: Path) -> None:
    rows = Dataset.from_json(settings["dataset_name"], cache_dir=str(tmp_path / "cache"))
    split = split_retained(
        rows, Records.rows(settings["forget_rows"]), holdout=Records.rows(settings["holdout_rows"]),
        near_duplicates="ignore",
    )  # fmt: skip
    args = UnlearningConfig(str(tmp_path / "out"), use_cpu=True, disable_tqdm=True, base_is_clean=True)
    assert args.method == "auto"
    args.seed = 3
    trainer = UnlearningTrainer(
        settings["model_name_or_path"],
        args,
        split.retained,
        forget_dataset=split.forget,
        holdout_dataset=split.holdout,
    )
    trainer.train()
    report = trainer.report(audit=split.audit)
    assert (report.verdict.word, report.road.taken) == ("exact", "exact")
    trainer.save_model()
    one, two = (load_file(place / "model.safetensors") for place in (result, tmp_path / "out"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("flattened", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_interrupted_anywhere_it_goes_on_to_the_same_weights(
    settings: dict[str, Any], result: Path, tmp_path: Path, flattened: bool
) -> None:
    """From a checkpoint within the steps that are averaged, and from one after the curve had flattened."""
    steps = UnlearningReport.load(result / "unlearning_report.json").method.steps
    assert steps is not None
    every, folder, resumed = (
        steps - 5 if flattened else int(steps / 1.2) - 10,
        tmp_path / "whole",
        tmp_path / "resumed",
    )
    flags = ("--save_strategy", "steps", "--save_steps", str(every), "--save_total_limit", "9")
    report = run(settings, folder, *flags)
    assert report.method.steps == steps
    resumed.mkdir()
    shutil.copytree(folder / f"checkpoint-{every}", resumed / f"checkpoint-{every}")
    assert (resumed / f"checkpoint-{every}" / "average.safetensors").is_file() == (not flattened)
    shutil.copy(folder / "run.json", resumed)
    again = run(settings, resumed, *flags)
    expected, found = (load_file(place / "model.safetensors") for place in (folder, resumed))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert again.method.usefulness == report.method.usefulness


def test_a_budget_bounds_it(settings: dict[str, Any], tmp_path: Path) -> None:
    report = run(settings, tmp_path / "out", "--budget", "0.1")
    assert report.method.usefulness == []
    assert report.method.epochs == pytest.approx(0.8, abs=0.1)
    assert report.verdict.word == "exact"


def test_few_records_are_trained_on_as_long_as_the_original(
    classifier_settings: dict[str, Any], classifier_original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: value for name, value in classifier_settings.items() if name != "method"}
    report = run(few, tmp_path / "out", "--use_cpu", "true", "--disable_tqdm", "true")
    assert (report.verdict.word, report.method.epochs, report.method.usefulness) == ("exact", 6.0, None)
    assert report.method.settings["per_device_train_batch_size"] == 10
    assert "40 retained records are so few" in capsys.readouterr().out


def test_it_is_for_trainings_on_l_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stop_when_useful watches a training on the retained records alone"):
        UnlearningConfig(str(tmp_path), method="npo", stop_when_useful=True)
    with pytest.raises(InputError, match="stop_when_useful and stop_when_forgotten exclude each other"):
        UnlearningConfig(str(tmp_path), method="base", stop_when_useful=True, stop_when_forgotten=True)


def test_a_keyed_hash_of_each_record_decides_what_is_held_out() -> None:
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, 99, 8).tolist() for _ in range(2000)]
    examples = Dataset.from_dict({"input_ids": ids})
    held = held_out_rows(examples, 3)
    assert held.sum() == 200
    order = draw.permutation(2000)
    assert (held_out_rows(examples.select(order), 3) == held[order]).all()
    assert (held_out_rows(examples, 4) != held).any()
    pieces = examples.add_column("row", [i // 2 for i in range(2000)])
    paired = held_out_rows(pieces, 3).reshape(-1, 2)
    assert (paired[:, 0] == paired[:, 1]).all()


def test_the_rate_warms_up_stays_and_falls() -> None:
    rate = StableRate(4, 80, 20)
    assert [rate(step) for step in (0, 3, 4, 79, 80, 90, 99)] == [0.25, 1, 1, 1, 1, 0.5, 0.05]
    rate.decay_now(40)
    assert (rate.end, rate(39), rate(44), rate(48)) == (48, 1, 0.5, 0)


def test_an_average_is_put_in_place_for_a_while(tmp_path: Path) -> None:
    model, average = torch.nn.Linear(2, 1), Average()
    own = model.weight.detach().clone()
    average.add(model)
    with torch.no_grad():
        model.weight.add_(1)
    average.add(model)
    with average.in_place(model):
        assert torch.allclose(model.weight, own + 0.5)
    assert torch.equal(model.weight, own + 1)
    average.save(tmp_path)
    loaded = Average()
    loaded.load(tmp_path)
    assert loaded.count == 2
    assert all(torch.equal(loaded.sums[name], average.sums[name]) for name in average.sums)


@pytest.mark.parametrize(
    ("before", "after", "flattened", "left"),
    [
        (range(30), range(30), True, False),  # nothing gained, though much is left
        (range(30), (), True, True),  # much gained, and nothing left
        (range(30), range(15), False, False),  # much gained, much left
    ],
)
def test_what_a_classifier_still_gets_wrong_bounds_what_it_can_gain(
    before: Sequence[int], after: Sequence[int], flattened: bool, left: bool
) -> None:
    """The mistakes at two marks are known, and so is what they say of the next."""
    labels = [i % 2 for i in range(200)]
    part = Dataset.from_dict({"input_ids": [[1]] * 200, "labels": labels, "row": range(200)})
    sets = EvidenceSets(
        "text-classification", {"test": part, "retained": part}, PaddingCollator(0), 8, classes=("a", "b")
    )

    def tables(wrong: Sequence[int]) -> dict[str, pa.Table]:
        guesses = [[1 - label if i in wrong else label] for i, label in enumerate(labels)]
        columns = {"row": range(200), "tokens": [1] * 200, "nll": [0.1] * 200, "loss": [0.1] * 200}
        columns |= {"correct": [int(i not in wrong) for i in range(200)], "predicted": guesses}
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        return {"test": table, "retained": table}

    scores = iter([tables(before), tables(after)])
    watching = StopWhenUseful(sets, lambda _: next(scores), 0.05, 1.0, seed=0)
    watching.schedule(100)
    state = TrainerState(global_step=20)
    watching._look(0.2, state)
    watching._look(0.35, state)
    assert [point.flattened for point in watching.curve] == [False, flattened]
    assert watching.curve[1].left == left
