"""Which measure of forgetting deserves trust: models that know S against others, and attacks on unlearned ones.

    python recipes/benchmarks/faithfulness/faithfulness.py --world tofu --source path/to/tofu --base path/to/model
    python recipes/benchmarks/faithfulness/faithfulness.py --world quickstart --source build/quickstart
    python recipes/benchmarks/faithfulness/faithfulness.py                  tables and picture of what is there

The part `pools` trains models on D in five ways, which know S, and models on L, on D with false answers in S, and on D
with others' texts in the place of S, which do not. The part `robustness` unlearns a model by every method once, and
measures it before and after one epoch on a half of S, and with weights in few bits. Every model is a cell, a file that
is written as soon as the model is measured and not made again, so that the command can be interrupted and repeated.
"""

import argparse
import copy
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from measures import GROUPS, SEED, Yardsticks, measured
from tables import summarise
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging
from worlds import Way, World, quickstart, tofu, train

from hf_unlearn import InputError, UnlearningConfig, UnlearningTrainer
from hf_unlearn.evaluation.attacks.low_bits import FORMS, available, quantised_copy
from hf_unlearn.evaluation.attacks.relearning import FIELD_RATE
from hf_unlearn.evaluation.measured_sets import first_half
from hf_unlearn.files import write_text
from hf_unlearn.jobs.alternates import alternates
from hf_unlearn.methods.starts import checkpoint
from hf_unlearn.methods.table import METHODS

FIRST_SEED = 1_000_000  # of the models that others are compared with, which are in no pool
REFERENCES = 3  # models that are trained on L
BUDGET = 0.25  # of a method, as a part of the ordinary training
# OpenUnlearning relearns at 2e-5 what it had taught at 1e-5; here twice the rate of the ordinary training, too.
TAUGHT_AT = 1e-5
RELEARNING_BATCH = 4
PLAIN_PROMPT = "Question: {prompt}\nAnswer:"  # examples would not fit into the smallest models
EPOCHS = {"tofu": 8.0, "quickstart": 4.0}


