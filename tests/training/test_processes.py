"""Several processes: the same result as one, each record counted once, one writer."""

import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file

from hf_unlearn import UnlearningReport
from hf_unlearn.training.first_use_of_rows import FIRST_USE_FILE, NEVER

from ..conftest import note_rows, secrets_rows, tagged_rows, write_rows

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "recipes" / "accelerate" / "cpu_2_processes.yaml"
LAUNCH = ["-m", "accelerate.commands.launch", "--config_file", str(LAUNCHER)]
RUNS = [
    "fine_tune", "toward_base", "shrink_perturb", "base", "new_adapter", "adapter_toward_base", "adapter_base",
    "classifier", "tagger", "masked", "pairs", "pruned", "noisy", "penalised", "distilled", "entropies", "cycled",
    "uneven", "uneven_classes", "uneven_pairs", "npo", "altpo", "kl_ascent", "pdu", "rmu", "gradient_difference",
    "salun", "scrub",
]  # fmt: skip


def launched(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with this repository on its path, one thread a process."""
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=variables, cwd=ROOT)


@pytest.fixture(scope="module")
def outputs(
    lm_base: Path,
    lm_original: Path,
    classifier_original: Path,
    wordpiece_base: Path,
    seq2seq_base: Path,
    lm_settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """What one process and two have made of the same runs, by their number in words."""
    from hf_unlearn.cli import main

    folder = tmp_path_factory.mktemp("processes")
    original = {**lm_settings["original"], "use_peft": True, "lora_r": 4, "output_dir": str(folder / "adapter")}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**lm_settings, "original": original}))
    assert main(["train", "--config", str(recipe)]) == 0
    for name, task, base, rows in (
        ("tagger", "token-classification", wordpiece_base, tagged_rows()),
        ("masked", "fill-mask", wordpiece_base, note_rows()),
        ("pairs", "text2text-generation", seq2seq_base, secrets_rows()),
    ):
        data = write_rows(folder / f"{name}.jsonl", rows)
        flags = ["--model_name_or_path", str(base), "--task", task, "--dataset_name", str(data), "--max_steps", "20"]
        assert main(["train", *flags, "--learning_rate", "5e-3", "--output_dir", str(folder / name)]) == 0
    models = [str(lm_original), str(classifier_original)]
    models += [str(folder / name) for name in ("adapter", "tagger", "masked", "pairs")]
    models.append(str(lm_base))

    def compared(name: str, launch: list[str]) -> subprocess.CompletedProcess[str]:
        script, home = str(ROOT / "tests" / "support" / "two_processes.py"), str(folder / f"{name}_home")
        return launched(*launch, script, *models, str(folder / name), HF_HOME=home)

    with ThreadPoolExecutor() as pool:
        for done in pool.map(compared, ("one", "two"), ([], LAUNCH)):
            assert done.returncode == 0, done.stderr[-3000:]
    return {name: folder / name for name in ("one", "two")}


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_start_is_the_same_on_two_processes(outputs: dict[str, Path], name: str) -> None:
    one, two = (weights(folder, f"{name}.start") for folder in outputs.values())
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_two_processes_make_up_the_same_answers(outputs: dict[str, Path]) -> None:
    one, two = ((folder / "alternates.jsonl").read_text() for folder in outputs.values())
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_does(outputs: dict[str, Path], name: str) -> None:
    one, two = (weights(folder, f"{name}.final") for folder in outputs.values())
    start = weights(outputs["one"], f"{name}.start")
    norm = torch.linalg.vector_norm
    for key in one:
        assert norm(one[key] - two[key]) <= 1e-4 * norm(one[key]), key
    moved = sum(norm(one[key] - start[key]) ** 2 for key in one) ** 0.5
    apart = sum(norm(one[key] - two[key]) ** 2 for key in one) ** 0.5
    assert 0 < apart <= 1e-3 * moved


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("arm", ["original", "unlearned"])
def test_two_processes_score_each_record_once(outputs: dict[str, Path], name: str, arm: str) -> None:
    one, two = (pq.read_table(folder / name / "tables" / f"{arm}.parquet").to_pydict() for folder in outputs.values())
    assert one["row"] == two["row"]
    assert one["set"] == two["set"]
    assert one["tokens"] == two["tokens"]
    assert two["nll"] == pytest.approx(one["nll"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_measure_and_count_as_one_does(outputs: dict[str, Path], name: str) -> None:
    one, two = (UnlearningReport.load(folder / name / "unlearning_report.json") for folder in outputs.values())
    assert (one.hardware["processes"], two.hardware["processes"]) == ("1", "2")
    assert one.verdict.word == two.verdict.word
    assert [point.step for point in one.curve] == [point.step for point in two.curve] == [2, 4]
    for a, b in zip(one.curve, two.curve, strict=True):
        assert b.forget_loss == pytest.approx(a.forget_loss, rel=1e-3)
        assert b.membership_auc == pytest.approx(a.membership_auc, abs=0.02)
    assert one.cost is not None
    assert two.cost is not None
    assert two.cost.tokens == one.cost.tokens
    assert two.cost.measuring_flops == one.cost.measuring_flops
    # Each process pads its own batches, and finds SalUn's mask for itself.
    assert two.cost.flops == pytest.approx(one.cost.flops, rel=0.3 if name == "salun" else 0.1)


@pytest.mark.slow
def test_two_processes_find_the_same_dual_variable(outputs: dict[str, Path]) -> None:
    one, *two = (
        json.loads((outputs[name] / f"dual-{process}.json").read_text())
        for name, process in (("one", 0), ("two", 0), ("two", 1))
    )
    assert two[0] == two[1]
    assert two[0] == pytest.approx(one, rel=1e-4)
    assert one != 1


@pytest.mark.slow
def test_two_processes_write_on_from_the_records_as_one_does(outputs: dict[str, Path]) -> None:
    one, two = (
        UnlearningReport.load(folder / "fine_tune" / "unlearning_report.json").arms for folder in outputs.values()
    )
    assert one["original"].generation["forget"].records == 5
    assert {arm: entry.generation for arm, entry in two.items()} == {arm: e.generation for arm, e in one.items()}


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["original", "unlearned"])
def test_two_processes_find_the_same_gradients(outputs: dict[str, Path], arm: str) -> None:
    one, two = (pq.read_table(folder / "pairs" / "tables" / f"{arm}.parquet") for folder in outputs.values())
    norms, again = (table["gradient_norm"].drop_null().to_pylist() for table in (one, two))
    assert len(norms) == 20, "of S and H"
    assert again == pytest.approx(norms, rel=1e-3)


@pytest.mark.slow
def test_every_process_has_the_tables_that_one_has_read(outputs: dict[str, Path]) -> None:
    one = json.loads((outputs["one"] / "kept-0.json").read_text())
    two = [json.loads((outputs["two"] / f"kept-{process}.json").read_text()) for process in (0, 1)]
    assert one[:2] == two[0][:2] == [0, 0], "the run has scored the original"
    assert two[0] == two[1]
    assert two[0][2] == pytest.approx(one[2], rel=1e-5)


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(outputs: dict[str, Path]) -> None:
    one, two = (json.loads((folder / "stopped.json").read_text()) for folder in outputs.values())
    assert one["step"] == two["step"] < 6
    assert one["stopped"]["reason"].startswith("forgotten")
    assert one["watched"]["steps"] == [1, 2, 3, 4, 5]
    for name in ("stopped", "watched"):
        assert one[name]["steps"] == two[name]["steps"]
        assert two[name]["gaps"] == pytest.approx(one[name]["gaps"], abs=0.02)


@pytest.mark.slow
def test_two_processes_note_together_when_each_row_was_first_used(outputs: dict[str, Path]) -> None:
    for step in (4, 8):
        one, two = (
            load_numpy(folder / "plain" / f"checkpoint-{step}" / FIRST_USE_FILE)["steps"]
            for folder in outputs.values()
        )
        assert (one == two).all()
        assert (np.sort(one)[: step * 8] == np.arange(60)[: step * 8] // 8 + 1).all()
        assert (np.sort(one)[step * 8 :] == NEVER).all()


@pytest.mark.slow
def test_sharded_weights_are_scored_as_whole_ones_are(outputs: dict[str, Path]) -> None:
    table = pq.read_table(outputs["two"] / "fine_tune" / "tables" / "unlearned.parquet").to_pylist()
    whole = [row["nll"] for row in table if row["set"] == "forget"]
    assert pq.read_table(outputs["two"] / "sharded.parquet")["nll"].to_pylist() == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_what_is_done_between_the_steps_is_done_to_sharded_weights_too(outputs: dict[str, Path]) -> None:
    one, two = (weights(folder, "rules") for folder in outputs.values())
    assert one.keys() == two.keys()
    for key, values in one.items():
        torch.testing.assert_close(values, two[key], rtol=1e-5, atol=1e-6, msg=key)
    pruned = one["1.model.layers.0.mlp.up_proj.weight"]
    assert 0.5 < float((pruned == 0).float().mean()) < 0.9
    assert torch.equal(pruned == 0, two["1.model.layers.0.mlp.up_proj.weight"] == 0)
    assert not torch.equal(one["1.lm_head.weight"], one["0.lm_head.weight"])
    assert any(not torch.equal(values, one[f"1.{key[4:]}"]) for key, values in one.items() if key.startswith("end."))


@pytest.mark.slow
def test_a_teacher_is_sharded_with_the_model_that_it_teaches(outputs: dict[str, Path]) -> None:
    """Open-unlearning holds a whole copy on every process."""
    for process in (0, 1):
        found = json.loads((outputs["two"] / f"teacher-{process}.json").read_text())
        for held, size, same, after in found.values():
            assert held == pytest.approx(size / 2, rel=0.01)
            assert same
            assert after, "the trained model is whole until it is sharded itself"


def run_flags(settings: dict[str, Any], recipe: Any, folder: Path) -> list[str]:
    path = recipe(**{**settings, "method": "base", "use_cpu": True, "output_dir": str(folder)})
    return ["-m", "hf_unlearn.cli", "run", "--config", str(path), "--max_steps", "3"]


def test_two_processes_prepare_and_write_once(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Any
) -> None:
    prepared = {}
    for name, launch in (("one", []), ("two", LAUNCH)):
        home, folder = tmp_path / f"{name}_home", tmp_path / name
        # The first use of a machine: both processes look for the digest key and the cache of the data.
        places = {"HF_HOME": str(home), "XDG_CONFIG_HOME": str(home / "settings")}
        done = launched(*launch, *run_flags(lm_settings, recipe, folder), **places)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Verdict: exact") == 1
        assert done.stdout.count("rows to forget (S)") == 1
        keys = home / "settings" / "hf_unlearn"
        assert (keys / "digest.key").stat().st_size == 64
        # The locks stay, so that two runs never hold different files.
        locks = {".digest.key.lock", ".digest.key.attempts.lock"}
        assert {path.name for path in keys.glob(".*")} == locks
        prepared[name] = sorted(path.stat().st_size for path in home.rglob("*.arrow"))
        assert not [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
        report = UnlearningReport.load(folder / "unlearning_report.json")
        assert report.hardware["processes"] == ("2" if name == "two" else "1")
    assert prepared["one"] == prepared["two"]
    assert len(prepared["one"]) >= 4, "D, and the tokenised L, S and H"


@pytest.mark.slow
def test_an_error_is_told_once(lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Any) -> None:
    flags = run_flags({**lm_settings, "forget_id_column": "name"}, recipe, tmp_path / "out")
    done = launched(*LAUNCH, *flags)
    assert done.returncode != 0
    assert done.stderr.count("hf-unlearn run: The data set has no column 'name'") == 1
    assert not (tmp_path / "out").exists()


def test_processes_that_would_each_run_alone_are_refused(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Any
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is an accelerator for them")
    launcher = ROOT / "recipes" / "accelerate" / "multi_gpu.yaml"
    flags = run_flags({**lm_settings, "use_cpu": False}, recipe, tmp_path / "out")
    done = launched("-m", "accelerate.commands.launch", "--config_file", str(launcher), *flags[:-2], "--use_cpu=false")
    assert done.returncode != 0
    assert "2 processes were launched and there is no accelerator for them" in done.stderr
    assert not (tmp_path / "out").exists()


def without_gpu(name: str, folder: Path) -> Path:
    """A DeepSpeed launcher for CPU processes; bf16 is for GPUs."""
    launcher = yaml.safe_load((ROOT / "recipes" / "accelerate" / f"{name}.yaml").read_text())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**launcher, "mixed_precision": "no"}))
    return path


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed: pip install deepspeed"
)


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("lora", [False, True])
def test_deepspeed_gives_the_weights_of_data_parallelism(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Any, lora: bool
) -> None:
    found = {}
    for name in ("cpu_2_processes", "deepspeed_zero2", "deepspeed_zero3"):
        flags = run_flags({**lm_settings, "use_peft": lora}, recipe, tmp_path / name)
        flags += ["--save_steps", "2"]
        path = LAUNCHER
        if name != "cpu_2_processes":
            path = without_gpu(name, tmp_path)
            flags += ["--use_cpu=false", "--ddp_backend=gloo"]
        done = launched(*LAUNCH[:-1], str(path), *flags, DS_ACCELERATOR="cpu")
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("Verdict: exact") == 1
        found[name] = load_file(next((tmp_path / name).glob("*model.safetensors")))
    for sharded in (found["deepspeed_zero2"], found["deepspeed_zero3"]):
        assert sharded.keys() == found["cpu_2_processes"].keys()
        for key, weight in found["cpu_2_processes"].items():
            assert (sharded[key] - weight).norm() <= 1e-4 * weight.norm(), key


@pytest.mark.slow
@needs_deepspeed
def test_an_adapter_is_not_merged_while_sharded(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Any
) -> None:
    settings = {**lm_settings, "use_peft": True, "merge_adapter": True}
    flags = [*run_flags(settings, recipe, tmp_path / "out"), "--use_cpu=false", "--ddp_backend=gloo"]
    done = launched(*LAUNCH[:-1], str(without_gpu("deepspeed_zero3", tmp_path)), *flags, DS_ACCELERATOR="cpu")
    assert done.returncode != 0
    assert done.stderr.count("merge_adapter is not possible while the weights are sharded") == 1
    assert not (tmp_path / "out").exists()
