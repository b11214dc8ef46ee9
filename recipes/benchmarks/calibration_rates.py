"""The verdict on the models of calibration.py, from the tables that it wrote: how often each word is said."""

import json
import math
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from hf_unlearn.evaluation.blind_baseline import BlindBaseline
from hf_unlearn.evaluation.measured_sets import attack_scores
from hf_unlearn.evaluation.statistics import Estimate, membership_auc, rate
from hf_unlearn.evaluation.verdict import Provenance, Verdict, VerdictWord, decide
from hf_unlearn.files import write_text

MARGIN = 0.10  # the default
FEW = 10
REFERENCES = 3
COMPARED = ("H", f"{REFERENCES} retrained models")
# By measurement alone.
PROVENANCE = Provenance(start_saw_forget=None, stage="fine-tuning", duplicates_retained=None)
WORLDS_FILE = "worlds.json"
WORDS = [word for word in get_args(VerdictWord) if word not in ("exact", "certified")]


@dataclass(frozen=True)
class Case:
    """What is judged, and what should come out.

    Attributes:
        label: for the table.
        arm: whose tables are judged.
        folder: the condition they are from.
        records: of S and of H; None for all.
        blind: which of the blind baselines is theirs.
        wanted: a word, how often it should be said at least, and how often at most.
        compared: what it is compared with.
    """

    label: str
    arm: str
    folder: str
    records: int | None
    blind: tuple[str, str]
    wanted: tuple[tuple[str, float, float], ...]
    compared: tuple[str, ...] = COMPARED


TYPICAL, ATYPICAL = ("typical", "blind"), ("atypical", "blind")
FORGOTTEN = (("not_distinguished", 0.9, 1.0), ("not_forgotten", 0.0, 0.05))
NO_FALSE_CLAIM = (("not_forgotten", 0.0, 0.05), ("over_forgotten", 0.0, 0.05))
CASES = [
    Case("retrained", "retrained", "typical", None, TYPICAL, FORGOTTEN),
    Case("original", "original", "typical", None, TYPICAL, (("not_forgotten", 1.0, 1.0),)),
    Case("half of S forgotten", "half", "typical", None, TYPICAL, (("not_distinguished", 0.0, 0.0),)),
    Case("pushed away from S", "over", "typical", None, TYPICAL, (("over_forgotten", 1.0, 1.0),)),
    Case(
        f"retrained, {FEW} records", "retrained", "typical", FEW, ("typical", "blind_few"), (("undecided", 1.0, 1.0),)
    ),
    # H cannot stand in for a model that never saw such an S, so against H no word but a false one is ruled out.
    Case("retrained, S of one topic", "retrained", "atypical", None, ATYPICAL, NO_FALSE_CLAIM, COMPARED[:1]),
    Case("retrained, S of one topic", "retrained", "atypical", None, ATYPICAL, FORGOTTEN, COMPARED[1:]),
]


def read_tables(file: Path) -> dict[Any, pa.Table]:
    """A model's tables by set."""
    table = pq.read_table(file)
    names = table["set"].unique().to_pylist()
    return {name: table.filter(pc.field("set") == name).drop_columns(["set"]) for name in names}


def read_blind(facts: dict[str, Any], where: tuple[str, str]) -> BlindBaseline | None:
    found = facts[where[0]][where[1]]
    if found is None:
        return None
    return BlindBaseline(**{k: Estimate(**v) if isinstance(v, dict) else v for k, v in found.items()})


def judge_seed(folder: Path, facts: dict[str, Any]) -> list[tuple[Verdict, ...]]:
    """For each case the verdicts, by what it is compared with."""
    tables = {
        root: {file.stem: read_tables(file) for file in (folder / root).glob("*.parquet")}
        for root in ("typical", "atypical")
    }

    references = [f"reference{i}" for i in range(REFERENCES)]

    def verdicts(case: Case) -> tuple[Verdict, ...]:
        # The first records are random ones.
        arms = {
            arm: {name: table.slice(0, case.records) for name, table in tables[case.folder][arm].items()}
            for arm in {case.arm, "original", "base", *references} & tables[case.folder].keys()
        }
        scores = {arm: attack_scores(sets, arms.get("base")) for arm, sets in arms.items()}
        blind = read_blind(facts, case.blind)
        return tuple(
            decide(
                PROVENANCE, scores[case.arm], original=scores["original"], margin=MARGIN, blind=blind,
                retrained=[] if compared == "H" else [scores[name] for name in references],
            )
            for compared in case.compared
        )  # fmt: skip

    return [verdicts(case) for case in CASES]


