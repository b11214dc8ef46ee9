"""The benchmark's results as tables and a picture.

    python recipes/tofu/benchmark/tables.py NAME.json                   # writes NAME.md and NAME.png beside it
    python recipes/tofu/benchmark/tables.py NAME.json --table main      # prints one: main, utility or attacks

What `benchmark.py` has not finished yet is left empty, and each row says how many seeds it rests on.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from trade_off import ORIGINAL, RETRAINED, Point, Span, draw

from hf_unlearn.errors import InputError, in_one_line
from hf_unlearn.evaluation.benchmarks.tofu_suite import ATTACKS
from hf_unlearn.files import write_text

GROUPS = {"yardstick": "yardsticks", "retained": "trained without S", "forget": "trained on S too"}
FORGOTTEN, UTILITY = "forget_probability", "model_utility_geometric"
OF_RETAINED = ("retain_probability", "retain_rougeL_recall", "retain_truth_ratio_geometric_true_better")
# Models whose original has less of it cannot lose it: those too small to say a word about real authors and the world.
LEAST_UTILITY = 0.1
SETS = {
    "S": FORGOTTEN,
    "L": "retain_probability",
    "real authors": "real_authors_probability",
    "world facts": "world_facts_probability",
    "S and H together": "mia_loss",
}
# What a results file must hold; a tuple names what else may stand in a place, and float is any finite number.
CELL = {
    "row": str,
    "seed": int,
    "price": (float, None),
    "verdict": (str, None),
    "membership_auc": ({"attack": str, "value": float, "low": float, "high": float}, None),
    "metrics": dict,
}
RESULTS = {
    "name": str,
    "forget": str,
    "seeds": [int],
    "command": str,
    "hardware": str,
    "software": dict,
    "settings": dict,
    "rows": [{"name": str, "group": str, "flags": dict}],
    "cells": [CELL],
}

Cell = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        title: its head.
        of: the figure of a cell as ``{"value": ..., maybe "low" and "high"}``, None where it has none.
        decimals: shown.
    """

    title: str
    of: Callable[[Cell], dict[str, Any] | None]
    decimals: int = 2


@dataclass(frozen=True)
class Table:
    """One of the tables.

    Attributes:
        title: in words.
        columns: of figures, before those of ``counted``.
        counted: columns of words, by title: the word of a cell, shown with how many seeds have it.
        note: what a reader must know.
    """

    title: str
    columns: list[Column]
    counted: dict[str, Callable[[Cell], str | None]]
    note: str


def _metric(name: str) -> Callable[[Cell], dict[str, Any] | None]:
    return lambda cell: cell["metrics"].get(name)


def _log_quality(cell: Cell) -> dict[str, Any] | None:
    found = cell["metrics"].get("forget_quality_geometric")
    if found is None or found["value"] is None:
        return None
    # A p-value too small for a float was written as 0.
    return {"value": math.log10(max(found["value"], sys.float_info.min))}


def _of_retained(cell: Cell) -> dict[str, Any] | None:
    """The part of model utility that is measured on L."""
    parts = [cell["metrics"][name]["value"] for name in OF_RETAINED if name in cell["metrics"]]
    if len(parts) < len(OF_RETAINED) or None in parts:
        return None
    return {"value": harmonic_mean(parts)}


def _price(cell: Cell) -> dict[str, Any] | None:
    return None if cell["price"] is None else {"value": 100 * cell["price"]}


