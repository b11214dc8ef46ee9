"""The search for learning rates: how a trained row is scored by what it does to forget05, and what was chosen."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from cells import ORIGINAL, RETRAINED, Row

from hf_unlearn.errors import InputError

# Not the model utility of TOFU, which is 0 where a small model gives no word of an answer about real authors.
UTILITY = ("retain_probability", "retain_rougeL_recall", "retain_truth_ratio_geometric_true_better")
FORGETTING = ("forget_probability", "forget_truth_ratio_geometric_closer_to_one", "mia_loss")
CRITERION = (
    "The harmonic mean of utility and forgetting. Utility is the harmonic mean of probability, ROUGE-L recall and "
    "truth ratio of L, as a share of the reference's, 1 at most. Forgetting is the mean, over probability of S, truth "
    "ratio of S and AUC of the loss attack, of how much of the way from the target to the reference is covered: "
    "1 - |m - m of the reference| / |m of the target - m of the reference|, 0 at least."
)


def candidates(rows: list[Row], learning_rates: list[float]) -> dict[str, list[Row]]:
    """Each row of the group ``forget`` with each learning rate, by the row's name."""
    searched = [row for row in rows if row.group == "forget" and "learning_rate" not in row.flags]
    return {
        row.name: [
            replace(row, name=f"{row.name}_{rate:g}", flags={**row.flags, "learning_rate": rate})
            for rate in learning_rates
        ]
        for row in searched
    }


def score(found: dict[str, float], original: dict[str, float], retrained: dict[str, float]) -> dict[str, float]:
    """See :data:`CRITERION`; the arguments are measures by name, of the model, the target and the reference."""
    kept, best = (harmonic_mean([measures[name] for name in UTILITY]) for measures in (found, retrained))
    utility = min(1.0, kept / best) if best else 0.0
    covered = []
    for name in FORGETTING:
        whole = abs(original[name] - retrained[name])
        if whole:
            covered.append(max(0.0, 1 - abs(found[name] - retrained[name]) / whole))
    forgetting = sum(covered) / len(covered) if covered else 0.0
    return {"score": harmonic_mean([utility, forgetting]), "utility": utility, "forgetting": forgetting}


def choose(tried: dict[str, list[Row]], cells: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """What each row came to.

    Args:
        tried: as :func:`candidates` gives it.
        cells: by the name of a row or candidate; None where it failed, such as where the loss was no number.

    Returns:
        By row: ``chosen``, None where all failed, and all that was ``tried``.
    """
    numbers = {name: cell and _numbers(cell) for name, cell in cells.items()}
    original, retrained = numbers[ORIGINAL], numbers[RETRAINED]
    assert original is not None
    assert retrained is not None
    rows: dict[str, Any] = {}
    for name, options in tried.items():
        listed: list[dict[str, Any]] = []
        for option in options:
            found = numbers[option.name]
            scores = {"score": None} if found is None else {**score(found, original, retrained), "measures": found}
            listed.append({"learning_rate": option.flags["learning_rate"], **scores})
        best = max((one for one in listed if one["score"] is not None), key=lambda one: one["score"], default=None)
        rows[name] = {"chosen": best and best["learning_rate"], "tried": listed}
    return {"measures": {ORIGINAL: original, RETRAINED: retrained}, "rows": rows}


def _numbers(cell: dict[str, Any]) -> dict[str, float]:
    return {name: cell["metrics"][name]["value"] for name in (*UTILITY, *FORGETTING)}


def chosen(rows: list[Row], file: Path) -> list[Row]:
    """The rows with the learning rates that a search chose.

    Raises:
        InputError: it chose none for one of them.
    """
    found: dict[str, Any] = {}
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))["rows"]
    given = []
    for row in rows:
        if row.group == "forget" and "learning_rate" not in row.flags:
            rate = found.get(row.name, {}).get("chosen")
            if rate is None:
                raise InputError(
                    f"{row.name} has no learning rate in {file}; run `benchmark.py search` with the same preset "
                    "first, or give the row a learning_rate in benchmark.yaml."
                )
            row = replace(row, flags={**row.flags, "learning_rate": rate})
        given.append(row)
    return given