def rates_of(root: Path) -> dict[str, Any]:
    """All cases of one task."""
    folders = sorted(file.parent for file in root.glob("seed*/facts.json"))
    facts = [json.loads((folder / "facts.json").read_text(encoding="utf-8")) for folder in folders]
    found = [judge_seed(folder, own) for folder, own in zip(folders, facts, strict=True)]
    rows = []
    for i, case in enumerate(CASES):
        for j, compared in enumerate(case.compared):
            verdicts = [seed[i][j] for seed in found]
            counts = Counter(verdict.word for verdict in verdicts)
            wanted = [
                {"word": word, "least": least, "most": most, "met": least <= counts[word] / len(verdicts) <= most}
                for word, least, most in case.wanted
            ]
            rows.append(
                {
                    "case": case.label,
                    "compared_with": compared,
                    "smallest_margin": round(verdicts[0].smallest_margin or 0.0, 3),
                    "wanted": wanted,
                    "words": {word: _rounded(rate(counts[word], len(verdicts))) for word in WORDS},
                    "standard_error": round(sum(map(_error, verdicts)) / len(verdicts), 3),
                    "decided_by": dict(Counter(verdict.attack for verdict in verdicts).most_common()),
                }
            )
    worlds = [seed_spread(folder) for folder in folders]
    memorised = [f["typical"]["auc"]["original"] for f in facts]
    return {
        "seeds": len(folders),
        "sizes": facts[0]["sizes"],
        "seconds_a_seed": round(sum(f["seconds"] for f in facts) / len(facts), 1),
        # Of the loss's AUC among models trained on L, as a standard deviation.
        "seed_spread": {
            name: round(math.sqrt(sum(one[name] ** 2 for one in worlds) / len(worlds)), 3) for name in worlds[0]
        },
        "original_loss_auc": {"smallest": min(memorised), "mean": round(sum(memorised) / len(memorised), 3)},
        "blind_separable": {
            name: sum(bool(read_blind(f, where) and read_blind(f, where).separable) for f in facts)
            for name, where in (("typical", TYPICAL), ("atypical", ATYPICAL))
        },
        "rows": rows,
    }


def seed_spread(folder: Path) -> dict[str, float]:
    """How far the membership AUC by the loss varies among the models that were trained on L, by condition."""
    found = {}
    for condition in ("typical", "atypical"):
        aucs = []
        for name in ("retrained", *(f"reference{i}" for i in range(REFERENCES))):
            scores = attack_scores(read_tables(folder / condition / f"{name}.parquet"))
            assert scores is not None
            aucs.append(membership_auc(-scores.forget["loss"], -scores.holdout["loss"]).value)
        found[condition] = statistics.stdev(aucs)
    return found


def _error(verdict: Verdict) -> float:
    """Of the gap that decided, from its 95 % interval."""
    gap = verdict.gap
    return (gap.high - gap.low) / (2 * 1.96) if gap else math.nan


def _rounded(found: Estimate) -> dict[str, Any]:
    return {
        "hits": round(found.value * found.n),
        "of": found.n,
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }


def as_markdown(found: dict[str, Any]) -> str:
    """A table a task: how often each word was said, and what should have been."""
    parts = []
    for task, result in found["tasks"].items():
        lines = [
            f"| {task}, {result['seeds']} seeds | compared with | verdicts | wanted | got (95 % interval) | met |",
            "|---|---|---|---|---|---|",
        ]
        for row in result["rows"]:
            said = ", ".join(f"{word} {w['hits']}" for word, w in row["words"].items() if w["hits"])
            for i, wanted in enumerate(row["wanted"]):
                word = row["words"][wanted["word"]]
                got = f"{_percent(word['hits'] / word['of'])} ({_percent(word['low'])} to {_percent(word['high'])} %)"
                start = [row["case"], row["compared_with"], said] if i == 0 else ["", "", ""]
                cells = [*start, _in_words(wanted), got, "yes" if wanted["met"] else "**no**"]
                lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    if "worlds" in found:
        parts.append(worlds_as_markdown(found["worlds"]))
    return "\n\n".join(parts)


