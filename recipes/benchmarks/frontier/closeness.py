"""Epsilon of methods on a small classifier, with originals of many seeds: how far U(A(D)) is from models without S.

    python recipes/benchmarks/frontier/closeness.py --models 128

Every seed trains an original on L and S and another model on L; each variant is applied to both, for a quarter of a
retraining. The unlearned models are compared with those that were retrained and then put through the same (R1), and
with those that were only retrained (R0). What each model makes of S and H is kept, and is not made again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from frontier import Variant, quietly_on_one_thread, trained, unlearned
from tasks import Task, subjects
from transformers import PreTrainedModel

from hf_unlearn.evaluation.closeness.epsilon import ceiling, example_bounds, pooled_bound
from hf_unlearn.evaluation.measured_sets import EvidenceSets
from hf_unlearn.evaluation.membership import logit_confidence
from hf_unlearn.files import write_text

COST = 0.25
SETS = ("forget", "holdout", "test")
VARIANTS = (
    Variant("retrain"),
    Variant("fine_tune"),
    *(Variant("shrink_perturb", alpha, hot=True) for alpha in (0.45, 0.6)),
)


def score(task: Task, model: PreTrainedModel) -> dict[str, Any]:
    """The loss of every record of S and H, the accuracy on both and on the test set."""
    sets = EvidenceSets(task.kind, {name: task.examples[name] for name in SETS}, task.collator, 128)
    tables = sets.score(model)
    found: dict[str, Any] = {f"{name} accuracy": float(t["correct"].to_numpy().mean()) for name, t in tables.items()}
    found |= {name: tables[name]["loss"].to_pylist() for name in SETS[:2]}
    return {**found, "memorised": task.memorised(model.eval())}


def make(task: Task, of: str, variant: Variant | None, seed: int, folder: Path) -> None:
    """One model; its file of numbers is the mark that it was made."""
    # Pairs of models that share their seed would not be independent.
    own = 2 * seed + (of == "retrained")
    arm = of if variant is None else f"{of}-{variant.name.replace(' ', '_')}"
    file = folder / "scores" / arm / f"{seed}.json"
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    model = trained(task, of, own, folder / "models")
    if variant is not None:
        model = unlearned(task, model, variant, COST, own, folder / "models" / f".{arm}-{seed}")
    write_text(file, json.dumps(score(task, model)) + "\n")


def summarise(folder: Path) -> list[dict[str, Any]]:
    """One row a variant: what is proven against both references, and what it knows and can."""
    scores = folder / "scores"
    retrained = read(scores / "retrained")
    rows = []
    for variant in (None, *VARIANTS):
        name = f"-{variant.name.replace(' ', '_')}" if variant else ""
        unlearned = read(scores / f"original{name}")
        if len(unlearned) < 2:
            continue
        row: dict[str, Any] = {"variant": variant.name if variant else "original", "models": len(unlearned)}
        for number in ("memorised", "test accuracy"):
            row[number] = mean_and_spread([model[number] for model in unlearned])
        references = {"R0": retrained, "R1": read(scores / f"retrained{name}") if variant else []}
        for reference, models in references.items():
            if len(models) < 2:
                continue
            row[reference] = {}
            for part in SETS[:2]:
                u, r = ([logit_confidence(np.array(model[part])) for model in arm] for arm in (unlearned, models))
                found = example_bounds(np.array(u), np.array(r))
                row[reference][part] = {
                    "median": float(np.median(found.epsilon)),
                    "wrong labels": float(np.median(found.epsilon[:30])),
                    "right labels": float(np.median(found.epsilon[30:])),
                    "all at once": pooled_bound(np.array(u), np.array(r)).epsilon,
                }
                row[reference]["ceiling"] = float(
                    ceiling(found.n_unlearned, found.n_retrained, found.alpha, found.delta)
                )
        rows.append(row)
    numbers = {name: mean_and_spread([model[name] for model in retrained]) for name in ("memorised", "test accuracy")}
    rows.insert(0, {"variant": "retrained", "models": len(retrained), **numbers})
    return json.loads(json.dumps(rows), parse_float=lambda number: round(float(number), 4))


def as_table(rows: list[dict[str, Any]]) -> str:
    """What is known, what is proven, and what could have been."""
    lines = [
        "| | models | wrong labels of S predicted | test accuracy | epsilon against R1: median of S, wrong labels, "
        "right labels | S at once (H) | against R0: median of S, S at once (H) | ceiling |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        told = [row["variant"], str(row["models"])]
        told += ["{:.3f} ± {:.3f}".format(*row[number]) for number in ("memorised", "test accuracy")]
        one, zero = row.get("R1"), row.get("R0")
        if one is not None:
            told.append(", ".join(f"{one['forget'][part]:.2f}" for part in ("median", "wrong labels", "right labels")))
            told.append(f"{one['forget']['all at once']:.2f} ({one['holdout']['all at once']:.2f})")
        else:
            told += ["", ""]
        if zero is not None:
            at_once = f"{zero['forget']['all at once']:.2f} ({zero['holdout']['all at once']:.2f})"
            told += [f"{zero['forget']['median']:.2f}, {at_once}", f"{zero['ceiling']:.2f}"]
        else:
            told += ["", ""]
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def mean_and_spread(values: list[float]) -> list[float]:
    """The mean and the standard deviation over the models."""
    return [float(np.mean(values)), float(np.std(values, ddof=1))]


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"), key=lambda f: int(f.stem))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=128, help="of each arm; half choose the attack, half are tested")
    parser.add_argument("--first", type=int, default=0, help="the first of them, to share the work out")
    parser.add_argument("--output", type=Path, default=Path("build/frontier/closeness"))
    args = parser.parse_args()
    quietly_on_one_thread()
    task = subjects()
    (args.output / "models").mkdir(parents=True, exist_ok=True)
    for seed in range(args.first, args.first + args.models):
        for of in ("original", "retrained"):
            for variant in (None, *VARIANTS):
                make(task, of, variant, seed, args.output)
    rows = summarise(args.output)
    write_text(args.output / "closeness.json", json.dumps(rows, indent=1) + "\n")
    print(as_table(rows))


if __name__ == "__main__":
    main()