class Benchmark:
    """One world with its folder, and the models that all others are compared with."""

    def __init__(self, world: World, folder: Path, groups: Sequence[str], references: int):
        self.world, self.folder, self.groups = world, folder, groups
        knows, lacks = (next(iter(world.ways[pool].values())) for pool in ("known", "unknown"))
        self.original = self._kept("original", knows, FIRST_SEED)
        self.retrained = [self._kept(f"retrained-{i}", lacks, FIRST_SEED + 1 + i) for i in range(references)]

    def _kept(self, name: str, way: Way, seed: int) -> PreTrainedModel:
        """A model that is trained at first use."""
        place = self.folder / "models" / name
        if not place.is_dir():
            temporary = place.with_name(f".{name}")
            shutil.rmtree(temporary, ignore_errors=True)
            self.world.trained(way, 0, seed).save_pretrained(temporary)
            self.world.tokenizer.save_pretrained(temporary)
            temporary.rename(place)
        writes = self.world.evidence.task == "text-generation"
        kind = AutoModelForCausalLM if writes else AutoModelForSequenceClassification
        return kind.from_pretrained(place, dtype=torch.float32).eval()

    def cell(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Make one cell and write it, unless it is there."""
        file = self.folder / "cells" / f"{name}.json"
        if file.is_file():
            return
        started = time.perf_counter()
        found = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({**found, "seconds": round(time.perf_counter() - started, 1)}, indent=1) + "\n")
        print(f"{self.folder.name} {name}: {found.get('way') or found.get('method')}", flush=True)

    def pools(self, models: int) -> None:
        """Models of both pools in turns, so that what is there at any time is balanced."""
        yardsticks: list[Yardsticks] = []

        def member(pool: str, number: int) -> dict[str, Any]:
            if not yardsticks:
                yardsticks.append(Yardsticks.of(self.world, self.world.evidence, self.original, self.retrained))
            way, model = self.world.member(pool, number)
            found = measured(self.world, yardsticks[0], model, self.groups)
            return {"pool": pool, "number": number, "way": way, "measures": found}

        for number in range(models):
            for pool in self.world.ways:
                self.cell(f"{pool}-{number:03d}", lambda pool=pool, number=number: member(pool, number))

    def robustness(self, methods: Sequence[str], form: str) -> None:
        """A retrained model, and the original unlearned by each method, before and after the attacks."""
        rows = np.array(self.world.evidence.sets["forget"]["row"])
        taught = np.unique(rows[first_half(rows, SEED)])
        forget = self.world.evidence.sets["forget"]
        other_half = forget.select(np.flatnonzero(~np.isin(rows, taught)))
        evidence = self.world.evidence.with_sets({**self.world.evidence.sets, "forget": other_half})
        groups = [name for name in self.groups if name != "verdict"]
        yardsticks: list[Yardsticks] = []

        def attacked(method: str) -> dict[str, Any]:
            if not yardsticks:
                yardsticks.append(Yardsticks.of(self.world, evidence, self.original, self.retrained))
            try:
                # The depth score compares with the first retrained model.
                model = self.retrained[-1] if method == "retrained" else self.unlearned(method)
            except InputError as error:
                return {"method": method, "left out": str(error)}
            found = {"before": model, "relearnt": self.relearnt(model, taught), form: quantised_copy(model, form)[0]}
            return {
                "method": method,
                "form": form,
                "original": measured(self.world, yardsticks[0], self.original, ["loss"])["utility"],
                **{name: measured(self.world, yardsticks[0], one, groups) for name, one in found.items()},
            }

        for method in ("retrained", *methods):
            self.cell(f"robust-{method}", lambda method=method: attacked(method))

    def relearnt(self, model: PreTrainedModel, taught: np.ndarray) -> PreTrainedModel:
        """A copy after one epoch on a half of S."""
        pupil = copy.deepcopy(model)
        lesson = next(iter(self.world.ways["known"].values())).in_place(0)
        assert lesson is not None
        part = lesson.select(np.flatnonzero(np.isin(lesson["row"], taught)))
        rate = self.world.rate * FIELD_RATE / TAUGHT_AT
        train(pupil, part, self.world.evidence.collator, 1, rate, SEED, RELEARNING_BATCH)
        return pupil

    def unlearned(self, name: str) -> PreTrainedModel:
        """What a method makes of the original in a quarter of the ordinary training."""
        method, world = METHODS[name], self.world
        settings = dict(world.settings)
        if not (method.uses_base or method.needs_base):
            settings.pop("base_model_name_or_path", None)
        settings |= {
            "learning_rate": world.rate * method.learning_rate_factor,
            "num_train_epochs": BUDGET * world.epochs,
            "per_device_train_batch_size": 16,
            **method.settings,
        }
        settings |= self._files(name)
        quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "measure_steps": 0}
        quiet |= {"save_strategy": "no", "logging_strategy": "no", "seed": SEED}
        folder = self.folder / "models" / ".unlearned"
        shutil.rmtree(folder, ignore_errors=True)
        trainer = UnlearningTrainer(
            str(self.folder / "models" / "original"),
            UnlearningConfig(str(folder), method=name, **settings, **quiet),
            world.records["retained"],
            world.records["forget"] if method.uses_forget else None,
            world.records["holdout"] if method.chooses else None,
            processing_class=world.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        shutil.rmtree(folder, ignore_errors=True)
        return trainer.model.eval()

    def _files(self, name: str) -> dict[str, str]:
        """What a method needs besides the records: a model of half the training, or answers that the base invents."""
        world, models = self.world, self.folder / "models"
        if METHODS[name].start is checkpoint:
            self._kept("checkpoint", replace(next(iter(world.ways["known"].values())), epochs=0.5), FIRST_SEED)
            return {"rewind_checkpoint": str(models / "checkpoint")}
        if METHODS[name].data.instead == "alternates" and world.evidence.task == "text-generation":
            rows = [{**row, "part": part} for part in ("forget", "retained") for row in world.records[part]]
            write_text(models / "records.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
            alternates({
                **{name: world.settings[name] for name in ("prompt_template", "completion_template")},
                "model_name_or_path": str(models / "original"),
                "generator": world.settings["base_model_name_or_path"],
                "alternates_prompt": PLAIN_PROMPT,
                "alternates_file": str(models / "alternates.jsonl"),
                "dataset_name": str(models / "records.jsonl"),
                "forget_values": ["part=forget"],
                "output_dir": str(models / ".alternates"),
                "use_cpu": True,
                "seed": SEED,
            })  # fmt: skip
            return {"alternates_file": str(models / "alternates.jsonl")}
        return {}


def find_world(args: argparse.Namespace) -> World:
    if args.source is None or (args.world == "tofu" and args.base is None):
        raise SystemExit("--world tofu needs --source and --base; --world quickstart needs --source.")
    if args.world == "tofu":
        return tofu(args.source, args.base, args.authors, args.forgotten, args.epochs)
    return quickstart(args.source, args.epochs)


def kept_settings(args: argparse.Namespace, folder: Path) -> None:
    """Write what the cells of a folder have in common, or refuse to mix them with others."""
    names = ("world", "authors", "forgotten", "epochs", "measures", "references")
    settings = {name: vars(args)[name] for name in names}
    file = folder / "settings.json"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=1) + "\n")
    elif json.loads(file.read_text("utf-8")) != settings:
        raise SystemExit(f"{folder} has cells with other settings; name another folder with --output.")


def quietly_on_one_thread() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=list(EPOCHS), help="which models to train; none when left out")
    parser.add_argument("--part", choices=["pools", "robustness"], help="both when left out")
    parser.add_argument("--models", type=int, default=20, help="of each pool")
    parser.add_argument("--measures", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="to attack")
    parser.add_argument("--form", choices=list(FORMS), default="nf4" if "nf4" in available()[0] else "rounded_4")
    parser.add_argument("--references", type=int, default=REFERENCES, help="models trained on L to compare with")
    parser.add_argument("--source", type=Path, help="the folder of TOFU, or what quickstart/prepare.py wrote")
    parser.add_argument("--base", type=Path, help="a small language model")
    parser.add_argument("--authors", type=int, default=12, help="of D, with those of S")
    parser.add_argument("--forgotten", type=int, default=2, help="authors of S; H has as many")
    parser.add_argument("--epochs", type=float, help="instead of those of the world")
    parser.add_argument("--output", type=Path, default=Path("build/faithfulness"))
    args = parser.parse_args()
    if args.world:
        quietly_on_one_thread()
        args.epochs = EPOCHS[args.world] if args.epochs is None else args.epochs
        folder = args.output / args.world
        kept_settings(args, folder)
        benchmark = Benchmark(find_world(args), folder, args.measures, args.references)
        if args.part != "robustness":
            benchmark.pools(args.models)
        if args.part != "pools":
            benchmark.robustness(args.methods, args.form)
    summarise(args.output)


if __name__ == "__main__":
    main()
