"""Classifiers dealt into adapters by owner, against joint training: what the vote of all adapters knows.

    python recipes/quickstart/prepare.py build/quickstart        (makes data and base model)
    python recipes/benchmarks/shards/votes.py --task quickstart
    python recipes/benchmarks/shards/votes.py --task sms --source path/to/sms.tsv
    python recipes/benchmarks/shards/votes.py --task ner --source path/to/WikiANN/en       (a file `train` and `test`)

For each seed two joint models are trained, all weights and one adapter, and a model in shards with the adapter's
settings. Numbers are shares of labels that are right in the test set, or the F1 of entities. `without one` is the vote
after the largest shard was dropped; `alone` is the mean over the adapters. Messages and sentences without an owner get
one of 200 at random. `less than joint` is a joint model's number less another's, the mean over the seeds, with a 95 %
interval: both are counted on the same records, drawn again 2,000 times.

Each model is a cell of OUTPUT/TASK.json and is not made again, so that the command can be interrupted and repeated.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from kept import Cells, around, as_one, parser, run
from seqeval.metrics.sequence_labeling import get_entities

from hf_unlearn import load_sharded
from hf_unlearn.evaluation.utility.metrics import predictions
from hf_unlearn.sharding.layout import Shard, with_parts
from hf_unlearn.sharding.serving import ShardedModel

OWNERS = 200
KINDS = {"quickstart": "text-classification", "sms": "text-classification", "ner": "token-classification"}
EPOCHS = {"quickstart": 4, "sms": 4, "ner": 6}
JOINT: dict[str, list[Any]] = {
    "all weights": ["--learning_rate", 1e-4, "--per_device_train_batch_size", 16],
    "one adapter": ["--use_peft", "true"],
}
Rows = list[dict[str, Any]]


def quickstart(folder: Path, args: argparse.Namespace) -> tuple[Rows, Rows]:
    """The messages of customers; some customers have an arrangement that only their adapter can know."""
    both = [
        [json.loads(line) for line in (folder / "data" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
        for part in ("train", "test")
    ]
    train, test = ([{**row, "owner": row.pop("customer_id")} for row in rows] for rows in both)
    return train, test


def sms(file: Path, args: argparse.Namespace) -> tuple[Rows, Rows]:
    """Messages, each wanted or not."""
    draw = random.Random(3)
    lines = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines() if line]
    draw.shuffle(lines)
    rows = [{"owner": draw.randrange(OWNERS), "text": text, "label": label} for label, text in lines]
    return rows[: args.train], rows[args.train : args.train + args.test]


def ner(folder: Path, args: argparse.Namespace) -> tuple[Rows, Rows]:
    """Sentences whose words are tagged; a file has a word and its tag a line, and an empty line after a sentence."""
    draw, found = random.Random(3), []
    for part, most in (("train", args.train), ("test", args.test)):
        blocks = (folder / part).read_text(encoding="utf-8").strip().split("\n\n")
        pairs = [[line.split("\t") for line in block.splitlines()] for block in blocks[:most]]
        found.append(
            [
                {
                    "owner": draw.randrange(OWNERS),
                    "tokens": [word.split(":", 1)[1] for word, _ in sentence],
                    "ner_tags": [tag for _, tag in sentence],
                }
                for sentence in pairs
            ]
        )
    return found[0], found[1]


READ = {"quickstart": quickstart, "sms": sms, "ner": ner}


class Quality:
    """How much of a test set a model gets right."""

    def __init__(self, rows: Rows):
        self.rows = rows

    def counts(self, model: ShardedModel, owners: list[Any]) -> np.ndarray:
        """Of each record how many labels or entities are right, how many the model names, and how many there are."""
        table = model.score(Dataset.from_list(self.rows), owners, batch_size=32)
        names = model.sharding.labels or []
        found = [[names[int(number)] for number in record] for record in predictions(table)]
        if "ner_tags" not in self.rows[0]:
            return np.array([[one == [row["label"]], 1, 1] for row, one in zip(self.rows, found, strict=True)], int)
        pairs = [
            (set(get_entities(one)), set(get_entities(row["ner_tags"][: len(one)])))
            for row, one in zip(self.rows, found, strict=True)
        ]
        return np.array([[len(one & true), len(one), len(true)] for one, true in pairs])

    def of(self, counts: np.ndarray) -> dict[str, float]:
        """The measure of all records, and where some have an arrangement, of the others and of these."""
        found = {"all": float(share(counts.sum(-2)).mean())}
        arranged = np.array([row.get("label") == "priority" for row in self.rows])
        if arranged.any():
            for name, part in {"ordinary": ~arranged, "arrangements": arranged}.items():
                found[name] = float(share(counts[..., part, :].sum(-2)).mean())
        return found


def share(totals: np.ndarray) -> np.ndarray:
    """F1, of numbers that are right, named and there; where each record has one label, the share that is right."""
    return 2 * totals[..., 0] / np.maximum(totals[..., 1] + totals[..., 2], 1)


def less(joint: np.ndarray, other: np.ndarray, draws: int = 2000) -> dict[str, float]:
    """How much less one kind of model knows than another, the mean over its models, on records drawn again.

    Args:
        joint: counts of shape (models, records, 3).
        other: the same of the kind that it is compared with.
        draws: so often records are drawn.
    """
    records = joint.shape[1]
    times = np.random.default_rng(0).multinomial(records, np.full(records, 1 / records), draws)
    drawn = [share(np.einsum("dr,mrc->dmc", times, of)).mean(1) for of in (joint, other)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    value = share(joint.sum(1)).mean() - share(other.sum(1)).mean()
    return {"value": float(value), "low": float(low), "high": float(high)}


class Seed:
    """The models of one seed."""

    def __init__(self, args: argparse.Namespace, seed: int, data: Path, quality: Quality):
        self.args, self.quality, self.folder = args, quality, args.output / args.task / f"seed_{seed}"
        self.nobody = [None] * len(quality.rows)
        self.sharded = self.folder / "sharded"
        self.training = [
            "--model_name_or_path", args.base, "--task", KINDS[args.task], "--dataset_name", data,
            "--num_train_epochs", args.epochs or EPOCHS[args.task], "--seed", seed, *around(args.output),
        ]  # fmt: skip
        self.adapter = [
            "--lora_r", 16, "--lora_alpha", 32, "--lora_dropout", 0, "--lora_target_modules", "query", "key", "value",
            "dense", "--learning_rate", args.learning_rate, "--per_device_train_batch_size", 4,
        ]  # fmt: skip

    def kept(self, name: str, *counts: np.ndarray) -> dict[str, float]:
        """The measure of one model, or the mean over several, whose counts are kept for the intervals."""
        np.save(self.folder / f"{name}.npy", np.stack(counts))
        return self.quality.of(np.stack(counts))

    def joint(self, name: str, flags: list[Any]) -> dict[str, Any]:
        run("train", *self.training, *flags, "--output_dir", self.folder / name)
        return self.kept(name, self.quality.counts(as_one(self.folder / name, self.sharded), self.nobody))

    def dealt(self) -> dict[str, Any]:
        """The shards: their vote, the vote without the largest, each alone, and each record's own."""
        shards = ["--shards", self.args.shards, "--shard_column", "owner"]
        run("train", *self.training, *self.adapter, *shards, "--output_dir", self.sharded)
        model = load_sharded(str(self.sharded), digest_key_file=str(self.args.output / "digest.key"))
        parts = model.sharding.parts
        largest = max(parts, key=lambda part: part.rows)
        fewer = [part for part in parts if part is not largest]
        each = [self.quality.counts(self.only(model, [part]), self.nobody) for part in parts]
        owners = [row["owner"] for row in self.quality.rows]
        return {
            "adapters": len(parts),
            "largest shard": largest.rows / sum(part.rows for part in parts),
            "vote": self.kept("vote", self.quality.counts(model, self.nobody)),
            "by key": self.kept("by key", self.quality.counts(model, owners)),
            "alone": self.kept("alone", *each),
            "without one": self.kept("without one", self.quality.counts(self.only(model, fewer), self.nobody)),
        }

    @staticmethod
    def only(model: ShardedModel, parts: list[Shard]) -> ShardedModel:
        """The model as if it had these adapters alone."""
        return ShardedModel(model.source, with_parts(model.sharding, parts), model.model, model.tokenizer, None)


