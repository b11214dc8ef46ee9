"""A language model dealt into adapters by author, against joint training: usefulness, and the price of a deletion.

    python recipes/benchmarks/shards/tofu.py --source tofu --base tinystories-260k      (folders; see recipes/tofu)

For each seed models are trained on authors of TOFU: all weights, one adapter for all, and adapters that are dealt by
author, without slices and with --slices. Then `hf-unlearn run` deletes the last author. `merged` is the mean of all
adapters, as a model that nobody has to route. `never saw S` deals a training without that author, and is compared with
the deletion bit by bit. Losses are in nats per token: on every fourth question of the authors that stay (L), and on
the deleted author (S).

Each model is a cell of OUTPUT/tofu.json and is not made again, so that the command can be interrupted and repeated.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from kept import MODULES, Cells, around, as_one, loss, parser, run
from matplotlib.figure import Figure

from hf_unlearn import UnlearningReport, load_sharded
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import load_record
from hf_unlearn.sharding.layout import Sharding, load_sharding, passes, slice_of
from hf_unlearn.sharding.serving import ShardedModel

ROWS_EACH = 20  # of an author; row i of `full` belongs to author i // 20
EVERY = 4  # of the questions of L one in so many is scored


class Seed:
    """The models of one seed."""

    def __init__(self, args: argparse.Namespace, seed: int, rows: list[dict[str, Any]], data: Path):
        self.args, self.rows, self.folder = args, rows, args.output / f"seed_{seed}"
        self.deleted = args.authors - 1
        self.around = ["--dataset_name", data, *around(args.output)]
        self.forget = ["--forget_values", f"author={self.deleted}", "--near_duplicates", "ignore"]
        self.training = [
            "--model_name_or_path", args.base, "--prompt_template", "Question: {question}\nAnswer:",
            "--completion_template", " {answer}", "--num_train_epochs", args.epochs, "--lr_scheduler_type", "cosine",
            "--per_device_train_batch_size", 4, "--seed", seed, *self.around,
        ]  # fmt: skip

    def sharded(self, number: int, slices: int = 1) -> Path:
        return self.folder / f"sharded_{number}{of_slices(slices)}"

    def adapter(self, rank: int) -> list[Any]:
        """Flags of an adapter."""
        return [
            "--lora_r", rank, "--lora_alpha", 2 * rank, "--lora_dropout", 0, "--lora_target_modules", *MODULES,
            "--learning_rate", self.args.learning_rate,
        ]  # fmt: skip

    def losses(self, model: ShardedModel, routed: bool) -> dict[str, float]:
        """The losses on the authors that stay and on the deleted one."""
        parts = {
            "loss on L": [row for row in self.rows if row["author"] != self.deleted][::EVERY],
            "loss on S": [row for row in self.rows if row["author"] == self.deleted],
        }
        return {
            name: loss(model, part, [row["author"] if routed else None for row in part])
            for name, part in parts.items()
        }

    def base(self) -> dict[str, Any]:
        return self.losses(as_one(self.args.base, self.sharded(self.args.shards[0])), routed=False)

    def joint(self, name: str, flags: list[Any]) -> dict[str, Any]:
        """One model for all authors."""
        folder = self.folder / name
        run("train", *self.training, *flags, "--output_dir", folder)
        record = load_record(locate(str(folder)))
        assert record is not None
        model = as_one(folder, self.sharded(self.args.shards[0]))
        return {"flops": record.flops, **self.losses(model, routed=False)}

    def dealt(self, number: int, slices: int) -> dict[str, Any]:
        """Adapters by author, before and after the deletion."""
        folder, after = self.sharded(number, slices), self.folder / f"deleted_{number}{of_slices(slices)}"
        shards = ["--shards", number, "--slices", slices, "--shard_column", "author"]
        run("train", *self.training, *self.adapter(16), *shards, "--output_dir", folder)
        run("run", "--model_name_or_path", folder, *self.around, *self.forget, "--output_dir", after)
        report = UnlearningReport.load(after / "unlearning_report.json")
        assert report.cost is not None
        assert report.cost.training_ratio is not None
        assert report.cost.total_ratio is not None
        measuring = report.cost.total_ratio - report.cost.training_ratio
        before, now = self.weights(folder), self.weights(after)
        key = str(self.args.output / "digest.key")
        return {
            "before the deletion": self.losses(load_sharded(str(folder), digest_key_file=key), routed=True),
            **self.losses(load_sharded(str(after), digest_key_file=key), routed=True),
            "verdict": report.verdict.word,
            "adapters": len(before),
            "byte for byte as before": sum(now.get(name) == digest for name, digest in before.items()),
            "price": report.cost.training_ratio,
            "price with measuring": report.cost.total_ratio,
            **self.prices(folder, measuring),
        }

    def prices(self, folder: Path, measuring: float) -> dict[str, float]:
        """What the deletion of each author costs by record passes, with the measuring of the one that was done."""
        sharding = self.sharding(folder)
        total = sum(passes(part.stages) for part in sharding.parts)
        each = []
        for part in sharding.parts:
            for before in (slice_of(owner, sharding.slices) - 1 for owner in part.owners):
                left = [rows - ROWS_EACH * (stage >= before) for stage, rows in enumerate(part.stages)]
                each.append(passes(left, before) / (total - passes(part.stages) + passes(left)))
        return {
            "mean price": sum(each) / len(each),
            "mean price with measuring": sum(each) / len(each) + measuring,
            "price of the largest shard with measuring": max(each) + measuring,
        }

    def merged(self, number: int) -> dict[str, Any]:
        """The mean of all adapters, for everybody."""
        model = load_sharded(str(self.folder / f"deleted_{number}"), max_loaded=9999)
        for part in model.sharding.parts:
            model._load(part.number)
        names = [str(part.number) for part in model.sharding.parts]
        model._peft.add_weighted_adapter(names, [1 / len(names)] * len(names), "mean", combination_type="cat")
        model._peft.set_adapter("mean")
        whole = model._peft.merge_and_unload()
        return self.losses(ShardedModel(model.source, model.sharding, whole, model.tokenizer, None), routed=False)

    def never_saw(self, number: int) -> dict[str, Any]:
        """A training without the author, against the deletion."""
        folder, after = self.folder / f"never_{number}", self.folder / f"deleted_{number}"
        shards = ["--shards", number, "--shard_column", "author", "--train_on", "retained"]
        run("train", *self.training, *self.adapter(16), *shards, *self.forget, "--output_dir", folder)
        model = load_sharded(str(folder), digest_key_file=str(self.args.output / "digest.key"))
        rows = [row for row in self.rows if row["author"] == self.deleted]
        return {
            "same bits": self.weights(folder) == self.weights(after),
            "loss on S": loss(model, rows, [self.deleted] * len(rows)),
        }

    @staticmethod
    def sharding(folder: Path) -> Sharding:
        found = load_sharding(locate(str(folder)))
        assert found is not None
        return found

    def weights(self, folder: Path) -> dict[int, str]:
        """The digest of each adapter's weights, by number."""
        return {part.number: part.weights for part in self.sharding(folder).parts}