def worlds_as_markdown(worlds: dict[str, Any]) -> str:
    """A line a world: how often its wrong words were said, how often the right one, and the others."""
    lines = [
        f"| world, {worlds['draws']} draws each | S and H | wrong words | said | right word | said |",
        "|---|---|---|---|---|---|",
    ]
    for row in worlds["rows"]:
        of = worlds["draws"]
        wrong = rate(sum(row["words"].get(word, 0) for word in row["wrong"]), of)
        right = rate(row["words"].get(row["right"], 0), of)
        shown = [f"{_percent(found.value)} % (to {_percent(found.high)} %)" for found in (wrong, right)]
        cells = [row["world"], row["sizes"], ", ".join(row["wrong"]), shown[0], row["right"], shown[1]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _in_words(wanted: dict[str, Any]) -> str:
    least, most = wanted["least"], wanted["most"]
    if least == most:
        return f"{wanted['word']} {'always' if least == 1 else 'never'}"
    return f"{wanted['word']} {f'≥ {_percent(least)}' if least > 0 else f'≤ {_percent(most)}'} %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


SHADES = {
    "not_distinguished": {"color": "white"},
    "undecided": {"color": "0.85"},
    "over_forgotten": {"color": "0.6", "hatch": "///"},
    "not_forgotten": {"color": "0.3"},
}


def draw(found: dict[str, Any], path: Path) -> None:
    """A bar a case: the share of the runs in which each word was said."""
    tasks = found["tasks"]
    figure = Figure(figsize=(5.2 * len(tasks) + 2.6, 5.4), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for axis, (task, result) in zip(axes, tasks.items(), strict=True):
        rows = result["rows"][::-1]
        for y, row in enumerate(rows):
            left = 0.0
            for word, style in SHADES.items():
                share = 100 * row["words"][word]["hits"] / row["words"][word]["of"]
                axis.barh(y, share, left=left, height=0.7, edgecolor="black", linewidth=0.6, **style)
                left += share
        axis.set_yticks(
            range(len(rows)), [f"{row['case']}\nagainst {row['compared_with']}" for row in rows], fontsize=8
        )
        axis.set_xlabel("% of the runs")
        axis.set_xlim(0, 100)
        axis.set_title(f"{task}, {result['seeds']} seeds", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [
        axes[0].barh([0], [0], edgecolor="black", linewidth=0.6, label=word, **style) for word, style in SHADES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(SHADES), fontsize=9, frameon=False)
    wanted = [w for result in tasks.values() for row in result["rows"] for w in row["wanted"]]
    missed = sum(not w["met"] for w in wanted)
    figure.suptitle(f"The verdict meets {len(wanted) - missed} of the {len(wanted)} requirements on its rates")
    figure.savefig(path, dpi=120)


def judge(output: Path) -> dict[str, Any]:
    """Apply the rules to every seed that is there; write `calibration.json` and `calibration.png`, print the table."""
    tasks = sorted(file.parents[1] for file in output.glob("*/seed*/facts.json"))
    found: dict[str, Any] = {"margin": MARGIN, "tasks": {root.name: rates_of(root) for root in dict.fromkeys(tasks)}}
    if (drawn := output / WORLDS_FILE).is_file():
        found["worlds"] = json.loads(drawn.read_text(encoding="utf-8"))
    write_text(output / "calibration.json", json.dumps(found, indent=1) + "\n")
    if found["tasks"]:
        draw(found, output / "calibration.png")
    print(f"\n{as_markdown(found)}\n")
    print(f"calibration.json and calibration.png are in {output}.")
    return found
