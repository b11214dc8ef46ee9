"""Which measure deserves trust: the formulae on numbers made by hand, and a smallest run to its end."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FAITHFULNESS = Path(__file__).parents[2] / "recipes" / "benchmarks" / "faithfulness"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAITHFULNESS))


def test_faithfulness_counts_the_pairs_of_models() -> None:
    from formulae import faithfulness

    found = faithfulness([0.9, 0.6, 0.5], [0.6, 0.2])
    # Of six pairs four are in order and one is a tie.
    assert found.value == pytest.approx((4 + 0.5) / 6)
    assert found.low < found.value < found.high
    assert found.n == 5
    assert faithfulness([0.1, 0.2], [0.8, 0.9]).value == 0


@pytest.mark.parametrize(
    ("unlearned", "retrained", "one_sided", "symmetric"),
    [
        ((0.2, 0.6), (0.2, 0.3), 0.25, 1 - 0.3 / 0.5),
        ((0.2, 0.3), (0.2, 0.6), 1.0, 1 - 0.3 / 0.5),
        ((0.2, 0.1), (0.2, 0.3), 1.0, 0.0),
        ((0.2, 0.6), (0.2, 0.1), 0.0, 0.0),
        ((0.2, 0.2), (0.3, 0.3), 1.0, 1.0),
    ],
)
def test_relearning_compares_the_rises(unlearned: Any, retrained: Any, one_sided: float, symmetric: float) -> None:
    from formulae import relearning

    assert relearning(unlearned, retrained) == pytest.approx((one_sided, symmetric))


def test_low_bits_and_the_harmonic_mean() -> None:
    from formulae import harmonic, low_bits

    assert low_bits(0.2, 0.5) == pytest.approx((0.4, 1 - 0.3 / 0.7))
    assert low_bits(0.5, 0.2) == pytest.approx((1.0, 1 - 0.3 / 0.7))
    assert low_bits(0.0, 0.0) == (1.0, 1.0)
    assert harmonic(1.0, 0.5) == pytest.approx(2 / 3)
    assert harmonic(0.5, 0.5, 0.25) == pytest.approx(3 / 8)
    assert harmonic(0.9, 0.0) == 0


def test_the_verdict_is_wrong_in_two_ways() -> None:
    from formulae import verdict_errors

    known = ["not_distinguished", "not_forgotten", "undecided", "over_forgotten"]
    unknown = ["not_forgotten", "over_forgotten", "not_distinguished", "undecided"]
    found = {name: one.value for name, one in verdict_errors(known, unknown).items()}
    assert found == {"wrong acquittals": 0.25, "wrong accusations": 0.5, "undecided": 0.25}


def cell(pool: str, number: int, way: str, value: float, word: str) -> dict[str, Any]:
    measures = {"utility": 0.5, "loss": value, "verdict": {"retrained": word}}
    return {"pool": pool, "number": number, "way": way, "measures": measures}


def test_halves_and_ways_of_the_pools_are_told_apart() -> None:
    from tables import of_pools

    known = [cell("known", i, "D" if i < 2 else "other", v, "undecided") for i, v in enumerate([0.9, 0.3, 0.8, 0.7])]
    unknown = [cell("unknown", i, "L", v, "not_forgotten") for i, v in enumerate([0.5, 0.4])]
    found = of_pools(known + unknown)
    loss = found["measures"]["loss"]
    assert loss["auc"]["value"] == pytest.approx(6 / 8)
    # Even numbers: 0.9 and 0.8 against 0.5. Odd ones: 0.3 and 0.7 against 0.4.
    assert (loss["to choose by"], loss["to confirm"]) == (1.0, 0.5)
    assert loss["ways"]["known"] == {"D": 0.5, "other": 1.0}
    assert found["models"] == {"known": {"D": 2, "other": 2}, "unknown": {"L": 2}}
    assert found["verdict"]["retrained"]["errors"]["wrong accusations"]["value"] == 1
    assert not of_pools(known)


def test_attacks_count_methods_that_stay_useful() -> None:
    from tables import of_attacks

    def attacked(method: str, utility: float, before: float, relearnt: float, rounded: float) -> dict[str, Any]:
        states = {"before": before, "relearnt": relearnt, "nf4": rounded}
        made = {name: {"utility": utility, "loss": value} for name, value in states.items()}
        return {"method": method, "form": "nf4", "original": 1.0, **made}

    cells = [
        attacked("retrained", 0.9, 0.1, 0.2, 0.1),
        attacked("one", 0.9, 0.2, 0.4, 0.4),
        attacked("other", 0.8, 0.2, 0.3, 0.2),
        attacked("broken", 0.5, 0.0, 0.9, 0.9),
        {"method": "rewind", "left out": "There is no checkpoint."},
    ]
    found = of_attacks(cells)
    assert found["methods"] == ["one", "other"]
    assert found["useless"] == ["broken"]
    assert found["left out"] == {"rewind": "There is no checkpoint."}
    assert found["measures"]["loss"]["relearning"] == pytest.approx((0.5 + 1) / 2)
    assert found["measures"]["loss"]["low bits"] == pytest.approx((0.5 + 1) / 2)
    assert found["measures"]["loss"]["low bits, symmetric"] == pytest.approx((1 - 0.2 / 0.6 + 1) / 2)
    assert of_attacks(cells[1:]) == {}


def test_the_overall_figure_is_of_faithfulness_and_of_both_attacks() -> None:
    from tables import PUBLISHED, overall

    faithful, back, bits = PUBLISHED["depth"]
    robust = 2 / (1 / back + 1 / bits)
    assert overall(faithful, back, bits) == pytest.approx(2 / (1 / faithful + 1 / robust))
    assert robust == pytest.approx(0.933, abs=1e-3)


def test_the_table_is_what_the_numbers_say() -> None:
    from tables import as_table

    found = json.loads((FAITHFULNESS / "faithfulness.json").read_text(encoding="utf-8"))
    tables = [as_table(name, one["pools"], one["robustness"]) for name, one in found.items()]
    assert "\n\n".join(tables) + "\n" == (FAITHFULNESS / "tables.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_smallest_run_measures_each_model_once(shared: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(FAITHFULNESS / "faithfulness.py"), "--output", str(tmp_path), "--world", "tofu"]
    command += ["--source", str(shared / "data" / "tofu"), "--base", str(shared / "models" / "tinystories-260k")]
    command += ["--authors", "3", "--forgotten", "1", "--epochs", "1", "--models", "2", "--references", "1"]
    methods = ["fine_tune", "npo", "rewind", "altpo", "salun"]
    command += ["--methods", *methods, "--measures", "loss", "answers", "attacks", "depth", "verdict"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    cells = tmp_path / "tofu" / "cells"
    names = {"known-000", "known-001", "unknown-000", "unknown-001"}
    assert {file.stem for file in cells.iterdir()} == names | {f"robust-{name}" for name in ("retrained", *methods)}
    found = json.loads((tmp_path / "faithfulness.json").read_text())["tofu"]
    for name, row in found["pools"]["measures"].items():
        assert all(0 <= value <= 1 for value in row["known"] + row["unknown"]), name
    assert len(found["pools"]["measures"]) >= 15
    assert set(found["robustness"]["left out"]) == {"salun"}, "it is for classifiers"
    assert (tmp_path / "faithfulness.png").stat().st_size > 5000
    written = {file: file.stat().st_mtime_ns for file in cells.iterdir()}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {file: file.stat().st_mtime_ns for file in cells.iterdir()} == written, "what is there is not made again"
    other = subprocess.run([*command, "--epochs", "2"], capture_output=True, text=True)
    assert "name another folder with --output" in other.stderr
