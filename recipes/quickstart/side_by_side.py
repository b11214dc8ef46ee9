"""Run a recipe with several methods and seeds, and put the results side by side.

    python recipes/quickstart/side_by_side.py --config recipes/sms_spam/recipe.yaml \\
        --output build/sms_spam/side_by_side --seeds 0 1 2 --variants auto fine_tune "toward_base --alpha 0.6"

For each seed the original is trained, then a retrained reference, then each variant runs: a method with flags of its
own. Flags that are not this script's go to all commands, such as `--bf16 true --use_cpu true`. What is finished is not
run again, so the command can be interrupted and repeated. It writes `results.json` and `results.png` and prints a
table: means over the seeds, with the smallest and the largest in brackets.
"""

import argparse
import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from transformers.utils import logging

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main as hf_unlearn

ARMS = {"original": "before", "retrained": "retrained on L"}
SHAPES = {
    "exact": "*", "not_distinguished": "o", "undecided": "D", "not_forgotten": "X", "over_forgotten": "v",
    "certified": "P", "retrained": "s",
}  # fmt: skip


def run(*argv: str) -> None:
    """One command of hf-unlearn; its failure ends this one."""
    if code := hf_unlearn(list(argv)):
        sys.exit(code)


def run_cell(config: str, folder: Path, seed: int, variant: str, flags: list[str]) -> UnlearningReport:
    """Train and unlearn with one variant and seed, or read what is there."""
    method, *own = shlex.split(variant)
    root = folder / f"seed_{seed}"
    original, reference = root / "original", root / "reference"
    common = ["--config", config, "--seed", str(seed), *flags]
    run("train", *common, "--output_dir", str(original))
    run("train", *common, "--output_dir", str(reference), "--train_on", "retained")
    output = root / "_".join([method, *(word.strip("-") for word in own)])
    run(
        "run", *common, "--model_name_or_path", str(original), "--retrained_model", str(reference),
        "--method", method, *own, "--output_dir", str(output),
    )  # fmt: skip
    return UnlearningReport.load(output / "unlearning_report.json")


def numbers(report: UnlearningReport, arm: str) -> dict[str, float]:
    """The figures of one model."""
    entry = report.arms[arm]
    found = {f"{name} loss": scores.loss.value for name, scores in entry.sets.items()}
    found |= {f"{name} accuracy": s.accuracy.value for name, s in entry.sets.items() if s.accuracy}
    if entry.membership_auc:
        found["membership AUC"] = entry.membership_auc.value
    return found


def summarise(cells: dict[str, list[UnlearningReport]]) -> list[dict[str, Any]]:
    """One row a model: the figures of all seeds, the verdicts, the cost as a share of retraining."""
    first = next(iter(cells.values()))
    rows = [
        {"variant": label, "figures": [numbers(r, arm) for r in first], "verdicts": {}, "cost": None}
        for arm, label in ARMS.items()
    ]
    for variant, reports in cells.items():
        costs = [(r.cost.training_ratio, r.cost.total_ratio) for r in reports if r.cost]
        rows.append(
            {
                "variant": variant,
                "figures": [numbers(report, "unlearned") for report in reports],
                "verdicts": dict(Counter(report.verdict.word for report in reports)),
                "cost": {"training": [c[0] for c in costs], "with measuring": [c[1] for c in costs]},
                "seconds": [r.cost.seconds for r in reports if r.cost],
            }
        )
    return rows


def spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} [{min(values):.2f}, {max(values):.2f}]"


def as_markdown(found: dict[str, Any]) -> str:
    """The results as a table: means over the seeds, with the smallest and the largest."""
    rows, seeds = found["rows"], len(found["seeds"])
    names = list(rows[0]["figures"][0])
    with_accuracy = any(name.endswith("accuracy") for name in names)
    columns = [name for name in names if not (with_accuracy and name.endswith("loss"))]
    judged = any(row["verdicts"] for row in rows)
    headings = [*columns, "price", *(["verdict"] if judged else [])]
    lines = ["| | " + " | ".join(headings) + " |", "|---" * (len(headings) + 1) + "|"]
    for row in rows:
        figures = [spread([figure[name] for figure in row["figures"]]) for name in columns]
        price = f"{100 * sum(total_prices(row)) / seeds:.0f} %" if row["variant"] != ARMS["original"] else ""
        verdicts = ", ".join(f"{word} {n} of {seeds}" if seeds > 1 else word for word, n in row["verdicts"].items())
        lines.append("| " + " | ".join([row["variant"], *figures, price, *([verdicts] if judged else [])]) + " |")
    return "\n".join(lines)


def total_prices(row: dict[str, Any]) -> list[float]:
    """The whole price of each seed, as a share of retraining's operations; retraining's own is 1."""
    return row["cost"]["with measuring"] if row["cost"] else [1.0] * len(row["figures"])


def draw(rows: list[dict[str, Any]], quality: str, path: Path) -> None:
    """The whole price across and the quality up, one dot a seed; the shape and the word say what is known."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for number, row in enumerate(row for row in rows if row["variant"] != ARMS["original"]):
        prices, values = total_prices(row), [figure[quality] for figure in row["figures"]]
        word = max(row["verdicts"], key=row["verdicts"].get) if row["verdicts"] else "retrained"
        # Hollow, so that models at the same place are all seen.
        style = {"color": f"C{number}", "marker": SHAPES[word], "linestyle": "", "markersize": 6 + 3 * number}
        style |= {"fillstyle": "none", "markeredgewidth": 1.8}
        axis.plot(prices, values, **style, label=f"{row['variant']}: {word.replace('_', ' ')}")
    before = [figure[quality] for figure in rows[0]["figures"]]
    axis.axhline(sum(before) / len(before), color="0.6", linestyle=":", label="before, which knows S")
    axis.axvline(1, color="0.85", zorder=0)
    axis.set_xlim(left=0)
    if quality.endswith("accuracy"):
        axis.set_ylim(min(0.9, axis.get_ylim()[0]), 1.02)
    axis.set_xlabel("operations with the measuring, as a share of retraining's")
    better = "more is better" if quality.endswith("accuracy") else "less is better"
    axis.set_ylabel(f"{quality} ({better})")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the recipe")
    parser.add_argument("--output", type=Path, required=True, help="folder for the models and the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=["auto", "fine_tune", "shrink_reheat"])
    args, flags = parser.parse_known_args()
    logging.set_verbosity_error()
    cells = {
        variant: [run_cell(args.config, args.output, seed, variant, flags) for seed in args.seeds]
        for variant in args.variants
    }
    rows = summarise(cells)
    report = next(iter(cells.values()))[0]
    found = {
        "config": args.config,
        "flags": flags,
        "seeds": args.seeds,
        "hardware": report.hardware,
        "software": report.software,
        "rows": rows,
    }
    (args.output / "results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    figures = rows[0]["figures"][0]
    quality = next(n for n in ("test accuracy", "test loss", "retained accuracy", "holdout loss") if n in figures)
    draw(rows, quality, args.output / "results.png")
    print(f"\n{as_markdown(found)}\n")
    print("S: forget, H: holdout, L: retained; price: operations with the measuring, as a share of retraining's.")
    print(f"results.json and results.png are in {args.output}.")


if __name__ == "__main__":
    main()
