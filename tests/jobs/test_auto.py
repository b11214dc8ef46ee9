"""``--method auto``: which road it takes, and what it says of it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import InputError, UnlearningConfig, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.models.training_record import RECORD_FILE
from hf_unlearn.publishing.card import rendered_card
from hf_unlearn.training.fitted import APPROXIMATE

from ..conftest import secrets_rows, write_rows
from ..training.test_trainer import trainer
from .test_jobs import leaks, texts_in

pytestmark = pytest.mark.usefixtures("pictures_left_blank")


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


def test_the_exact_road_is_taken_where_a_base_is_known(many: dict[str, Any], command: Any, tmp_path: Path) -> None:
    report, said = command(many, tmp_path / "out", "--budget", "0.25")
    assert report.verdict.word == "exact"
    assert (report.method.name, report.road.taken, report.base_is_clean) == ("base", "exact", "unchecked")
    assert not report.road.trials, "there is one training"
    assert report.cost is not None
    assert report.cost.training_ratio == pytest.approx(0.25, abs=0.03)
    assert "What it will cost" in said
    assert said.index("is fine-tuned on the retained records, which is exact") < said.index("What it will cost")
    assert "Chosen: exact" in said
    card = rendered_card(tmp_path / "out", report)
    assert "Kind of unlearning: exact. The base model lm\\_base is known, so it is fine-tuned on the retained" in card
    assert "--budget 0.25" in card
    assert not (tmp_path / "out" / "trials").exists()
    # no text of S, no id
    for path, text in {**texts_in(tmp_path / "out"), Path("stdout"): said}.items():
        assert not leaks(text, secrets_rows()[:30], ["prompt", "completion"], length=12), path
        assert not re.search(r"p-0[0-2]\d", text), path
    # the same command shows it
    again, said = command(many, tmp_path / "out", "--budget", "0.25")
    assert "holds this run, finished" in said
    assert again == report


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
    assert (report.road.taken, report.method.name, report.method.alpha) == ("approximate", APPROXIMATE, 0.6)
    assert report.base_is_clean is None
    assert not report.road.trials
    assert "--base_model_name_or_path names one and opens the exact way" in said
    assert re.search(r"--method retrain, for about [\d.]+ minutes", said)
    assert said.index("opens the exact way") < said.index("What it will cost")
    err = refused(settings, recipe, capsys, tmp_path / "no", "--use_peft", "true")
    assert "No base model is known (--base_model_name_or_path names one), and an approximate way moves the" in err
    assert "nobody names" in refused(settings, recipe, capsys, tmp_path / "no", "--base_is_clean", "true")


def test_an_adapter_goes_the_same_roads(
    many: dict[str, Any], lm_settings: dict[str, Any], command: Any, tmp_path: Path, recipe: Any
) -> None:
    adapter = tmp_path / "adapter"
    original = {**lm_settings["original"], "use_peft": True, "lora_r": 4, "output_dir": str(adapter)}
    assert main(["train", "--config", str(recipe(**{**lm_settings, "original": original, "max_steps": 20}))]) == 0
    report, _ = command({**many, "model_name_or_path": str(adapter)}, tmp_path / "out", "--budget", "0.25")
    assert (report.road.taken, report.verdict.word, report.base_is_clean) == ("exact", "exact", "unchecked")
    assert report.method.adapter_of == report.base
    assert report.cost is not None
    assert report.cost.training_ratio == pytest.approx(0.25, abs=0.03)


def test_a_new_adapter_has_the_exact_road_alone(many: dict[str, Any], command: Any, tmp_path: Path) -> None:
    flags = ("--use_peft", "true", "--lora_r", "2", "--budget", "0.02")
    report, _ = command(many, tmp_path / "out", *flags)
    assert (report.road.taken, report.verdict.word) == ("exact", "exact")
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
    with pytest.raises(InputError, match=r"'dial' trains several times, and this trains once; .* hf_unlearn.jobs.run"):
        trainer(tmp_path, str(lm_original), method="dial")
    assert UnlearningConfig(str(tmp_path)).method == "auto"
    # Paraphrases are for methods that train on S, which this one does not.
    assert trainer(tmp_path, str(lm_original), method="auto", paraphrase_column="nowhere").way is not None
    flags = ("--output_dir", str(tmp_path / "out"), "--arms", "retrained", "unlearned")
    assert main(["references", "--config", str(recipe(**many)), *flags]) == 2
    assert "The arms unlearned repeat one method, and 'auto' chooses it in the run" in capsys.readouterr().err
