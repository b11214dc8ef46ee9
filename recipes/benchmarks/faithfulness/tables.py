"""From cells to the table of measures, its numbers and its picture."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from formulae import faithfulness, harmonic, low_bits, relearning, verdict_errors
from matplotlib.figure import Figure

from hf_unlearn.files import write_text, written_whole

KEPT_UTILITY = 0.8  # of the original's, for an unlearned model to count
FEWEST = 2  # models of a pool

# Faithfulness, relearning, low bits (NF4), of Llama-3.2-1B on TOFU, 30 models a side, with the symmetric formulae:
# gnueaj/unlearning-depth-score at fc31639, docs/data/meta_eval.json, for arXiv:2605.24614.
PUBLISHED = {
    "extraction strength": (0.891, 0.770, 0.970),
    "exact memorisation": (0.817, 0.605, 0.984),
    "probability": (0.816, 0.642, 0.924),
    "paraphrased probability": (0.707, 0.899, 0.853),
    "truth ratio": (0.947, 0.234, 0.996),
    "ROUGE": (0.722, 0.203, 0.934),
    "ROUGE, paraphrased question": (0.832, 0.064, 0.951),
    "AUC, loss": (0.902, 0.519, 0.935),
    "AUC, zlib": (0.867, 0.487, 0.938),
    "AUC, min_k": (0.907, 0.532, 0.923),
    "AUC, min_k_plus": (0.816, 0.431, 0.883),
    "depth": (0.971, 0.900, 0.968),
}

Cell = dict[str, Any]


def read_cells(folder: Path) -> list[Cell]:
    return [json.loads(file.read_text("utf-8")) for file in sorted((folder / "cells").glob("*.json"))]


def of_pools(cells: list[Cell]) -> dict[str, Any]:
    """Every measure between the pools, whole and by halves: of even numbers to choose by, of odd ones to confirm."""
    pools = {name: [cell for cell in cells if cell.get("pool") == name] for name in ("known", "unknown")}
    if min(map(len, pools.values())) < FEWEST:
        return {}
    values = [cell["measures"] for pool in pools.values() for cell in pool]
    # A depth that no layer counts for is missing.
    names = [name for name in values[0] if name not in ("verdict", "utility") and all(name in one for one in values)]
    found = {}
    for name in names:
        known, unknown = ([cell["measures"][name] for cell in pool] for pool in pools.values())
        halves = [
            [[cell["measures"][name] for cell in pool if cell["number"] % 2 == odd] for pool in pools.values()]
            for odd in (0, 1)
        ]
        found[name] = {
            "auc": dataclasses.asdict(faithfulness(known, unknown)),
            "to choose by": _auc_of(*halves[0]),
            "to confirm": _auc_of(*halves[1]),
            "ways": {
                "known": {way: _auc_of(own, unknown) for way, own in _by_way(pools["known"], name).items()},
                "unknown": {way: _auc_of(known, own) for way, own in _by_way(pools["unknown"], name).items()},
            },
            "known": known,
            "unknown": unknown,
        }
    return {
        "models": {name: dict(Counter(cell["way"] for cell in pool)) for name, pool in pools.items()},
        "measures": found,
        "verdict": _verdict(pools),
    }


def _auc_of(known: list[float], unknown: list[float]) -> float | None:
    return faithfulness(known, unknown).value if known and unknown else None


def _by_way(pool: list[Cell], name: str) -> dict[str, list[float]]:
    return {
        way: [c["measures"][name] for c in pool if c["way"] == way] for way in dict.fromkeys(c["way"] for c in pool)
    }


def _verdict(pools: dict[str, list[Cell]]) -> dict[str, Any]:
    """The words by pool and way to judge, and how often they are wrong."""
    found: dict[str, Any] = {}
    for kind in pools["known"][0]["measures"].get("verdict", {}):
        words = {name: [cell["measures"]["verdict"][kind] for cell in pool] for name, pool in pools.items()}
        errors = verdict_errors(words["known"], words["unknown"])
        found[kind] = {
            "errors": {name: dataclasses.asdict(one) for name, one in errors.items()},
            "words": {
                pool: {
                    way: dict(Counter(c["measures"]["verdict"][kind] for c in cells if c["way"] == way))
                    for way in dict.fromkeys(c["way"] for c in cells)
                }
                for pool, cells in pools.items()
            },
        }
    return found


def of_attacks(cells: list[Cell]) -> dict[str, Any]:
    """What relearning and low bits leave of every measure, as means over the methods that keep usefulness."""
    attacked = [cell for cell in cells if "method" in cell]
    retrained = next((cell for cell in attacked if cell["method"] == "retrained"), None)
    made = [cell for cell in attacked if cell is not retrained and "before" in cell]
    if retrained is None or not made:
        return {}
    kept = [cell for cell in made if cell["before"]["utility"] >= KEPT_UTILITY * cell["original"]]
    form, measures = retrained["form"], {}
    for name in [name for name in retrained["before"] if name != "utility"]:
        every = [retrained, *kept]
        if not kept or any(name not in cell[state] for cell in every for state in ("before", "relearnt", form)):
            continue
        risen = (retrained["before"][name], retrained["relearnt"][name])
        back = np.array([relearning((cell["before"][name], cell["relearnt"][name]), risen) for cell in kept]).mean(0)
        bits = np.array([low_bits(cell["before"][name], cell[form][name]) for cell in kept]).mean(0)
        measures[name] = {
            "relearning": float(back[0]), "low bits": float(bits[0]),
            "relearning, symmetric": float(back[1]), "low bits, symmetric": float(bits[1]),
        }  # fmt: skip
    return {
        "form": form,
        "methods": [cell["method"] for cell in kept],
        "useless": [cell["method"] for cell in made if cell not in kept],
        "left out": {cell["method"]: cell["left out"] for cell in attacked if "left out" in cell},
        "measures": measures,
        "states": {cell["method"]: {s: cell[s] for s in ("before", "relearnt", form)} for cell in (retrained, *made)},
    }


def as_table(world: str, pools: dict[str, Any], attacks: dict[str, Any]) -> str:
    """The measures of one world as a table, the most faithful first."""
    count = {name: sum(ways.values()) for name, ways in pools["models"].items()}
    robust = attacks.get("measures", {})
    lines = [
        f"## {world}: {count['known']} models that know S, {count['unknown']} that do not",
        "",
        "| measure | faithfulness [95 %] | even / odd models | relearning | low bits | overall | published: faithful, "
        "relearning, low bits, overall |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(pools["measures"], key=lambda one: -pools["measures"][one]["auc"]["value"]):
        row = pools["measures"][name]
        auc, halves = row["auc"], [row["to choose by"], row["to confirm"]]
        told = ["", "", ""]
        if name in robust:
            parts = (robust[name]["relearning, symmetric"], robust[name]["low bits, symmetric"])
            told = [f"{one:.3f}" for one in (*parts, overall(auc["value"], *parts))]
        published = ""
        if world == "tofu" and name in PUBLISHED:
            published = ", ".join(f"{one:.3f}" for one in (*PUBLISHED[name], overall(*PUBLISHED[name])))
        shown = " / ".join("" if one is None else f"{one:.3f}" for one in halves)
        lines.append(
            f"| {name} | {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}] | {shown} | {' | '.join(told)} | "
            f"{published} |"
        )
    lines += ["", "| verdict | wrong acquittals | wrong accusations | undecided |", "|---|---|---|---|"]
    for kind, found in pools["verdict"].items():
        shares = [f"{one['value']:.0%} [{one['low']:.0%}, {one['high']:.0%}]" for one in found["errors"].values()]
        lines.append(f"| {kind} | {' | '.join(shares)} |")
    if attacks:
        lines += ["", f"Attacked, with low bits as {attacks['form']}: {', '.join(attacks['methods']) or 'none'}."]
        if attacks["useless"]:
            lines.append(
                f"Left out, because usefulness fell below {KEPT_UTILITY:.0%}: {', '.join(attacks['useless'])}."
            )
        lines += [f"Left out: {name}. {reason}" for name, reason in attacks["left out"].items()]
    return "\n".join(lines)


def overall(faithful: float, back: float, bits: float) -> float:
    """The harmonic mean of faithfulness and of robustness, which is that of both attacks."""
    return harmonic(faithful, harmonic(back, bits))


def draw(results: dict[str, Any], path: Path) -> None:
    """The faithfulness of each measure with its interval, a panel a world; crosses are published figures."""
    most = max(len(found["pools"]["measures"]) for found in results.values())
    figure = Figure(figsize=(5.6 * len(results), 1.2 + 0.24 * most), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (world, found) in zip(panels, results.items(), strict=True):
        measures = found["pools"]["measures"]
        names = sorted(measures, key=lambda one: measures[one]["auc"]["value"])
        for height, name in enumerate(names):
            auc = measures[name]["auc"]
            axis.plot([auc["low"], auc["high"]], [height, height], color="#1b9e77", linewidth=1.5)
            axis.plot(auc["value"], height, "o", color="#1b9e77", markersize=5)
            if world == "tofu" and name in PUBLISHED:
                axis.plot(PUBLISHED[name][0], height, "x", color="#d95f02", markersize=5)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.axvline(0.5, color="0.8", linewidth=0.8, zorder=0)
        axis.set_xlim(left=min(0.45, axis.get_xlim()[0]), right=1.02)
        axis.set_xlabel("AUC between models that know S and models that do not", fontsize=9)
        if world == "tofu":
            axis.plot([], [], "o-", color="#1b9e77", markersize=5, label="here, 95 % interval")
            axis.plot([], [], "x", color="#d95f02", markersize=5, linestyle="", label="published (1B)")
            axis.legend(loc="lower left", bbox_to_anchor=(0, 0.24), fontsize=8, frameon=False)
        count = [sum(ways.values()) for ways in found["pools"]["models"].values()]
        axis.set_title(f"{world}: {count[0]} against {count[1]} models", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    with written_whole(path) as part:
        figure.savefig(part, dpi=120, format="png")


def summarise(root: Path) -> None:
    """Write numbers, tables and picture of all cells that there are, and print the tables."""
    results = {}
    for folder in sorted(place.parent for place in root.glob("*/settings.json")):
        cells = read_cells(folder)
        if pools := of_pools(cells):
            settings = json.loads((folder / "settings.json").read_text("utf-8"))
            seconds = sum(cell["seconds"] for cell in cells)
            results[folder.name] = {
                "settings": settings, "seconds": seconds, "pools": pools, "robustness": of_attacks(cells)
            }  # fmt: skip
    if not results:
        return
    write_text(root / "faithfulness.json", json.dumps(results, indent=1) + "\n")
    tables = "\n\n".join(as_table(name, found["pools"], found["robustness"]) for name, found in results.items())
    write_text(root / "tables.md", tables + "\n")
    draw(results, root / "faithfulness.png")
    print(tables)