TABLES = {
    "main": Table(
        "Forgetting, utility and price",
        [
            Column("forget quality, log10 p", _log_quality, 1),
            Column("utility on L", _of_retained),
            Column("model utility", _metric(UTILITY)),
            Column("truth ratio on S", _metric("forget_truth_ratio_geometric_closer_to_one")),
            Column("probability on S", _metric(FORGOTTEN)),
            Column("ROUGE-L recall on S", _metric("forget_rougeL_recall")),
            Column("extraction strength", _metric("forget_extraction_strength")),
            Column("exact memorization", _metric("forget_exact_memorization")),
            Column("worst attack's AUC", lambda cell: cell["membership_auc"]),
            Column("price, %", _price, 1),
        ],
        {"verdict": lambda cell: cell["verdict"]},
        "Forget quality, as published: log10 of the p-value that the truth ratios on S are those of the retrained "
        "model; 0 is no difference, -1.3 is p = 0.05. It takes the same records for independent ones, so it hardly "
        "sees a difference of a few, and a ruined model can have any. Utility on L: the harmonic mean of its "
        "probability, ROUGE-L recall and truth ratio, three of the nine parts of model utility. The other measures "
        "of S are to be read beside the retrained model's: less than its is over-forgotten. Worst attack: of this "
        "project's own, the one that the verdict rests on. Price: operations of the training, in percent of "
        "retraining's.",
    ),
    "utility": Table(
        "Model utility in its nine parts",
        [
            Column("model utility", _metric(UTILITY)),
            *(
                Column(f"{words}: {label}", _metric(f"{name}_{measured}"))
                for words, name, likely in (
                    ("L", "retain", "probability"),
                    ("real authors", "real_authors", "probability_among_options"),
                    ("world facts", "world_facts", "probability_among_options"),
                )
                for label, measured in (
                    ("probability", likely),
                    ("ROUGE-L recall", "rougeL_recall"),
                    ("truth ratio", "truth_ratio_geometric_true_better"),
                )
            ),
        ],
        {},
        "Model utility is the harmonic mean of the nine. Probability: of the right answer, for real authors and world "
        "facts its part of that of all options. Truth ratio R: the mean of max(0, 1 - R). More is better.",
    ),
    "attacks": Table(
        "The six attacks of open-unlearning",
        [
            *(Column(f"AUC by {name.replace('_', ' ')}", _metric(label)) for name, label in ATTACKS.items()),
            Column("PrivLeak, %", _metric("privleak"), 1),
            Column("worst attack's AUC", lambda cell: cell["membership_auc"]),
        ],
        {"worst attack": lambda cell: cell["membership_auc"] and cell["membership_auc"]["attack"]},
        "AUC with which S is told from H: 1 always, 0.5 not at all, but S and H may differ in their texts too, so the "
        "retrained model's is the aim. PrivLeak by Min-K%: 0 for the retrained model, near -100 where S is still "
        "known, positive where it is avoided. Worst attack: of this project's own.",
    ),
}


def read(path: Path) -> dict[str, Any]:
    """The results, checked.

    Raises:
        InputError: the file is not there or does not hold the results of the benchmark.
    """
    if path.suffix != ".json":
        raise InputError(f"{path} is no .json file; name the results that benchmark.py wrote.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({in_one_line(error)}); run benchmark.py again.") from None
    try:
        _require(found, RESULTS, "its top")
        for i, cell in enumerate(found["cells"]):
            for name, metric in cell["metrics"].items():
                ends = {end: float for end in ("low", "high") if isinstance(metric, dict) and end in metric}
                _require(metric, {"value": (float, None), "n": int, **ends}, f"cells[{i}].metrics.{name}")
        _require_consistent(found)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{path} holds no results of benchmark.py: {in_one_line(error)}; run benchmark.py again."
        ) from None
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _require(value: Any, kind: Any, where: str) -> None:
    """Raise ValueError where a value is not of a kind, see :data:`RESULTS`."""
    if isinstance(kind, tuple):
        kind = None if value is None else kind[0]
    if isinstance(kind, dict) and isinstance(value, dict):
        for name, inner in kind.items():
            if name not in value:
                raise ValueError(f"{name!r} is missing at {where}")
            _require(value[name], inner, name if where == "its top" else f"{where}.{name}")
    elif isinstance(kind, list) and isinstance(value, list):
        for i, item in enumerate(value):
            _require(item, kind[0], f"{where}[{i}]")
    elif kind is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is no finite number")
    elif kind is None and value is None:
        pass
    elif not isinstance(kind, type) or type(value) is not kind:
        raise ValueError(f"{where} is of another type")


