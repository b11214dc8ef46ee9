"""References in use: how close the run is to them, and what they add to the reports of a run and of an evaluation."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.evaluation import references
from hf_unlearn.evaluation.closeness.compare import closeness
from hf_unlearn.evaluation.references import outside_attacks
from hf_unlearn.evaluation.statistics import membership_auc
from hf_unlearn.models.loading import load_any
from hf_unlearn.models.location import ModelSource
from hf_unlearn.publishing.card import render_card
from hf_unlearn.training import trainer

from ..jobs.test_jobs import texts_in

SETS = ("forget", "holdout", "retained")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def settings(classifier_settings: dict[str, Any], classifier_original: Path) -> dict[str, Any]:
    """A run of the tiny classifier."""
    return {**classifier_settings, "method": "toward_base", "learning_rate": 1e-3, "use_cpu": True}


@pytest.fixture(scope="module")
def trained(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of a run of which only references are there, made by two commands, and what was said."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for flags in (("--seeds", "3"), ("--seeds", "4", "--arms", "unlearned", "--delta", "0.001")):
            where = ("--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "out"))
            assert main(["references", *where, *flags]) == 0
    return folder / "out", said.getvalue()


@pytest.fixture
def command(recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command with a recipe and flags; its exit code and what it said."""

    def run(name: str, values: dict[str, Any], *flags: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([name, "--config", str(recipe(**values)), *flags])
        return code, *capsys.readouterr()

    return run


def tables(path: Path) -> dict[str, pa.Table]:
    """The tables of one model, by set."""
    found = pq.read_table(path)
    sets = np.array(found["set"])
    return {name: found.filter(pa.array(sets == name)).drop_columns("set") for name in SETS}


def of_references(folder: Path, arm: str, seeds: tuple[int, ...]) -> list[dict[str, pa.Table]]:
    return [tables(folder / "references" / f"{arm}-seed{seed}" / "tables" / f"{arm}.parquet") for seed in seeds]


def test_once_there_are_both_kinds_the_command_says_how_close_they_are(trained: tuple[Path, str]) -> None:
    folder, said = trained
    first, second = said.split("Model 1 of 4: unlearned, seed 3.")
    assert "How far" not in first
    assert "How far this unlearning is from retrained" in second
    assert "conditional on this original" in second
    assert "train 12 of each kind or more" in second
    written = json.loads((folder / "references" / "references.json").read_text())
    assert (written["schema_version"], written["task"]) == (1, "text-classification")
    assert {arm: entry["seeds"] for arm, entry in written["arms"].items()} == {
        "retrained": [3, 4, 5],
        "unlearned": [3, 4, 5, 6],
    }
    found = written["closeness"]["retrained"]
    unlearned = of_references(folder, "unlearned", (3, 4, 5, 6))
    expected = closeness(unlearned, of_references(folder, "retrained", (3, 4, 5)), delta=1e-3, seed=3)  # type: ignore[arg-type]
    assert (found["n_unlearned"], found["n_reference"], found["n_quality"], found["delta"]) == (4, 3, 3, 1e-3)
    for name, numbers in expected.sets.items():
        assert found["sets"][name]["records"] == 10
        assert found["sets"][name]["quality"] == pytest.approx(numbers.quality)
        assert found["sets"][name]["pooled"]["threshold"] == pytest.approx(numbers.pooled.threshold)
    assert found["assumptions"] == expected.assumptions
    assert (folder / "references" / "epsilon_histogram.png").read_bytes().startswith(b"\x89PNG")
    for path, text in {**texts_in(folder), Path("stdout"): said}.items():
        assert "number 1" not in text, path


def test_a_run_takes_the_references_in_its_folder(
    settings: dict[str, Any],
    trained: tuple[Path, str],
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def counted(source: ModelSource, *args: Any, **options: Any) -> Any:
        loaded.append(Path(source.name).name)
        return load_any(source, *args, **options)

    loaded: list[str] = []
    for module in (references, trainer):
        monkeypatch.setattr(module, "load_any", counted)
    out = shutil.copytree(trained[0], tmp_path / "out")
    code, said, err = command("run", {**settings, "output_dir": str(out)}, "--with_retrained")
    assert code == 0, err
    models = [f"retrained-seed{seed}" for seed in (3, 4, 5)] + [f"unlearned-seed{seed}" for seed in (3, 4, 5, 6)]
    assert sorted(loaded) == models, "each once, for the verdict and for what is shown"
    report = UnlearningReport.load(out / "unlearning_report.json")
    assert {arm: entry.seeds for arm, entry in report.references.items()} == {
        "retrained": [3, 4, 5],
        "unlearned": [3, 4, 5, 6],
    }
    outside = of_references(out, "retrained", (3, 4, 5))
    for arm in ("original", "unlearned", "retrained"):
        judged = tables(out / "tables" / f"{arm}.parquet")
        # The retrained model is the one with the seed of the run, and is no reference for itself.
        expected = outside_attacks(judged, outside[1:] if arm == "retrained" else outside, seed=3)  # type: ignore[arg-type]
        for attack in ("lira", "rmia"):
            found = report.arms[arm].attacks[attack]
            assert found.auc.value == pytest.approx(expected[attack].auc.value), (arm, attack)
            assert found.tpr_at_1pct.value == pytest.approx(expected[attack].tpr_at_1pct.value)
            assert found.balanced_accuracy is not None
    aucs = [
        membership_auc(one["forget"]["loss"].to_numpy(), one["holdout"]["loss"].to_numpy()).value for one in outside
    ]
    spread = report.references["retrained"].aucs["loss"]
    assert (spread.mean, spread.lowest, spread.highest) == pytest.approx((np.mean(aucs), min(aucs), max(aucs)))
    assert spread.deviation == pytest.approx(np.std(aucs, ddof=1))
    losses = {name: np.mean([one[name]["loss"].to_numpy().mean() for one in outside]) for name in SETS}
    assert report.references["retrained"].losses == pytest.approx(losses)
    assert not {"lira", "rmia"} & set(report.verdict.attacks), "they are shown and do not decide"
    # what a person sees
    assert "lira and rmia compare with 3 retrained models that saw neither S nor H." in said
    card = (out / "README.md").read_text()
    assert f"| retrained on L | 3 | {spread.mean:.2f}, {spread.lowest:.2f} to {spread.highest:.2f} |" in card
    assert "| this unlearning of the same original, repeated | 4 |" in card
    assert "| membership AUC by the likelihood ratio to retrained models (LiRA) |" in card
    # again, it is finished, and a report from before there were references is read
    assert "holds this run, finished" in command("run", {**settings, "output_dir": str(out)}, "--with_retrained")[1]
    values = json.loads((out / "unlearning_report.json").read_text())
    values.pop("references")
    (out / "unlearning_report.json").write_text(json.dumps(values))
    assert UnlearningReport.load(out / "unlearning_report.json") == replace(report, references={})


def test_a_retrained_model_is_no_reference_for_itself(
    settings: dict[str, Any], trained: tuple[Path, str], tmp_path: Path, command: Command
) -> None:
    out = shutil.copytree(trained[0], tmp_path / "out")
    shutil.rmtree(out / "references" / "retrained-seed5")
    assert command("run", {**settings, "output_dir": str(out)}, "--with_retrained")[0] == 0
    arms = UnlearningReport.load(out / "unlearning_report.json").arms
    assert {arm: "lira" in entry.attacks for arm, entry in arms.items()} == {
        "original": True,
        "unlearned": True,
        "retrained": False,
    }, "one of the two is left to compare the retrained model with"
    row = next(line for line in (out / "README.md").read_text().splitlines() if "(LiRA)" in line)
    assert row.endswith("|  |")


def test_what_belongs_to_another_run_is_left_out_and_said_so(
    settings: dict[str, Any], trained: tuple[Path, str], tmp_path: Path, command: Command
) -> None:
    out = shutil.copytree(trained[0], tmp_path / "out")
    code, said, err = command("run", {**settings, "output_dir": str(out), "method": "fine_tune"})
    assert code == 0, err
    assert "4 models in" in said
    assert "belong to other settings and are left out." in said
    assert list(UnlearningReport.load(out / "unlearning_report.json").references) == ["retrained"]
    # One that is not finished is none.
    shutil.rmtree(out / "references" / "retrained-seed4")
    (out / "references" / "retrained-seed5" / "training_record.json").unlink()
    for path in out.iterdir():
        if path.name != "references":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert command("run", {**settings, "output_dir": str(out), "method": "fine_tune"})[0] == 0
    report = UnlearningReport.load(out / "unlearning_report.json")
    assert report.references["retrained"].seeds == [3]
    assert report.references["retrained"].aucs["loss"].deviation is None
    assert "lira" not in report.arms["unlearned"].attacks, "one model shows no variance"


@pytest.mark.slow
def test_references_of_another_folder_are_named(
    settings: dict[str, Any], trained: tuple[Path, str], tmp_path: Path, command: Command
) -> None:
    flags = ("--references", str(trained[0] / "references"))
    reports = []
    for name, more in (("run", {}), ("evaluate", {"original_model": settings["model_name_or_path"]})):
        out = tmp_path / name
        model = str(tmp_path / "run") if name == "evaluate" else settings["model_name_or_path"]
        values = {**settings, **more, "model_name_or_path": model, "output_dir": str(out)}
        code, said, err = command(name, values, *flags)
        assert code == 0, err
        assert "The references, which never saw S" in said
        reports.append(UnlearningReport.load(out / "unlearning_report.json"))
    assert reports[0].references["retrained"].losses == pytest.approx(reports[1].references["retrained"].losses)
    for arm in ("original", "unlearned"):
        for attack in ("lira", "rmia"):
            of_run, of_evaluation = (report.arms[arm].attacks[attack].auc for report in reports)
            assert of_run == pytest.approx(of_evaluation), (arm, attack)
    assert "retrained" not in reports[0].arms


@pytest.mark.parametrize("name", ["run", "evaluate"])
@pytest.mark.parametrize(
    ("more", "flag", "message"),
    [
        (
            {"forget_rows": [0, 1, 2]},
            "HERE",
            "was trained for another request or on other data, so it may have seen records to forget",
        ),
        ({}, "HERE/retrained-seed3", "There are no trained references in"),
        ({}, "HERE/nowhere", "There are no trained references in"),
    ],
)
def test_references_that_do_not_fit_are_refused_before_anything_is_loaded(
    settings: dict[str, Any],
    trained: tuple[Path, str],
    tmp_path: Path,
    command: Command,
    name: str,
    more: dict[str, Any],
    flag: str,
    message: str,
) -> None:
    model = tmp_path / "original"
    shutil.copytree(settings["model_name_or_path"], model, ignore=shutil.ignore_patterns("*.safetensors"))
    values = {**settings, **more, "model_name_or_path": str(model), "output_dir": str(tmp_path / "out")}
    folder = flag.replace("HERE", str(trained[0] / "references"))
    code, _, err = command(name, values, "--references", folder)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_reference_that_does_something_else_is_refused(
    settings: dict[str, Any], trained: tuple[Path, str], lm_base: Path, tmp_path: Path, command: Command
) -> None:
    references = shutil.copytree(trained[0] / "references", tmp_path / "references")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(lm_base / name, references / "retrained-seed4" / name)
    code, _, err = command("run", {**settings, "output_dir": str(tmp_path / "out")}, "--references", str(references))
    assert code == 2
    assert "text-classification" in err
    (references / "retrained-seed4" / "run.json").write_text("{")
    code, _, err = command("run", {**settings, "output_dir": str(tmp_path / "out")}, "--references", str(references))
    assert code == 2
    assert "run.json cannot be read" in err


def test_a_card_without_references_says_nothing_of_them() -> None:
    from ..publishing.test_card import example_report

    report = example_report("text-generation", "not_distinguished")
    assert not report.references
    assert "Models to compare with" not in render_card(report, "model")


def test_the_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["references", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for told in (
        "each with a seed of its own",
        "a lower bound of epsilon",
        "conditional on it",
        "--delta",
        "--arms",
    ):
        assert told in said
    assert "{retrained,retrained_unlearned,same_budget,unlearned}" in said
