"""Kills, full disks, too little memory, losses that are no number: nothing is lost and one sentence is said."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_unlearn import UnlearningReport
from hf_unlearn.checkpoints import MARKER, last_checkpoint
from hf_unlearn.cli import main

ROOT = Path(__file__).parents[1]


def python(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, **options)


@pytest.fixture
def settings(lm_settings: dict[str, Any], lm_original: Path) -> dict[str, Any]:
    """A run of the tiny language model, which has dropout, with many checkpoints and measurements."""
    return {**lm_settings, "use_cpu": True, "max_steps": 24, "save_steps": 3, "logging_steps": 1, "measure_steps": 4}


def same_result(folder: Path, whole: Path) -> None:
    weights = [path.name for path in whole.glob("*.safetensors")]
    assert weights
    for name in weights:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    report, expected = (UnlearningReport.load(f / "unlearning_report.json") for f in (folder, whole))
    assert report.cost is not None
    assert expected.cost is not None
    assert (report.cost.tokens, report.cost.flops) == (expected.cost.tokens, expected.cost.flops)
    assert (report.curve, report.verdict, report.arms) == (expected.curve, expected.verdict, expected.arms)
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".part"]


@pytest.mark.parametrize(
    ("more", "kills"),
    [
        ({"method": "toward_base", "with_retrained": True}, 14),
        ({"method": "base", "use_peft": True, "lora_dropout": 0.1}, 8),
        pytest.param({"method": "base", "with_retrained": True}, 100, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment_the_same_command_gives_the_same_weights(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, more: dict[str, Any], kills: int
) -> None:
    config = str(recipe(**settings, **more))
    done = python(str(ROOT / "tests" / "killed.py"), str(kills), "1", str(tmp_path), "run", "--config", config)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = int(re.findall(rf"killed {kills} times in (\d+) folders", done.stdout)[0])
    for i in range(folders):
        same_result(tmp_path / str(i), tmp_path / "whole")


def test_a_checkpoint_that_is_not_whole_is_passed_over(settings: dict[str, Any], tmp_path: Path, recipe: Any) -> None:
    folder = tmp_path / "out"
    assert main(["run", "--config", str(recipe(**settings, output_dir=str(folder)))]) == 0
    newest = folder / "checkpoint-24"
    assert last_checkpoint(folder) == str(newest)
    for spoil in ("shorter", "missing", "marker"):
        kept = {path: path.read_bytes() for path in newest.iterdir()}
        if spoil == "shorter":
            (newest / "optimizer.pt").write_bytes(kept[newest / "optimizer.pt"][:-1])
        elif spoil == "missing":
            (newest / "model.safetensors").unlink()
        else:
            (newest / MARKER).unlink()
        assert last_checkpoint(folder) == str(folder / "checkpoint-21"), spoil
        for path, content in kept.items():
            path.write_bytes(content)
    assert last_checkpoint(folder) == str(newest)


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_nothing_in_a_checkpoint_is_unpickled(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(recipe(**settings, output_dir=str(tmp_path / "out")))
    assert main(["run", "--config", config]) == 0
    # From the checkpoint before there are steps to go, which need everything that is in it.
    shutil.rmtree(tmp_path / "out" / "checkpoint-24")
    newest = tmp_path / "out" / "checkpoint-21"
    torch.save(Evil(tmp_path / "trace"), newest / name)
    sizes = json.loads((newest / MARKER).read_text())
    (newest / MARKER).write_text(json.dumps({**sizes, name: (newest / name).stat().st_size}))
    assert last_checkpoint(tmp_path / "out") == str(newest)
    (tmp_path / "out" / "README.md").unlink()
    capsys.readouterr()
    code = main(["run", "--config", config])
    assert not (tmp_path / "trace").exists()
    assert code == (0 if name == "training_args.bin" else 2)
    if code:
        assert "A file of the checkpoint is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin"])
def test_nothing_in_a_model_folder_is_unpickled(
    settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Any, name: str
) -> None:
    shutil.copytree(lm_original, tmp_path / "model")
    torch.save(Evil(tmp_path / "trace"), tmp_path / "model" / name)
    config = {**settings, "model_name_or_path": str(tmp_path / "model"), "output_dir": str(tmp_path / "out")}
    assert main(["run", "--config", str(recipe(**config)), "--max_steps", "1"]) == 0
    assert not (tmp_path / "trace").exists()


def test_sigterm_saves_and_the_same_command_goes_on(settings: dict[str, Any], tmp_path: Path, recipe: Any) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "out"
    config = str(recipe(**{**settings, "max_steps": 200, "save_steps": 1000, "measure_steps": 0}))
    # All in processes of their own: bits depend on the number of threads.
    run = ("-m", "hf_unlearn.cli", "run", "--config", config, "--output_dir")
    assert python(*run, str(whole)).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *run, str(folder)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stderr is not None
        told = b""
        while not re.search(rb"[1-9]\d*/200", told):
            told += process.stderr.read1()
        process.send_signal(signal.SIGTERM)
        told += process.stderr.read()
    assert process.returncode == 130, told
    assert b"stopped after step" in told
    assert b"The same command goes on from the last checkpoint" in told
    assert last_checkpoint(folder) is not None
    assert python(*run, str(folder)).returncode == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


# What the machine does


def test_a_loss_that_is_no_number_ends_the_run(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "output_dir": str(folder), "learning_rate": 1e30, "optim": "sgd"}))
    assert main(["run", "--config", config]) == 2
    err = capsys.readouterr().err
    assert re.search(
        r"hf-unlearn run: The loss is no longer a number by step \d+\. Most likely the learning rate", err
    )
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "README.md").exists()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from hf_unlearn.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("save_steps", [3, 1000])
def test_a_file_that_cannot_be_written_whole(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, save_steps: int
) -> None:
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "output_dir": str(folder), "save_steps": save_steps}))
    done = python("-c", FULL, "100000", "run", "--config", config)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert re.search(r"hf-unlearn run: .*(disk is full)", done.stderr)
    assert not (folder / "model.safetensors").exists()
    assert last_checkpoint(folder) is None
    assert main(["run", "--config", config]) == 0


def test_a_folder_that_cannot_be_written(
    settings: dict[str, Any],
    tmp_path: Path,
    recipe: Any,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    (tmp_path / "file").write_text("kept")
    read_only = tmp_path / "read_only"
    read_only.mkdir()
    # Permissions do not bind root, a mount does.
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(read_only)], capture_output=True)
    request.addfinalizer(lambda: subprocess.run(["umount", str(read_only)], capture_output=True))
    if mounted.returncode:
        read_only.chmod(0o500)
    folders = [tmp_path / "file", tmp_path / "file" / "below"]
    if mounted.returncode == 0 or os.geteuid():
        folders.append(read_only / "out")
    for folder in folders:
        assert main(["run", "--config", str(recipe(**settings, output_dir=str(folder)))]) == 2
        assert re.search(r"hf-unlearn run: .+ name another", capsys.readouterr().err), folder
    assert (tmp_path / "file").read_text() == "kept"


GREEDY = """
import sys, torch
from hf_unlearn import trainer
from hf_unlearn.cli import main
# Any model is too large for this machine once its batches are.
class Greedy(trainer.PaddingCollator):
    def __call__(self, examples):
        batch = super().__call__(examples)
        if len(examples) >= int(sys.argv[1]):
            torch.empty(2**46)
        return batch
trainer.PaddingCollator = Greedy
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("batch", "said"), [(20, "--per_device_train_batch_size 10 --gradient_accumulation_steps 2")])
def test_too_little_memory(settings: dict[str, Any], tmp_path: Path, recipe: Any, batch: int, said: str) -> None:
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "output_dir": str(folder), "per_device_train_batch_size": batch}))
    done = python("-c", GREEDY, str(batch), "run", "--config", config)
    assert done.returncode == 2, done.stderr[-2000:]
    assert f"Out of memory while training with per_device_train_batch_size={batch}" in done.stderr
    assert said in done.stderr
    smaller = ["--per_device_train_batch_size", "10", "--gradient_accumulation_steps", "2"]
    done = python("-c", GREEDY, str(batch), "run", "--config", config, *smaller, "--output_dir", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr[-2000:]
    done = python("-c", GREEDY, "16", "run", "--config", config, *smaller, "--output_dir", str(tmp_path / "c"))
    assert done.returncode == 2
    assert "Out of memory while measuring with per_device_eval_batch_size=16; try --per_device_eval_batch_size 4" in (
        done.stderr
    )
