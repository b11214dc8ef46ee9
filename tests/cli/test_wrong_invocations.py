"""Whatever is wrong with a command, it ends in a sentence: never in a traceback."""

import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn.cli import main

from ..conftest import note_rows, write_rows
from ..support.wrong import Place, commands, invocation, quoted

pytestmark = pytest.mark.usefixtures("pictures_left_blank", "hub")

QUICK, MANY = range(10), range(10, 510)


@pytest.fixture(scope="module")
def original(lm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the record of its training."""
    folder = tmp_path_factory.mktemp("original")
    data = write_rows(folder / "data.jsonl", note_rows(12))
    words = f"train --model_name_or_path {lm_base} --dataset_name {data} --output_dir {folder / 'model'} --max_steps 1"
    assert main(words.split()) == 0
    return folder / "model"


def check(
    command: str, number: int, model: Path, folder: Path, capsys: pytest.CaptureFixture[str], words: Any = None
) -> int:
    """Run one invocation, which is drawn unless it is given, in a folder of its own; returns its exit code."""
    # Deep enough that no relative path leads out of it.
    folder = folder / "a" / "b" / "c"
    folder.mkdir(parents=True)
    place = Place(folder, model)
    words = words or invocation(place, command, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "stdin", io.StringIO(""))
        capsys.readouterr()
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException as error:
            raise AssertionError(f"{number}: {quoted(words)}") from error
        err = capsys.readouterr().err
    said = [line for line in err.splitlines() if line.startswith(f"hf-unlearn {command}: ")]
    assert code in (0, 1, 2), f"{number}: {code}: {quoted(words)}"
    assert "not foreseen" not in err, f"{number}: {quoted(words)}: {err[-2000:]}"
    assert "Traceback" not in err, f"{number}: {quoted(words)}: {err[-2000:]}"
    if code == 2:
        assert len(said) == 1, f"{number}: {quoted(words)}: {err[-2000:]}"
        assert len(said[0]) < 2500, f"{number}: {quoted(words)}: {said[0]}"
        assert said[0].rstrip().endswith((".", "…", "?")), f"{number}: {quoted(words)}: {said[0]}"
    return code


WHERE = ["--model_name_or_path", "model", "--dataset_name", "data.jsonl", "--output_dir", "out", "--use_cpu", "true"]
KINDS = {
    "half a pair of surrogates": ["ledger", "verify", "data.csv", "--model_revision", "a\ud800"],
    "a place too long for a file": ["audit", "x" * 5000],
    "no file of settings": ["run", *WHERE, "--forget_rows", "1", "--accelerator_config", "cuda:7"],
    "an empty mapping": ["run", *WHERE, "--forget_rows", "1", "--lr_scheduler_kwargs="],
    "options of no value": ["train", *WHERE, "--max_steps", "1", "--optim_args=nulls.parquet"],
    "a folder without data": ["split", "--dataset_name", "data.jsonl", "--forget_dataset", "folder"],
    "other columns held out": [
        "split", "--dataset_name", "data.jsonl", "--forget_rows", "1", "--holdout_dataset", "pairs.jsonl"
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_kind_that_has_its_sentence(
    kind: str, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(KINDS[kind][0], 0, original, tmp_path, capsys, KINDS[kind]) == 2


@pytest.mark.parametrize("command", commands())
def test_a_wrong_invocation_ends_in_a_sentence(
    command: str, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.disable(logging.WARNING)
    try:
        codes = [check(command, i, original, tmp_path / str(i), capsys) for i in QUICK]
    finally:
        logging.disable(logging.NOTSET)
    assert codes.count(2) > len(codes) // 2, "most are right, so that little is tried"


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_so_do_five_hundred(command: str, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in MANY:
        check(command, i, original, tmp_path / str(i), capsys)
