"""Runs that were thrown away count: what a later one says of them, and what it does not say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.publishing.card import CARD_FILE
from hf_unlearn.publishing.ledger import load_ledger

from ..conftest import secrets_rows
from .test_jobs import command, leaks, texts_in  # noqa: F401

pytestmark = pytest.mark.usefixtures("pictures_left_blank")


def test_each_attempt_on_the_same_records_counts_also_one_that_was_broken_off(
    command: Any,  # noqa: F811
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    capsys: Any,
) -> None:
    key = tmp_path / "keys" / "owner.key"
    settings = {**lm_settings, "method": "base", "max_steps": 1, "digest_key_file": str(key)}

    def tried(folder: str, *flags: str, **more: Any) -> tuple[tuple[int, int], str]:
        values = {**settings, "output_dir": str(tmp_path / folder), **more}
        code, out, err = command("evaluate" if "--original_model" in flags else "run", values, *flags)
        assert code == 0, err
        count = UnlearningReport.load(tmp_path / folder / REPORT_FILE).attempts
        assert count is not None
        return (count.number, count.others), out

    count, out = tried("one")
    assert count == (1, 0)
    assert "This is the first attempt on these records." in out
    # what cannot begin does not count, what is broken off does
    assert command("run", {**settings, "output_dir": str(tmp_path / "none"), "auc_margin": 0.3})[0] == 2
    broken = {**settings, "method": "fine_tune", "learning_rate": 1e30, "max_steps": 5}
    assert command("run", {**broken, "output_dir": str(tmp_path / "broken")})[0] == 2
    assert tried("one")[0] == (1, 0), "finished"
    (tmp_path / "one" / CARD_FILE).unlink()
    assert tried("one")[0] == (1, 0), "resumed"
    count, out = tried("three", seed=9)
    assert count == (3, 2)
    assert "This is attempt 3 on these records; 2 of those before had another method, seed or margin." in out
    # the same once more, from nothing
    shutil.rmtree(tmp_path / "three")
    assert tried("three", seed=9)[0] == (4, 2)
    look = ("--original_model", str(lm_original), "--model_name_or_path", str(tmp_path / "one"))
    assert [tried("look", *look)[0], tried("again", *look)[0]] == [(5, 4)] * 2, "the same look"

    card = (tmp_path / "three" / CARD_FILE).read_text(encoding="utf-8")
    assert "This is attempt 4 on these records; 2 of those before" in card
    ledger = load_ledger(tmp_path / "three")
    assert ledger is not None
    assert ledger.runs[-1].attempts == UnlearningReport.load(tmp_path / "three" / REPORT_FILE).attempts
    capsys.readouterr()
    assert main(["ledger", "show", str(tmp_path / "three")]) == 0
    assert "attempt 4" in " ".join(capsys.readouterr().out.split())
    noted = key.with_name("owner.key.attempts")
    assert noted.stat().st_mode & 0o777 == 0o600
    assert not leaks(noted.read_text(), secrets_rows()[:10], ["id"], length=5)
    (digest,) = {json.loads(line)["records"] for line in noted.read_text().splitlines()}
    for path, text in texts_in(tmp_path / "three").items():
        assert digest not in text, path


def test_a_damaged_note_is_told_before_a_model_is_loaded(
    command: Any,  # noqa: F811
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
) -> None:
    key = tmp_path / "owner.key"
    (tmp_path / "owner.key.attempts").write_text("damaged\n")
    settings = {**lm_settings, "method": "base", "max_steps": 1, "digest_key_file": str(key)}
    code, _, err = command("run", {**settings, "output_dir": str(tmp_path / "out")})
    assert code == 2
    assert "Line 1 of" in err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "owner.key.attempts").read_text() == "damaged\n"
