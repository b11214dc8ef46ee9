"""The calibration of the verdict: its smallest form runs to the end, and the published table is its numbers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "recipes" / "benchmarks"
SMALLEST = {"forget": 12, "retained": 24, "test": 4, "epochs": 1, "base_epochs": 1}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classifier", "lm"])
def test_the_calibration_trains_and_judges_and_judges_again(task: str, tmp_path: Path) -> None:
    sizes = [word for name, size in SMALLEST.items() for word in (f"--{name}", str(size))]
    command = [sys.executable, str(BENCHMARKS / "calibration.py"), "--task", task, "--output", str(tmp_path), *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / task / "seed0"
    arms = {"original", "retrained", "reference0", "reference1", "reference2"} | ({"base"} if task == "lm" else set())
    assert {file.stem for file in (folder / "atypical").iterdir()} == arms
    assert {file.stem for file in (folder / "typical").iterdir()} == arms | {"half", "over"}
    found = json.loads((tmp_path / "calibration.json").read_text())
    rows = found["tasks"][task]["rows"]
    assert all(sum(word["hits"] for word in row["words"].values()) == 1 for row in rows)
    assert {row["case"] for row in rows} >= {"retrained", "original", "retrained, 10 records"}
    assert (tmp_path / "calibration.png").stat().st_size > 5000

    from calibration import Sizes, run_seed
    from calibration_rates import judge

    assert json.loads(json.dumps(judge(tmp_path))) == found
    written = (folder / "facts.json").stat().st_mtime_ns
    run_seed(0, task, Sizes(**SMALLEST), tmp_path / task)
    assert (folder / "facts.json").stat().st_mtime_ns == written, "what is there is not trained again"
    with pytest.raises(SystemExit, match="name another --output"):
        run_seed(0, task, Sizes(**{**SMALLEST, "epochs": 2}), tmp_path / task)


def test_worlds_of_scores_are_drawn_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import calibration_worlds
    from calibration_rates import judge

    kinds = {row.world.split(",")[0]: row for row in calibration_worlds.rows() if "1000" not in row.sizes}
    monkeypatch.setattr(calibration_worlds, "rows", lambda: list(kinds.values())[::2])
    calibration_worlds.draw_worlds(1, tmp_path)
    found = judge(tmp_path)["worlds"]
    assert found["draws"] == 1
    assert len(found["rows"]) > 5
    assert all(sum(row["words"].values()) == 1 for row in found["rows"])


def test_the_table_is_what_the_numbers_say() -> None:
    from calibration_rates import as_markdown

    found = json.loads((BENCHMARKS / "calibration.json").read_text(encoding="utf-8"))
    assert found["worlds"]["draws"] >= 40
    assert as_markdown(found) in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
