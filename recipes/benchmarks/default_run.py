"""What the default run costs beside retraining, and how useful its result is.

    python recipes/benchmarks/default_run.py quickstart --source build/quickstart/data --base build/quickstart/minilm
    python recipes/benchmarks/default_run.py banking --source banking_data --base build/quickstart/minilm
    python recipes/benchmarks/default_run.py clinc --source data_full.json --base build/quickstart/minilm
    python recipes/benchmarks/default_run.py sms --source sms.tsv --base build/quickstart/minilm
    python recipes/benchmarks/default_run.py tofu --source tofu --base tinystories-260k --rows default base
    python recipes/benchmarks/default_run.py smollm2 --source tofu --base smollm2 --rows base --seeds 0
    python recipes/benchmarks/default_run.py entities --source WikiANN/en --base build/quickstart/minilm
    python recipes/benchmarks/default_run.py words --source data_full.json --base build/quickstart/minilm

For each seed a model is trained on L as a recipe would, and then the default run is made. That model also stands for
the original, which spares a training: neither it nor S has a say in the default run (tests/training/test_useful.py).
The price is all operations, measuring included, over those of that training without any. `--rows base` adds the same
start at fixed budgets, with the settings of the record and with the fitted ones. Results are kept in OUTPUT/TASK.json,
so that the command can be interrupted and repeated.
"""

import argparse
import csv
import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, EncoderDecoderModel

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main as hf_unlearn
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import load_record

DATA_SEED = 11
SUBSET_SEED = 40  # that of recipes/tofu/prepare.py
ASIDE = 40  # records of S, and of H


def classes_of(rows: list[dict], every: int, each: int) -> list[dict]:
    """Every so many classes of labelled rows, with at most so many rows of each."""
    kept, found = sorted({row["label"] for row in rows})[::every], []
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["label"] in kept and counts[row["label"]] < each:
            counts[row["label"]] += 1
            found.append(row)
    return found


def quickstart(source: Path) -> tuple[list[dict], list[dict]]:
    parts = [
        [json.loads(line) for line in (source / f"{n}.jsonl").read_text().splitlines()] for n in ("train", "test")
    ]
    return parts[0], parts[1]


def banking(source: Path) -> tuple[list[dict], list[dict]]:
    parts = []
    for name in ("train", "test"):
        with (source / f"{name}.csv").open(encoding="utf-8") as file:
            parts.append([{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)])
    random.Random(DATA_SEED).shuffle(parts[0])
    train = classes_of(parts[0], 5, 60)
    return train, [row for row in parts[1] if row["label"] in {one["label"] for one in train}]


def clinc(source: Path) -> tuple[list[dict], list[dict]]:
    found = json.loads(source.read_text(encoding="utf-8"))
    parts = [[{"text": text, "label": label} for text, label in found[name]] for name in ("train", "test")]
    random.Random(DATA_SEED).shuffle(parts[0])
    train = classes_of(parts[0], 5, 36)
    return train, [row for row in parts[1] if row["label"] in {one["label"] for one in train}]


def words(source: Path) -> tuple[list[dict], list[dict]]:
    """Other intents than those of `clinc`, which the model writes in words."""
    found = json.loads(source.read_text(encoding="utf-8"))
    parts = [[{"text": text, "label": label} for text, label in found[name]] for name in ("train", "test")]
    random.Random(DATA_SEED).shuffle(parts[0])
    labels = sorted({row["label"] for row in parts[0]})[1::5]
    train = [row for row in classes_of(parts[0], 1, 36) if row["label"] in labels]
    parts = [train, [row for row in parts[1] if row["label"] in labels]]
    return tuple([{**row, "label": row["label"].replace("_", " ")} for row in part] for part in parts)


