"""A model that is dealt into adapters by author, against one adapter for all: usefulness, and the price of a deletion.

    python recipes/benchmarks/shards.py --source tofu --base tinystories-260k      (folders; see recipes/tofu)

For each seed one joint LoRA adapter is trained on some authors of TOFU, and sharded models with the same settings.
Then one author is deleted: the joint adapter is trained again without the author, and `hf-unlearn run` does the rest.
`merged` is the mean of all adapters of the sharded model, as a model that nobody has to route. Losses are in nats per
token: on the authors that stay (L) and on the deleted author (S), answered as after the deletion. Results are kept in
OUTPUT/shards.json, so that the command can be interrupted and repeated.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel

from hf_unlearn import UnlearningReport, load_sharded
from hf_unlearn.cli import main as hf_unlearn
from hf_unlearn.models.loading import load_any, load_tokenizer
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import load_record
from hf_unlearn.sharding.layout import load_sharding
from hf_unlearn.sharding.serving import ShardedModel

ROWS_EACH = 20  # of an author; row i of `full` belongs to author i // 20
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(*argv: Any) -> None:
    """One command of hf-unlearn; its failure ends this one."""
    if code := hf_unlearn([str(one) for one in argv]):
        sys.exit(code)


def loss(model: ShardedModel, rows: list[dict[str, Any]], owners: list[Any]) -> float:
    """The mean loss of a token in nats."""
    table = model.score(Dataset.from_list(rows), owners, batch_size=32)
    return sum(table["nll"].to_pylist()) / sum(table["tokens"].to_pylist())


def losses(model: ShardedModel, rows: list[dict[str, Any]], deleted: int, routed: bool) -> dict[str, float]:
    """The losses on the authors that stay and on the deleted one."""
    parts = {
        "loss on L": [row for row in rows if row["author"] != deleted],
        "loss on S": [row for row in rows if row["author"] == deleted],
    }
    return {
        name: loss(model, part, [row["author"] if routed else None for row in part]) for name, part in parts.items()
    }


def as_one(folder: Path, sharded: Path) -> ShardedModel:
    """A joint model, to be scored as a sharded one is; nobody has an owner in it."""
    sharding = load_sharding(locate(str(sharded)))
    assert sharding is not None
    source = locate(str(folder))
    model = load_any(source, sharding.task)
    whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
    return ShardedModel(source, sharding, whole, load_tokenizer([source]), None)


def merged(sharded: Path, rows: list[dict[str, Any]], deleted: int) -> dict[str, float]:
    """The losses of the mean of all adapters."""
    model = load_sharded(str(sharded), max_loaded=9999)
    for part in model.sharding.parts:
        model._load(part.number)
    names = [str(part.number) for part in model.sharding.parts]
    model._peft.add_weighted_adapter(names, [1 / len(names)] * len(names), "mean", combination_type="cat")
    model._peft.set_adapter("mean")
    one = ShardedModel(model.source, model.sharding, model._peft.merge_and_unload(), model.tokenizer, None)
    return losses(one, rows, deleted, routed=False)


def one_seed(args: argparse.Namespace, seed: int, rows: list[dict[str, Any]], data: Path) -> dict[str, Any]:
    """All models of one seed."""
    folder, deleted = args.output / f"seed_{seed}", args.authors - 1
    common = [
        "--dataset_name", data, "--digest_key_file", args.output / "digest.key", "--use_cpu", "true",
        "--disable_tqdm", "true", "--logging_steps", 0.5, "--save_strategy", "no",
    ]  # fmt: skip
    training = [
        "--model_name_or_path", args.base, "--prompt_template", "Question: {question}\nAnswer:",
        "--completion_template", " {answer}", "--learning_rate", args.learning_rate, "--num_train_epochs", args.epochs,
        "--per_device_train_batch_size", 4, "--lr_scheduler_type", "cosine", "--lora_r", 16, "--lora_alpha", 32,
        "--lora_dropout", 0, "--lora_target_modules", *MODULES, "--seed", seed, *common,
    ]  # fmt: skip
    forget = ["--forget_values", f"author={deleted}", "--near_duplicates", "ignore"]
    found: dict[str, Any] = {}
    for name, flags in {"joint": [], "joint, retrained": ["--train_on", "retained", *forget]}.items():
        run("train", *training, "--use_peft", "true", *flags, "--output_dir", folder / name)
        record = load_record(locate(str(folder / name)))
        assert record is not None
        found[name] = {"flops": record.flops, "seconds": record.seconds}
    for number in args.shards:
        sharded, after = folder / f"sharded_{number}", folder / f"deleted_{number}"
        run("train", *training, "--shards", number, "--shard_column", "author", "--output_dir", sharded)
        run("run", "--model_name_or_path", sharded, *common, *forget, "--output_dir", after)
        report = UnlearningReport.load(after / "unlearning_report.json")
        assert report.shards is not None
        assert report.cost is not None
        model = load_sharded(str(after), digest_key_file=str(args.output / "digest.key"))
        sizes = [part.rows for part in model.sharding.parts]
        found[f"{number} shards, by key"] = {
            **losses(model, rows, deleted, routed=True),
            "verdict": report.verdict.word,
            "price": report.cost.training_ratio,
            "price with measuring": report.cost.total_ratio,
            "mean price": sum(size * size for size in sizes) / sum(sizes) ** 2,
            "largest shard": max(sizes) / sum(sizes),
        }
        found[f"{number} shards, merged"] = merged(after, rows, deleted)
    any_sharded = folder / f"sharded_{args.shards[0]}"
    for name in ("joint", "joint, retrained"):
        found[name] |= losses(as_one(folder / name, any_sharded), rows, deleted, routed=False)
    found["base"] = losses(as_one(args.base, any_sharded), rows, deleted, routed=False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the folder of TOFU, with full.json")
    parser.add_argument("--base", type=Path, required=True, help="the folder of the base model")
    parser.add_argument("--output", type=Path, default=Path("build/shards"))
    parser.add_argument("--authors", type=int, default=200)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    data = args.output / "tofu.jsonl"
    lines = (args.source / "full.json").read_text(encoding="utf-8").splitlines()[: args.authors * ROWS_EACH]
    rows = [{"author": i // ROWS_EACH, **json.loads(line)} for i, line in enumerate(lines)]
    rows = [{name: row[name] for name in ("author", "question", "answer")} for row in rows]
    if not data.is_file():
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = args.output / "shards.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"seeds": {}}
    found |= {
        "authors": args.authors,
        "epochs": args.epochs,
        "learning_rate": args.learning_rate,
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
    }
    for seed in args.seeds:
        if str(seed) not in found["seeds"]:
            found["seeds"][str(seed)] = one_seed(args, seed, rows, data)
            path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            print(f"seed {seed}: {json.dumps(found['seeds'][str(seed)])}", flush=True)


if __name__ == "__main__":
    main()
