"""Reference models: each arm and seed once, resumed to the same bits, from settings that cannot be mixed up."""

import contextlib
import io
import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

from hf_unlearn import UnlearningReport, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.evaluation.statistics import membership_auc
from hf_unlearn.models.training_record import RECORD_FILE

from ..support.draws import few_of
from ..training.test_processes import LAUNCH, ROOT, launched
from .test_jobs import texts_in

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

CLEAN = ("retrained", "retrained_unlearned", "same_budget")
ARMS = (*CLEAN, "unlearned")
FLAGS = ("--seeds", "2", "--arms", *ARMS)


@pytest.fixture(scope="module")
def original(lm_original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny language model with a record of a shorter training, which is soon repeated."""
    folder = tmp_path_factory.mktemp("original")
    shutil.copytree(lm_original, folder, ignore=shutil.ignore_patterns("checkpoint-*"), dirs_exist_ok=True)
    record = json.loads((folder / RECORD_FILE).read_text())
    (folder / RECORD_FILE).write_text(json.dumps({**record, "epochs": 10.0, "asked_epochs": 10.0, "steps": 50}))
    return folder


@pytest.fixture(scope="module")
def settings(lm_settings: dict[str, Any], original: Path) -> dict[str, Any]:
    """A run of the tiny language model."""
    model = {"model_name_or_path": str(original)}
    return {**lm_settings, **model, "method": "toward_base", "use_cpu": True, "save_steps": 15}


@pytest.fixture(scope="module")
def trained(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of a run of which only the references are there, not to be changed, and what was said."""
    folder = tmp_path_factory.mktemp("references")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(
            ["references", "--config", str(folder / "recipe.yaml"), *FLAGS, "--output_dir", str(folder / "out")]
        )
    assert code == 0
    return folder / "out", said.getvalue()


def tables(folder: Path) -> dict[str, np.ndarray]:
    found = pq.read_table(next((folder / "tables").glob("*.parquet"))).to_pandas()
    return {name: part["loss"].to_numpy() for name, part in found.groupby("set")}


def test_references_do_not_know_what_the_original_knows(
    trained: tuple[Path, str], settings: dict[str, Any], tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    folder, said = trained
    names = {f"{arm}-seed{seed}" for arm in ARMS for seed in (3, 4)}
    assert {path.name for path in (folder / "references").iterdir()} == {*names, "references.json"}
    for arm in ARMS:
        losses = [tables(folder / "references" / f"{arm}-seed{seed}") for seed in (3, 4)]
        aucs = [membership_auc(sets["forget"], sets["holdout"]).value for sets in losses]
        assert all(0.1 < auc < 0.9 for auc in aucs) or arm not in CLEAN, arm
        line = re.findall(rf"^ +{arm} +(.+)$", said, re.MULTILINE)[-1].split()
        means = [np.mean([sets[name].mean() for sets in losses]) for name in ("forget", "holdout")]
        shown = [np.mean(aucs), np.std(aucs, ddof=1), min(aucs), max(aucs), *means]
        assert line == ["2", *(f"{v:.2f}" for v in shown[:3]), "to", *(f"{v:.2f}" for v in shown[3:])]
        assert losses[0].keys() == {"forget", "holdout", "retained"}
        assert (len(losses[0]["forget"]), len(losses[0]["retained"])) == (10, 40)
    # the run finds its reference there, scores it on the same records, and trains none
    shutil.copytree(folder, tmp_path / "out")
    weights = tmp_path / "out" / "references" / "retrained-seed3" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    config = recipe(**{**settings, "output_dir": str(tmp_path / "out"), "max_steps": 2})
    assert main(["run", "--config", str(config), "--with_retrained"]) == 0
    assert weights.stat().st_mtime_ns == before
    report = UnlearningReport.load(tmp_path / "out" / "unlearning_report.json")
    original, retrained = (report.arms[arm].membership_auc for arm in ("original", "retrained"))
    assert original is not None
    assert retrained is not None
    assert original.value > 0.95
    sets = tables(folder / "references" / "retrained-seed3")
    assert retrained.value == pytest.approx(membership_auc(sets["forget"], sets["holdout"]).value, abs=1e-6)


def test_each_reference_is_trained_as_its_arm_says(trained: tuple[Path, str], original: Path, lm_base: Path) -> None:
    told = json.loads((original / RECORD_FILE).read_text())
    weights = {}
    for path in (trained[0] / "references").glob("*-seed*"):
        record = json.loads((path / RECORD_FILE).read_text())
        weights[path.name] = load_file(path / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
        if path.name.startswith("unlearned"):
            assert record == told, "it says how its original was trained"
            continue
        assert record["base_model"] == str(lm_base)
        assert record["dataset"]["rows"] == 40
        assert record["epochs"] == told["epochs"] * (0.25 if path.name.startswith("same_budget") else 1)
        assert record["seed"] == int(path.name[-1])
        fitted = ("per_device_train_batch_size", "warmup_steps", "learning_rate")
        differ = {name for name, value in record["settings"].items() if value != told["settings"][name]}
        assert differ == (set(fitted) if path.name.startswith("same_budget") else set())
        assert not list(path.glob("checkpoint-*"))
    assert len({tuple(weight.flatten().tolist()) for weight in weights.values()}) == 8


def test_the_same_unlearning_that_the_run_does_starts_at_the_retrained_model(
    settings: dict[str, Any], trained: tuple[Path, str], tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    """R1 is what `run` makes of R0 when R0 is taken for the original."""
    reference = trained[0] / "references" / "retrained-seed4"
    config = recipe(**{**settings, "model_name_or_path": str(reference), "seed": 4})
    assert main(["run", "--config", str(config), "--output_dir", str(tmp_path / "out")]) == 0
    same = trained[0] / "references" / "retrained_unlearned-seed4" / "model.safetensors"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == same.read_bytes()


def test_the_run_repeated_with_its_own_seed_gives_the_same_bits(
    settings: dict[str, Any], trained: tuple[Path, str], tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    assert main(["run", "--config", str(recipe(**settings)), "--output_dir", str(tmp_path / "out")]) == 0
    same = trained[0] / "references" / "unlearned-seed3" / "model.safetensors"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == same.read_bytes()


@pytest.mark.slow
def test_killed_in_any_arm_the_same_command_gives_the_same_bits(
    settings: dict[str, Any], tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    command = ("references", "--config", str(recipe(**settings)), "--seeds", "1", *FLAGS[2:])
    done = launched(str(ROOT / "tests" / "support" / "killed.py"), str(tmp_path), "random:5", *command)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = int(re.findall(r"killed in (\d+) folders", done.stdout)[0])
    for i in range(folders):
        for path in (tmp_path / "whole" / "references").glob("*-seed*"):
            twin = tmp_path / str(i) / "references" / path.name
            assert (twin / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes(), path.name
            assert {file.name for file in twin.iterdir()} == {file.name for file in path.iterdir()}


@pytest.mark.parametrize(
    ("arm", "step"), few_of([("retrained", 25), ("retrained_unlearned", 5), ("unlearned", 5)], {("retrained", 25)})
)
def test_interrupted_the_same_command_goes_on_where_it_was(
    settings: dict[str, Any],
    trained: tuple[Path, str],
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arm: str,
    step: int,
) -> None:
    flags = ["--config", str(recipe(**settings)), "--output_dir", str(tmp_path / "out"), "--seeds", "1", "--arms", arm]
    taken: Counter[str] = Counter()
    training_step = UnlearningTrainer.training_step

    def interrupted(trainer: UnlearningTrainer, *args: Any, **kwargs: Any) -> Any:
        name = trainer.args.folder.name
        taken[name] += 1
        if (name, taken[name]) == (f"{arm}-seed3", step):
            signal.raise_signal(signal.SIGTERM)
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(UnlearningTrainer, "training_step", interrupted)
    assert main(["references", *flags]) == 130
    assert "The same command goes on from the last checkpoint" in capsys.readouterr().err
    assert main(["references", *flags]) == 0
    steps = {"retrained-seed3": 40, "retrained_unlearned-seed3": 25, "unlearned-seed3": 25}
    assert taken == {name: steps[name] for name in taken}
    for name in taken:
        made, whole = (folder / "references" / name / "model.safetensors" for folder in (tmp_path / "out", trained[0]))
        assert made.read_bytes() == whole.read_bytes()


def test_what_is_trained_is_not_trained_again_and_what_differs_is_refused(
    settings: dict[str, Any],
    trained: tuple[Path, str],
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = shutil.copytree(trained[0], tmp_path / "out")
    steps: list[str] = []
    training_step = UnlearningTrainer.training_step

    def counted(trainer: UnlearningTrainer, *args: Any, **kwargs: Any) -> Any:
        steps.append(trainer.args.folder.name)
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(UnlearningTrainer, "training_step", counted)

    def references(*flags: str, **more: Any) -> tuple[int, str]:
        config = str(recipe(**{**settings, "output_dir": str(out), **more}))
        capsys.readouterr()
        return main(["references", "--config", config, *flags]), capsys.readouterr().err

    assert references(*FLAGS)[0] == 0
    assert not steps
    # one seed more
    assert references("--seeds", "3", "--arms", "same_budget")[0] == 0
    assert set(steps) == {"same_budget-seed5"}
    steps.clear()
    for more, flags, named in (
        ({"method": "fine_tune"}, FLAGS, "method"),
        ({"method": "fine_tune"}, ("--seeds", "1"), None),
        ({"learning_rate": 1e-3}, FLAGS, "learning_rate"),
        ({"forget_rows": [20]}, ("--seeds", "1"), "split"),
        ({"dtype": "bfloat16"}, ("--seeds", "1"), "loading"),
    ):
        code, err = references(*flags, **more)
        assert code == (2 if named else 0), (more, err)
        if named:
            assert re.search(rf"holds a run with other settings \([\w, ]*{named}[\w, ]*\); name another", err), err
    # found before the first of them is trained
    (out / "references" / "retrained-seed6").mkdir()
    (out / "references" / "retrained-seed6" / "thesis.tex").write_text("important")
    code, err = references("--seeds", "4")
    assert code == 2
    assert "is not empty and holds no run" in err
    assert not steps


@pytest.mark.parametrize(
    ("record", "more", "flags", "message"),
    [
        (None, {}, (), "as training_record.json beside the model says, and there is none"),
        ({"base_model": None}, {}, (), "The original was trained from scratch"),
        ({}, {}, ("--seeds", "0"), "--seeds 0 is not possible"),
        ({}, {"seed": 2**32 - 2}, ("--seeds", "3"), "--seeds 3 is not possible"),
        ({}, {}, ("--arms", "retrain"), "Argument --arms: it must be one of"),
        ({}, {"stop_when_forgotten": True}, ("--arms", "same_budget"), "decide the price of the run"),
        ({}, {"stop_when_forgotten": True}, ("--arms", "unlearned"), "decide the price of the run"),
        (
            {},
            {"method": "npo"},
            FLAGS,
            "'npo' trains on the records to forget, which the arm retrained_unlearned must not see",
        ),
        ({}, {"max_length": 0}, (), "max_length=0 is not possible"),
        ({}, {}, ("--delta", "1"), "--delta 1.0 is not possible"),
        ({}, {"delta": float("nan")}, (), "--delta nan is not possible"),
        ({}, {"dataset_streaming": True, "max_steps": 2}, (), "leave --dataset_streaming out"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_loaded(
    settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    record: dict[str, Any] | None,
    more: dict[str, Any],
    flags: tuple[str, ...],
    message: str,
) -> None:
    # No weights: whoever loads the model fails otherwise.
    model = tmp_path / "original"
    shutil.copytree(lm_original, model, ignore=shutil.ignore_patterns("*.safetensors", "checkpoint-*", RECORD_FILE))
    if record is not None:
        told = json.loads((lm_original / RECORD_FILE).read_text())
        (model / RECORD_FILE).write_text(json.dumps({**told, **record}))
    out = tmp_path / "out"
    config = recipe(**{**settings, **more, "model_name_or_path": str(model), "output_dir": str(out)})
    assert main(["references", "--config", str(config), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_reference_lies_where_the_run_finds_it_and_leaks_nothing(trained: tuple[Path, str]) -> None:
    everything = {**texts_in(trained[0]), Path("stdout"): trained[1]}
    for path, text in everything.items():
        assert not re.search(r"p-0\d\d", text), path


def references(folder: Path, settings: dict[str, Any], recipe: Callable[..., Path]) -> dict[str, Path]:
    """One model of each arm, by arm."""
    config = recipe(**{**settings, "use_cpu": True, "output_dir": str(folder)})
    assert main(["references", "--config", str(config), "--seeds", "1", *FLAGS[2:]]) == 0
    return {arm: folder / "references" / f"{arm}-seed3" for arm in ARMS}


@pytest.mark.filterwarnings("error:The PEFT config")
def test_an_original_that_is_an_adapter_and_a_run_that_trains_one(
    lm_settings: dict[str, Any], lm_base: Path, tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    def adapter_on(folder: Path) -> str:
        return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]

    quick = {**lm_settings["original"], "num_train_epochs": 1}
    lora = {"use_peft": True, "lora_r": 4}
    for name, peft in (("adapter", lora), ("merged", {**lora, "merge_adapter": True}), ("full", {})):
        original = {**quick, **peft, "output_dir": str(tmp_path / name)}
        assert main(["train", "--config", str(recipe(**{**lm_settings, "original": original}))]) == 0
    settings = {**lm_settings, "model_name_or_path": str(tmp_path / "adapter"), "method": "toward_base"}
    for folder in references(tmp_path / "out1", settings, recipe).values():
        assert adapter_on(folder) == str(lm_base)
        assert json.loads((folder / RECORD_FILE).read_text())["peft"]["r"] == 4
    # An original that was merged has a retrained model that is merged.
    settings = {**lm_settings, "model_name_or_path": str(tmp_path / "merged")}
    folder = references(tmp_path / "out3", settings, recipe)["retrained"]
    assert (folder / "model.safetensors").is_file()
    assert json.loads((folder / RECORD_FILE).read_text())["peft"]["r"] == 4
    # What the run puts on top of the original is put on top of the retrained model, or of the base.
    settings = {**lm_settings, "model_name_or_path": str(tmp_path / "full"), "use_peft": True, "lora_r": 2}
    made = references(tmp_path / "out2", settings, recipe)
    assert (made["retrained"] / "model.safetensors").is_file()
    assert adapter_on(made["retrained_unlearned"]) == str(made["retrained"])
    assert adapter_on(made["same_budget"]) == str(lm_base)
    assert json.loads((made["same_budget"] / RECORD_FILE).read_text())["peft"]["r"] == 2


def test_references_of_a_classifier(
    classifier_settings: dict[str, Any], classifier_original: Path, tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    more = {"method": "shrink_perturb", "learning_rate": 1e-3, "budget": 0.5}
    made = references(tmp_path / "out", {**classifier_settings, **more}, recipe)
    records = {arm: json.loads((folder / RECORD_FILE).read_text()) for arm, folder in made.items()}
    assert {tuple(record["labels"]) for record in records.values()} == {("billing", "delivery", "other")}
    assert records["retrained"]["settings"]["learning_rate"] == 3e-3, "as the original"
    assert records["same_budget"]["settings"]["learning_rate"] == 1e-3, "as the run"
    assert (records["retrained"]["epochs"], records["same_budget"]["epochs"]) == (6, 3)
    weights = [load_file(folder / "model.safetensors")["classifier.weight"] for folder in made.values()]
    assert len({tuple(weight.flatten().tolist()) for weight in weights}) == 4


@pytest.mark.slow
def test_two_processes_train_references_together(
    settings: dict[str, Any], tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    config = recipe(**{**settings, "output_dir": str(tmp_path / "out"), "max_steps": 2})
    done = launched(*LAUNCH, "-m", "hf_unlearn.cli", "references", "--config", str(config), "--seeds", "1", *FLAGS[2:])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("The references, which never saw S") == 1
    folders = sorted((tmp_path / "out" / "references").glob("*-seed*"))
    assert [path.name for path in folders] == [f"{arm}-seed3" for arm in sorted(ARMS)]
    for path in folders:
        assert (len(tables(path)["forget"]), len(tables(path)["retained"])) == (10, 40)
        assert not [file for file in path.iterdir() if file.name.startswith(".") or file.suffix == ".part"]