def _require_consistent(found: dict[str, Any]) -> None:
    names = [row["name"] for row in found["rows"]]
    if not found["seeds"] or len(set(found["seeds"])) < len(found["seeds"]):
        raise ValueError("there is no seed, or one twice")
    if len(set(names)) < len(names):
        raise ValueError("two rows have the same name")
    if strange := sorted({row["group"] for row in found["rows"]} - set(GROUPS)):
        raise ValueError(f"there is no group {strange[0]!r}")
    for row in found["rows"]:
        if (row["group"] == "yardstick") != (row["name"] in (ORIGINAL, RETRAINED)):
            raise ValueError(
                f"the yardsticks are {ORIGINAL} and {RETRAINED}, which {row['name']!r} is not, or not in their group"
            )
    places = [(cell["row"], cell["seed"]) for cell in found["cells"]]
    if len(set(places)) < len(places):
        raise ValueError("two cells have the same row and seed")
    for row, seed in places:
        if row not in names or seed not in found["seeds"]:
            raise ValueError(f"a cell of {row!r} with seed {seed} has no row or no seed")


def cells_of(found: dict[str, Any], row: str) -> list[Cell]:
    return [cell for cell in found["cells"] if cell["row"] == row]


def span(cells: list[Cell], of: Callable[[Cell], dict[str, Any] | None]) -> tuple[Span, int] | None:
    """The mean of a figure over seeds with the smallest and the largest, and how many seeds have it.

    Of one seed it is the value with its own interval, and where there is none, with itself.
    """
    known = [figure for cell in cells if (figure := of(cell)) is not None and figure["value"] is not None]
    if not known:
        return None
    values = [figure["value"] for figure in known]
    if len(values) > 1:
        return Span(math.fsum(values) / len(values), min(values), max(values)), len(values)
    return Span(values[0], known[0].get("low", values[0]), known[0].get("high", values[0])), 1


def _shown(cells: list[Cell], column: Column) -> str:
    found = span(cells, column.of)
    if found is None:
        return ""
    numbers, seeds = found
    # What rounds to zero has no sign.
    value, low, high = (
        f"{round(number, column.decimals) + 0.0:.{column.decimals}f}"
        for number in (numbers.value, numbers.low, numbers.high)
    )
    ends = "" if numbers.low == numbers.high else f" [{low}, {high}]"
    return value + ends + (f" ({seeds} of {len(cells)})" if seeds < len(cells) else "")


def _counts(words: list[str | None]) -> str:
    known = Counter(word for word in words if word is not None)
    return ", ".join(
        f"{_escaped(word)} {n} of {len(words)}" if len(words) > 1 else _escaped(word)
        for word, n in known.most_common()
    )


def as_table(found: dict[str, Any], which: str) -> str:
    """One of :data:`TABLES` in Markdown, the yardsticks first, the rows of a group in the order of the file."""
    table = TABLES[which]
    head = ["", "seeds", *(column.title for column in table.columns), *table.counted]
    lines = [_line(head), "|---" * len(head) + "|"]
    for group, title in GROUPS.items():
        rows = [row["name"] for row in found["rows"] if row["group"] == group]
        if rows:
            lines.append(_line([f"**{title}**", *[""] * (len(head) - 1)]))
        for row in rows:
            cells, all_seeds = cells_of(found, row), len(found["seeds"])
            seeds = f"{all_seeds}" if len(cells) == all_seeds else f"{len(cells)} of {all_seeds}"
            figures = [_shown(cells, column) for column in table.columns]
            words = [_counts([of(cell) for cell in cells]) for of in table.counted.values()]
            lines.append(_line([_escaped(row), seeds, *figures, *words]))
    return "\n".join(lines)