def of_slices(slices: int) -> str:
    """What the name of a model says of its slices."""
    return "" if slices == 1 else f" of {slices} slices"


def picture(found: dict[str, Any], path: Path) -> None:
    """What a deletion costs against what is known of the authors that stay; a bar goes from seed to seed."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    names = dict.fromkeys(name for cells in found.values() for name in cells if not name.endswith("never saw S"))
    for name in names:
        cells = [cells[name] for cells in found.values() if name in cells]
        dealt = [seed.get(name.removesuffix(", merged"), {}) for seed in found.values()]
        prices = [100 * cell["mean price with measuring"] for cell in dealt if "mean price with measuring" in cell]
        price = sum(prices) / len(prices) if prices else 0 if name == "base" else 100
        losses = [cell["loss on L"] for cell in cells]
        mean = sum(losses) / len(losses)
        axes.errorbar([price], [mean], [[mean - min(losses)], [max(losses) - mean]], fmt="o", capsize=3)
        left = price > 50
        axes.annotate(
            name, (price, mean), (-8 if left else 8, 4), textcoords="offset points", ha="right" if left else "left"
        )
    axes.set_xlabel("price of a deletion, % of training all again")
    axes.set_ylabel("loss on L, nats per token")
    figure.savefig(path, dpi=150)


def main() -> None:
    flags = parser(__doc__, "build/shards/tofu")
    flags.add_argument("--source", type=Path, required=True, help="the folder of TOFU, with full.json")
    flags.add_argument("--base", type=Path, required=True, help="the folder of the base model")
    flags.add_argument("--authors", type=int, default=200)
    flags.add_argument("--shards", type=int, nargs="+", default=[20])
    flags.add_argument("--slices", type=int, nargs="+", default=[], help="also deal each shard into so many")
    flags.add_argument("--epochs", type=float, default=8)
    flags.add_argument("--learning_rate", type=float, default=5e-3, help="of adapters")
    flags.add_argument("--full_learning_rate", type=float, default=3e-3, help="of all weights")
    args = flags.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    data = args.output / "tofu.jsonl"
    lines = (args.source / "full.json").read_text(encoding="utf-8").splitlines()[: args.authors * ROWS_EACH]
    rows = [{"author": i // ROWS_EACH, **json.loads(line)} for i, line in enumerate(lines)]
    rows = [{name: row[name] for name in ("author", "question", "answer")} for row in rows]
    if not data.is_file():
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shared = ("authors", "epochs", "learning_rate", "full_learning_rate")
    cells = Cells(args.output / "tofu.json", {name: vars(args)[name] for name in shared})
    for seed in args.seeds:
        models = Seed(args, seed, rows, data)
        for number, slices in product(args.shards, [1, *args.slices]):
            name = f"{number} shards{of_slices(slices)}"
            cells.make(seed, name, lambda models=models, number=number, slices=slices: models.dealt(number, slices))
        for number in args.shards:
            cells.make(seed, f"{number} shards, merged", lambda models=models, number=number: models.merged(number))
        cells.make(seed, "base", models.base)
        for name, extra in {
            "all weights": ["--learning_rate", args.full_learning_rate],
            "one adapter of rank 16": ["--use_peft", "true", *models.adapter(16)],
            "one adapter of rank 64": ["--use_peft", "true", *models.adapter(64)],
        }.items():
            cells.make(seed, name, lambda models=models, name=name, extra=extra: models.joint(name, extra))
        for number in args.shards:
            cells.make(
                seed, f"{number} shards, never saw S", lambda models=models, number=number: models.never_saw(number)
            )
    picture(cells.found["seeds"], args.output / "tofu.png")


if __name__ == "__main__":
    main()
