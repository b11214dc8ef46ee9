"""``--method auto``: which road it takes, what it says of it, and that nothing is lost on the way."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hf_unlearn import InputError, UnlearningConfig, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import CostEntry
from hf_unlearn.evaluation.statistics import Estimate
from hf_unlearn.evaluation.utility.comparison import Utility
from hf_unlearn.jobs import auto
from hf_unlearn.jobs.trials import total_cost
from hf_unlearn.models.training_record import RECORD_FILE
from hf_unlearn.publishing.card import rendered_card

from ..conftest import secrets_rows, write_rows
from ..training.test_processes import ROOT, launched
from ..training.test_trainer import trainer
from .test_jobs import leaks, texts_in


@pytest.fixture(scope="module")
def many(lm_settings: dict[str, Any], lm_original: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run of the tiny language model with 30 records of S, 50 of H and 20 of L, and no method."""
    data = write_rows(tmp_path_factory.mktemp("many") / "secrets.jsonl", secrets_rows(100))
    kept = {name: value for name, value in lm_settings.items() if name.endswith(("_path", "_size")) or name == "seed"}
    more = {"forget_rows": list(range(30)), "holdout_rows": list(range(50, 100)), "use_cpu": True}
    return {**kept, **more, "dataset_name": str(data), "disable_tqdm": True, "measure_steps": 0}


