"""Run a recipe with several methods and seeds, and put the results side by side.

    python recipes/quickstart/side_by_side.py --config recipes/sms_spam/recipe.yaml \\
        --output build/sms_spam/side_by_side --seeds 0 1 2 --variants fine_tune "toward_base --alpha 0.6" base

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

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main as hf_unlearn

ARMS = {"original": "before", "retrained": "retrained on L"}


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
        price = f"{100 * sum(row['cost']['training']) / seeds:.0f} %" if row["cost"] else ""
        verdicts = ", ".join(f"{word} {n} of {seeds}" if seeds > 1 else word for word, n in row["verdicts"].items())
        lines.append("| " + " | ".join([row["variant"], *figures, price, *([verdicts] if judged else [])]) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], quality: str, path: Path) -> None:
    """Two columns of dots, one a seed: how well an attack recognises S, and how good the model is."""
    figure = Figure(figsize=(9, 0.5 * len(rows) + 1.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    labels = []
    for y, row in enumerate(reversed(rows)):
        price = f"  ({100 * sum(row['cost']['training']) / len(row['figures']):.0f} %)" if row["cost"] else ""
        labels.append(row["variant"] + price)
        marker = {"marker": "s" if row["cost"] is None else "o", "color": "0.45" if row["cost"] is None else "#d95f02"}
        for axis, name in ((left, "membership AUC"), (right, quality)):
            axis.plot([f[name] for f in row["figures"]], [y] * len(row["figures"]), linestyle="", **marker)
    left.set_yticks(range(len(rows)), labels)
    left.set_xlim(-0.02, 1.02)
    left.axvline(0.5, color="0.8", zorder=0)
    left.set_xlabel("in brackets: operations of the training, as a share of retraining's", fontsize=8)
    left.set_title(
        "Membership AUC of the records to forget\n0.5: the attack guesses, 1: it is always right", fontsize=10
    )
    better = "more is better" if quality.endswith("accuracy") else "less is better"
    right.set_title(f"{quality}\n{better}", fontsize=10)
    for axis in (left, right):
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="the recipe")
    parser.add_argument("--output", type=Path, required=True, help="folder for the models and the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=["fine_tune", "toward_base", "base"])
    args, flags = parser.parse_known_args()
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
    print("S: forget, H: holdout, L: retained; price: operations of the training, as a share of retraining's.")
    print(f"results.json and results.png are in {args.output}.")


if __name__ == "__main__":
    main()