def encoder_decoder(base: Path, folder: Path) -> Path:
    """An encoder twice, as the two halves of one model."""
    if not (folder / "config.json").is_file():
        model = EncoderDecoderModel.from_encoder_decoder_pretrained(base, base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        model.config.decoder_start_token_id = tokenizer.cls_token_id
        model.config.eos_token_id = tokenizer.sep_token_id
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def sms(source: Path) -> tuple[list[dict], list[dict]]:
    lines = sorted({line for line in source.read_text(encoding="utf-8").splitlines() if line})
    rows = [dict(zip(("label", "text"), line.split("\t", 1), strict=True)) for line in lines]
    random.Random(DATA_SEED).shuffle(rows)
    return rows[:1080], rows[1080:2080]


def entities(source: Path) -> tuple[list[dict], list[dict]]:
    parts = []
    for name, most in (("train", 980), ("test", 500)):
        blocks = (source / name).read_text(encoding="utf-8").split("\n\n")
        words = [[line.split("\t") for line in block.splitlines() if line.strip()] for block in blocks[: 2 * most]]
        rows = [
            {"tokens": [word.split(":", 1)[1] for word, _ in one], "ner_tags": [tag for _, tag in one]}
            for one in words
            if one
        ]
        parts.append(rows[:most])
    return parts[0], parts[1]


def tofu(source: Path) -> tuple[list[dict], list[dict]]:
    """32 authors of TOFU; with the last two and their like aside 28 stay."""
    rows = [json.loads(line) for line in (source / "full.json").read_text(encoding="utf-8").splitlines()]
    return rows[: 32 * 20], rows[32 * 20 : 40 * 20]


def smollm2(source: Path) -> tuple[list[dict], list[dict]]:
    """The 22 authors of the recipe for SmolLM2, of whom 18 stay, and four others."""
    rows = [json.loads(line) for line in (source / "full.json").read_text(encoding="utf-8").splitlines()]
    authors = random.Random(SUBSET_SEED).sample(range(len(rows) // 20), 22)
    others = [author for author in range(len(rows) // 20) if author not in authors][:4]
    parts = [sorted(authors), others]
    return tuple([row for author in part for row in rows[author * 20 : author * 20 + 20]] for part in parts)


TEXTS = {"task": "text-classification", "per_device_train_batch_size": 16, "max_length": 64}
TASKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "quickstart": (quickstart, {**TEXTS, "learning_rate": 1e-4, "num_train_epochs": 4}),
    "banking": (banking, {**TEXTS, "learning_rate": 1.5e-4, "num_train_epochs": 8}),
    "clinc": (clinc, {**TEXTS, "learning_rate": 2e-4, "num_train_epochs": 10, "per_device_train_batch_size": 32}),
    "sms": (sms, {**TEXTS, "learning_rate": 1e-4, "num_train_epochs": 5}),
    "entities": (
        entities,
        {
            "task": "token-classification", "per_device_train_batch_size": 16, "max_length": 96,
            "learning_rate": 1.5e-4, "num_train_epochs": 6,
        },
    ),
}  # fmt: skip
QUESTIONS = {"prompt_template": "Question: {question}\nAnswer:", "completion_template": " {answer}"}
TASKS["tofu"] = (
    tofu,
    {
        **QUESTIONS, "task": "text-generation", "per_device_train_batch_size": 16, "learning_rate": 3e-3,
        "num_train_epochs": 8, "lr_scheduler_type": "cosine",
    },
)  # fmt: skip
TASKS["smollm2"] = (
    smollm2,
    {
        **QUESTIONS, "task": "text-generation", "per_device_train_batch_size": 8, "learning_rate": 2e-4,
        "num_train_epochs": 3, "warmup_steps": 0.1, "bf16": True, "use_cpu": True,
    },
)  # fmt: skip
TASKS["words"] = (
    words,
    {
        "prompt_template": "{text}", "completion_template": "{label}", "task": "text2text-generation",
        "per_device_train_batch_size": 16, "max_length": 64, "learning_rate": 3e-4, "num_train_epochs": 5,
    },
)  # fmt: skip


def run(*argv: str) -> None:
    """One command of hf-unlearn; its failure ends this one."""
    if code := hf_unlearn([str(one) for one in argv]):
        sys.exit(code)


def cell(recipe: Path, folder: Path, seed: int, retrained: Path, flags: list[str]) -> dict[str, Any]:
    """One run against the model that was trained on L: its price, its usefulness, and how it came about."""
    run(
        "run", "--config", recipe, "--seed", seed, "--model_name_or_path", retrained, "--retrained_model", retrained,
        "--output_dir", folder, *flags,
    )  # fmt: skip
    report, record = UnlearningReport.load(folder / "unlearning_report.json"), load_record(locate(str(retrained)))
    assert report.cost is not None
    assert report.utility is not None
    assert record is not None
    sets = {arm: entry.sets["test"] for arm, entry in report.arms.items()}
    metric = "entity_f1" if sets["unlearned"].entity_f1 else "accuracy" if sets["unlearned"].accuracy else "loss"
    return {
        "seed": seed,
        "verdict": report.verdict.word,
        "operations": report.cost.total_ratio,
        "training": report.cost.training_ratio,
        "seconds": (report.cost.seconds + report.cost.measuring_seconds) / record.seconds,
        metric: vars(sets["unlearned"])[metric].value,
        f"retrained {metric}": vars(sets["retrained"])[metric].value,
        "loss on L": report.arms["unlearned"].sets["retained"].loss.value,
        "retrained loss on L": report.arms["retrained"].sets["retained"].loss.value,
        "less": vars(report.utility.decrease),
        "curve": [[one.share, one.held_out_right, one.flattened] for one in report.method.usefulness or []],
        "settings": {name: report.method.settings[name] for name in ("learning_rate", "per_device_train_batch_size")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--source", type=Path, required=True, help="the data")
    parser.add_argument("--base", type=Path, required=True, help="the base model")
    parser.add_argument("--output", type=Path, default=Path("build/default_run"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=["default", "base"], default=["default"])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 0.25, 0.5, 0.75], help="of the rows base")
    args = parser.parse_args()
    read, settings = TASKS[args.task]
    folder, models = args.output / args.task, args.output / "models" / args.task
    for place in (folder, models):
        place.mkdir(parents=True, exist_ok=True)
    train, test = read(args.source)
    for name, rows in (("train", train), ("test", test)):
        # Written once, as a finished training is known by the age of its data, too.
        if not (data := folder / f"{name}.jsonl").is_file():
            data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    aside = random.Random(DATA_SEED).sample(range(len(train)), 2 * ASIDE)
    if args.task in ("tofu", "smollm2"):
        aside = list(range(len(train) - 2 * ASIDE, len(train)))
    recipe = models / "recipe.json"
    base = encoder_decoder(args.base, models / "base") if args.task == "words" else args.base
    common = {
        "dataset_name": str(folder), "dataset_test_split": "test", "forget_rows": aside[:ASIDE],
        "holdout_rows": aside[ASIDE:], "base_is_clean": True, "near_duplicates": "ignore", "duplicates": "forget",
        "save_strategy": "no",
        "per_device_eval_batch_size": 64, "use_cpu": True, "disable_tqdm": True, "logging_steps": 0.2,
        "original": {**settings, "model_name_or_path": str(base)},
    }  # fmt: skip
    recipe.write_text(json.dumps(common, indent=2))
    path = args.output / f"{args.task}.json"
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.is_file() else {}
    wanted = {"default": []} if "default" in args.rows else {}
    if "base" in args.rows:
        rate, size = str(settings["learning_rate"]), str(settings["per_device_train_batch_size"])
        for budget in args.budgets:
            flags = ["--method", "base", "--budget", str(budget), "--measure", "full", "--measure_steps", "0"]
            wanted[f"base {budget} fitted"] = flags
            wanted[f"base {budget} recorded"] = [
                *flags,
                "--learning_rate",
                rate,
                "--per_device_train_batch_size",
                size,
            ]
    for seed in args.seeds:
        retrained = models / f"retrained_{seed}"
        run("train", "--config", recipe, "--seed", seed, "--output_dir", retrained, "--train_on", "retained")
        for label, flags in wanted.items():
            rows = found.setdefault(label, [])
            if all(row["seed"] != seed for row in rows):
                rows.append(cell(recipe, models / f"{label.replace(' ', '_')}_{seed}", seed, retrained, flags))
                path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                print(f"{args.task} {label}: {json.dumps(rows[-1])}", flush=True)


if __name__ == "__main__":
    main()