@pytest.fixture
def command(recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `hf-unlearn run` and returns the report and what was said."""

    def run(settings: dict[str, Any], folder: Path, *flags: str) -> tuple[UnlearningReport, str]:
        assert main(["run", "--config", str(recipe(**settings)), "--output_dir", str(folder), *flags]) == 0
        return UnlearningReport.load(folder / "unlearning_report.json"), capsys.readouterr().out

    return run


def refused(settings: dict[str, Any], recipe: Any, capsys: Any, folder: Path, *flags: str) -> str:
    assert main(["run", "--config", str(recipe(**settings)), "--output_dir", str(folder), *flags]) == 2
    assert not folder.exists()
    return capsys.readouterr().err


# The choice


def found(value: float, word: Any, margin: float = 0.05) -> Utility:
    return Utility("test", "original", "accuracy", Estimate(value, value - 0.1, value + 0.1, 40), margin, word)


def test_exactness_is_worth_more_than_what_few_records_show() -> None:
    assert auto.acceptable(found(0.0, "kept"))
    assert auto.acceptable(found(0.04, "undecided"))
    assert not auto.acceptable(found(0.06, "undecided"))
    assert not auto.acceptable(found(0.2, "lost"))
    assert auto.better(found(0.1, "lost"), found(0.2, "lost"))
    assert not auto.better(found(0.2, "lost"), found(0.2, "lost"))


def test_the_trials_count_in_the_cost() -> None:
    one = CostEntry(10.0, 2.0, 100, 4e9, 1e9, 5, 16e9, 0.25, 0.3125, 1.0)
    both = total_cost(one, [CostEntry(5.0, 1.0, 50, 2e9, 5e8, 9, None, None, None, 2.0)])
    assert both == CostEntry(15.0, 3.0, 150, 6e9, 1.5e9, 9, 16e9, 6 / 16, 7.5 / 16, 3.0)


def test_the_exact_road_is_taken_where_it_is_useful_enough(many: dict[str, Any], command: Any, tmp_path: Path) -> None:
    report, said = command(many, tmp_path / "out", "--utility_margin", "0.6")
    assert report.verdict.word == "exact"
    assert (report.method.name, report.road.taken, report.base_is_clean) == ("base", "exact", "unchecked")
    assert [(trial.name, trial.outcome) for trial in report.road.trials] == [("base", "taken")]
    trial = report.road.trials[0]
    assert trial.utility is not None
    assert (trial.utility.measured_on, trial.utility.compared_with) == ("holdout", "original")
    assert trial.membership_auc == report.arms["unlearned"].membership_auc
    assert report.cost is not None
    assert report.cost.training_ratio == pytest.approx(0.25, abs=0.03)
    assert "What it will cost" in said
    assert "Chosen: exact" in said
    card = rendered_card(tmp_path / "out", report)
    assert "Kind of unlearning: exact. The base model lm\\_base is known, so the exact way was tried first" in card
    assert "--method base" in card
    assert {path.name for path in (tmp_path / "out" / "trials" / "base").iterdir()} == {"run.json", "trial.json"}
    # no text of S, no id
    for path, text in {**texts_in(tmp_path / "out"), Path("stdout"): said}.items():
        assert not leaks(text, secrets_rows()[:30], ["prompt", "completion"], length=12), path
        assert not re.search(r"p-0[0-2]\d", text), path
    # the same command shows it
    again, said = command(many, tmp_path / "out", "--utility_margin", "0.6")
    assert "holds this run, finished" in said
    assert again == report


def test_the_approximate_road_is_taken_where_it_is_better_and_else_left(
    many: dict[str, Any], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, said = command(many, tmp_path / "better", "--budget", "0.1", "--utility_margin", "0.01")
    assert (report.road.taken, report.method.name, report.method.alpha) == ("approximate", auto.APPROXIMATE, 0.6)
    assert report.verdict.word != "exact"
    assert [trial.outcome for trial in report.road.trials] == ["left, for its utility", "taken"]
    assert report.cost is not None
    assert report.cost.training_ratio == pytest.approx(0.2, abs=0.03), "both were paid"
    assert report.cost.flops == sum(trial.cost.flops for trial in report.road.trials)
    assert "Chosen: approximate" in said
    assert "So the approximate way was tried, shrink_reheat." in said

    monkeypatch.setattr(auto, "APPROXIMATE", "reset_smallest")
    report, said = command(many, tmp_path / "worse", "--budget", "0.1", "--utility_margin", "0.01")
    assert (report.road.taken, report.method.name, report.verdict.word) == ("exact", "base", "exact")
    assert [trial.outcome.split(":")[0] for trial in report.road.trials] == ["taken", "left"]
    assert report.cost is not None
    # The other one has a teacher, whose forward passes are a third of a step.
    assert report.cost.training_ratio == pytest.approx(0.1 + 0.1 * 4 / 3, abs=0.03)
    assert "That is no better, so the exact way was taken." in said


def without_base(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("checkpoint-*", "run.json"))
    record = json.loads((folder / RECORD_FILE).read_text())
    (folder / RECORD_FILE).write_text(json.dumps({**record, "base_model": None}))
    return folder


def test_without_a_base_the_road_is_approximate(
    many: dict[str, Any], lm_original: Path, command: Any, tmp_path: Path, recipe: Any, capsys: Any
) -> None:
    settings = {**many, "model_name_or_path": str(without_base(lm_original, tmp_path / "scratch"))}
    report, said = command(settings, tmp_path / "out", "--budget", "0.05")
    assert (report.road.taken, report.method.name, report.method.alpha) == ("approximate", auto.APPROXIMATE, 0.6)
    assert report.base_is_clean is None
    assert not report.road.trials
    assert "Recommended: shrink_reheat, as no base model is known" in said
    assert "only an approximate way is open" in said
    err = refused(settings, recipe, capsys, tmp_path / "no", "--use_peft", "true")
    assert "No base model is known, and an approximate way moves the weights under the new adapter" in err
    assert "nobody names" in refused(settings, recipe, capsys, tmp_path / "no", "--base_is_clean", "true")


def test_an_adapter_goes_the_same_roads(
    many: dict[str, Any], lm_settings: dict[str, Any], command: Any, tmp_path: Path, recipe: Any
) -> None:
    adapter = tmp_path / "adapter"
    original = {**lm_settings["original"], "use_peft": True, "lora_r": 4, "output_dir": str(adapter)}
    assert main(["train", "--config", str(recipe(**{**lm_settings, "original": original, "max_steps": 20}))]) == 0
    report, _ = command({**many, "model_name_or_path": str(adapter)}, tmp_path / "out", "--utility_margin", "0.6")
    assert (report.road.taken, report.verdict.word, report.base_is_clean) == ("exact", "exact", "unchecked")
    assert report.method.adapter_of == report.base
    assert report.cost is not None
    assert report.cost.training_ratio == pytest.approx(0.25, abs=0.03)


def test_a_new_adapter_has_the_exact_road_alone(many: dict[str, Any], command: Any, tmp_path: Path) -> None:
    flags = ("--use_peft", "true", "--lora_r", "2", "--budget", "0.02", "--utility_margin", "0.01")
    report, _ = command(many, tmp_path / "out", *flags)
    assert (report.road.taken, report.verdict.word) == ("exact", "exact")
    assert "It was taken all the same" in report.road.reasons[1]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--alpha", "0.5"), "'auto' chooses the method and its alpha; leave alpha out, or name one"),
        (("--stop_when_forgotten", "true"), "'auto' and stop_when_forgotten do not go together"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    many: dict[str, Any], recipe: Any, capsys: Any, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    assert message in refused(many, recipe, capsys, tmp_path / "out", *flags)


def test_a_trainer_trains_one_method(lm_original: Path, tmp_path: Path, recipe: Any, many: Any, capsys: Any) -> None:
    with pytest.raises(InputError, match=r"'auto' chooses among methods, and this trains one; .* hf_unlearn.jobs.run"):
        trainer(tmp_path, str(lm_original), method="auto")
    assert UnlearningConfig(str(tmp_path)).method == "fine_tune"
    flags = ("--output_dir", str(tmp_path / "out"), "--arms", "retrained", "unlearned")
    assert main(["references", "--config", str(recipe(**many)), *flags]) == 2
    assert "The arms unlearned repeat one method, and 'auto' chooses it in the run" in capsys.readouterr().err


# Interrupted, and by two processes


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_gives_the_same_weights(
    many: dict[str, Any], tmp_path: Path, recipe: Any
) -> None:
    settings = {**many, "budget": 0.1, "utility_margin": 0.01, "save_steps": 2}
    flags = ("random:5", "run", "--config", str(recipe(**settings)))
    done = launched(str(ROOT / "tests" / "support" / "killed.py"), str(tmp_path), *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = UnlearningReport.load(tmp_path / "whole" / "unlearning_report.json")
    assert len(whole.road.trials) == 2
    for i in range(int(re.findall(r"killed in (\d+) folders", done.stdout)[0])):
        folder = tmp_path / str(i)
        assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
        weights, expected = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "whole"))
        assert all(weights[name].equal(expected[name]) for name in expected)
        report = UnlearningReport.load(folder / "unlearning_report.json")
        assert report.cost is not None
        assert whole.cost is not None
        assert (report.cost.flops, report.cost.tokens) == (whole.cost.flops, whole.cost.tokens)
        assert [trial.outcome for trial in report.road.trials] == [trial.outcome for trial in whole.road.trials]
        assert not list((folder / "trials").glob("*/checkpoint-*"))
