"""What libraries log and warn of is for those who ask for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("verbose", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_libraries_are_heard_only_when_asked(
    verbose: bool, wordpiece_base: Path, tickets_file: Path, tmp_path: Path
) -> None:
    flags = ["train", "--model_name_or_path", wordpiece_base, "--task", "text-classification", "--max_steps", "1"]
    flags += ["--dataset_name", tickets_file, "--output_dir", tmp_path / "out", "--use_cpu", "true"]
    # PEFT asks transformers by a name that will go.
    flags += ["--use_peft", "true", "--gradient_checkpointing", "true", *(["--verbose"] if verbose else [])]
    without = ("PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY")
    env = {name: value for name, value in os.environ.items() if name not in without}
    done = subprocess.run(
        [sys.executable, "-m", "hf_unlearn.cli", *map(str, flags)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "The model and its training_record.json are in" in done.stdout
    for told in ("LOAD REPORT", "Warning: "):
        assert (told in done.stderr) == verbose