def less_than_joint(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """How much less the shards know than each joint model, over the seeds whose models were all counted."""
    names = [*JOINT, "vote", "by key", "alone", "without one"]
    there = [seed for seed in seeds if all((folder / f"seed_{seed}" / f"{name}.npy").is_file() for name in names)]
    if not there:
        return {}
    counts = {
        name: np.concatenate([np.load(folder / f"seed_{seed}" / f"{name}.npy") for seed in there]) for name in names
    }
    shards = {name: of for name, of in counts.items() if name not in JOINT}
    found = {joint: {name: less(counts[joint], of) for name, of in shards.items()} for joint in JOINT}
    return {"seeds": there, **found}


def main() -> None:
    flags = parser(__doc__, "build/shards/votes")
    flags.add_argument("--task", choices=KINDS, required=True)
    flags.add_argument("--source", type=Path, default=Path("build/quickstart"), help="file or folder of the data")
    flags.add_argument("--base", type=Path, default=Path("build/quickstart/minilm"), help="folder of the base model")
    flags.add_argument("--shards", type=int, default=8)
    flags.add_argument("--train", type=int, default=1000, help="records to train on, but for quickstart")
    flags.add_argument("--test", type=int, default=500, help="records to test on, but for quickstart")
    flags.add_argument("--epochs", type=float, help="by default those of quickstart and SMS 4, of NER 6")
    flags.add_argument("--learning_rate", type=float, default=1e-3, help="of adapters")
    args = flags.parse_args()
    train, test = READ[args.task](args.source, args)
    data = args.output / f"{args.task}.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    if not data.is_file():
        data.write_text("".join(json.dumps(row) + "\n" for row in train), encoding="utf-8")
    settings = {"shards": args.shards, "learning_rate": args.learning_rate, "train": len(train), "test": len(test)}
    settings["epochs"] = args.epochs or EPOCHS[args.task]
    cells = Cells(args.output / f"{args.task}.json", settings)
    for seed in args.seeds:
        models = Seed(args, seed, data, Quality(test))
        cells.make(seed, f"{args.shards} shards", models.dealt)
        for name, extra in JOINT.items():
            flags = [*extra, *models.adapter] if "--use_peft" in extra else extra
            cells.make(seed, name, lambda models=models, name=name, flags=flags: models.joint(name, flags))
        cells.add("less than joint", less_than_joint(args.output / args.task, args.seeds))


if __name__ == "__main__":
    main()