def _line(entries: list[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in r"\`*[]<>|" else letter for letter in in_one_line(text))


def caption(found: dict[str, Any]) -> str:
    """What the numbers of all tables rest on."""
    sizes = {
        words: sorted({cell["metrics"][name]["n"] for cell in found["cells"] if name in cell["metrics"]})
        for words, name in SETS.items()
    }
    records = [f"{words} {' or '.join(map(str, n))}" for words, n in sizes.items() if n]
    flags = [f"- {_escaped(row['name'])}: {_listed(row['flags'])}" for row in found["rows"] if row["flags"]]
    lines = [
        _brackets(found["seeds"]),
        f"Data: {_escaped(found['forget'])}. Records: {', '.join(records) or 'none yet'}. "
        f"Hardware: {_escaped(found['hardware'])}.",
        f"All rows: {_listed(found['settings'])}.",
        "\n".join(flags),
        f"Software: {_listed(found['software'])}.",
        f"```bash\n{found['command']}\n```",
    ]
    return "\n\n".join(filter(None, lines))


def _brackets(seeds: list[int]) -> str:
    interval = "the 95 % interval of the value, where it has one, with the authors as its unit where they are known."
    if len(seeds) == 1:
        return f"Seed {seeds[0]} alone. In brackets {interval}"
    return (
        f"Means over the seeds {', '.join(map(str, seeds))}, in brackets the smallest and the largest; where a row "
        f"has one seed, {interval} In parentheses how many of the row's seeds have a value, where not all do."
    )


def _listed(values: dict[str, Any], prefix: str = "") -> str:
    told = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, dict):
            told.append(_listed(value, f"{prefix}{name}."))
        else:
            words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            told.append(_escaped(f"{prefix}{name} {words}"))
    return ", ".join(filter(None, told))


def usefulness(found: dict[str, Any]) -> tuple[str, Callable[[Cell], dict[str, Any] | None]]:
    """What the picture takes for utility, in words, and of a cell: model utility, where the original has some."""
    original = span(cells_of(found, ORIGINAL), _metric(UTILITY))
    if original is not None and original[0].value < LEAST_UTILITY:
        return f"utility on L (the original's model utility is {original[0].value:.2f})", _of_retained
    return "model utility", _metric(UTILITY)


def points(found: dict[str, Any]) -> list[Point]:
    """The rows as points: how far S has gone from the original to the retrained model, and :func:`usefulness`.

    Probability is the measure, and not the p-value of forget quality, which tells most models apart no more. Both ends
    of the way are means over seeds, so that the retrained models of single seeds lie about 1.

    Returns:
        Nothing where the original or the retrained model is missing, or S is no less probable for the second.
    """
    ends = [span(cells_of(found, row), _metric(FORGOTTEN)) for row in (ORIGINAL, RETRAINED)]
    if ends[0] is None or ends[1] is None or ends[0][0].value <= ends[1][0].value:
        return []
    start, way = ends[0][0].value, ends[0][0].value - ends[1][0].value
    made = []
    _, utility = usefulness(found)
    for row in found["rows"]:
        cells = cells_of(found, row["name"])
        known, useful, price = (span(cells, of) for of in (_metric(FORGOTTEN), utility, _price))
        if known is not None and useful is not None:
            gone = Span(*((start - number) / way for number in (known[0].value, known[0].high, known[0].low)))
            cost = None if price is None else price[0].value / 100
            made.append(Point(row["name"], row["group"], gone, useful[0], cost))
    return made


def render(path: Path) -> None:
    """Write the tables and the picture of a results file beside it.

    Args:
        path: ``NAME.json``; ``NAME.md`` and, where both yardsticks are there to measure by, ``NAME.png`` are written.

    Raises:
        InputError: the file is not there or does not hold the results of the benchmark.
    """
    found = read(path)
    shown, picture = points(found), path.with_suffix(".png")
    if shown:
        draw(shown, f"{found['name']}, {found['forget']}: {_seeds(found)}", usefulness(found)[0], picture)
        told = f"![Forgetting against utility]({picture.name.replace(' ', '%20')})"
    else:
        picture.unlink(missing_ok=True)
        told = "There is no picture without an original and a retrained model that is less sure of S."
    parts = [f"# {_escaped(found['name'])}: the methods on TOFU", told]
    for which, table in TABLES.items():
        parts += [f"## {table.title}", as_table(found, which), table.note]
    parts += ["## What they rest on", caption(found)]
    write_text(path.with_suffix(".md"), "\n\n".join(parts) + "\n")


def _seeds(found: dict[str, Any]) -> str:
    most = len(found["seeds"])
    return "one seed, bars are its 95 % intervals" if most == 1 else f"{most} seeds, bars from smallest to largest"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the file that benchmark.py wrote")
    parser.add_argument("--table", choices=list(TABLES), help="print this one, and write nothing")
    args = parser.parse_args(argv)
    try:
        if args.table is None:
            render(args.results)
        else:
            found = read(args.results)
            print("\n\n".join([as_table(found, args.table), TABLES[args.table].note, caption(found)]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
