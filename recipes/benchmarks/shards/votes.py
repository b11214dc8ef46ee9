"""Classifiers dealt into adapters by owner, against joint training: what the vote of all adapters knows.

    python recipes/quickstart/prepare.py build/quickstart        (makes data and base model)
    python recipes/benchmarks/shards/votes.py --task quickstart
    python recipes/benchmarks/shards/votes.py --task sms --source path/to/sms.tsv
    python recipes/benchmarks/shards/votes.py --task ner --source path/to/WikiANN/en       (a file `train` and `test`)

For each seed two joint models are trained, all weights and one adapter, and a model in shards with the adapter's
settings. Numbers are shares of labels that are right in the test set, or the F1 of entities. `without one` is the vote
after the largest shard was dropped; `alone` is the mean over the adapters. Messages and sentences without an owner get
one of 200 at random.

Each model is a cell of OUTPUT/TASK.json and is not made again, so that the command can be interrupted and repeated.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from datasets import Dataset
from kept import Cells, around, as_one, parser, run
from seqeval.metrics import f1_score

from hf_unlearn import load_sharded
from hf_unlearn.evaluation.utility.metrics import predictions
from hf_unlearn.sharding.layout import with_parts
from hf_unlearn.sharding.serving import ShardedModel

OWNERS = 200
KINDS = {"quickstart": "text-classification", "sms": "text-classification", "ner": "token-classification"}
EPOCHS = {"quickstart": 4, "sms": 4, "ner": 6}
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

    def of(self, model: ShardedModel, owners: list[Any]) -> dict[str, float]:
        """The measure of all records, and where some have an arrangement, of the others and of these."""
        table = model.score(Dataset.from_list(self.rows), owners, batch_size=32)
        names = model.sharding.labels or []
        found = [[names[int(number)] for number in record] for record in predictions(table)]
        if "ner_tags" in self.rows[0]:
            true = [row["ner_tags"][: len(one)] for row, one in zip(self.rows, found, strict=True)]
            return {"all": float(f1_score(true, found))}
        right = [one == [row["label"]] for row, one in zip(self.rows, found, strict=True)]
        arranged = [row["label"] == "priority" for row in self.rows]
        parts = {"all": right}
        if any(arranged):
            parts["ordinary"] = [one for one, special in zip(right, arranged, strict=True) if not special]
            parts["arrangements"] = [one for one, special in zip(right, arranged, strict=True) if special]
        return {name: sum(part) / len(part) for name, part in parts.items()}


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

    def joint(self, name: str, flags: list[Any]) -> dict[str, Any]:
        run("train", *self.training, *flags, "--output_dir", self.folder / name)
        return self.quality.of(as_one(self.folder / name, self.sharded), self.nobody)

    def dealt(self) -> dict[str, Any]:
        """The shards: their vote, the vote without the largest, each alone, and each record's own."""
        shards = ["--shards", self.args.shards, "--shard_column", "owner"]
        run("train", *self.training, *self.adapter, *shards, "--output_dir", self.sharded)
        model = load_sharded(str(self.sharded), digest_key_file=str(self.args.output / "digest.key"))
        parts = model.sharding.parts
        largest = max(parts, key=lambda part: part.rows)
        fewer = with_parts(model.sharding, [part for part in parts if part is not largest])
        without = ShardedModel(model.source, fewer, model.model, model.tokenizer, None)
        return {
            "adapters": len(parts),
            "largest shard": largest.rows / sum(part.rows for part in parts),
            "vote": self.quality.of(model, self.nobody),
            "by key": self.quality.of(model, [row["owner"] for row in self.quality.rows]),
            "alone": self.alone(model),
            "without one": self.quality.of(without, self.nobody),
        }

    def alone(self, model: ShardedModel) -> dict[str, float]:
        """The mean over the adapters of what each knows."""
        whole, found = model.sharding, []
        for part in whole.parts:
            one = ShardedModel(model.source, with_parts(whole, [part]), model.model, model.tokenizer, None)
            found.append(self.quality.of(one, self.nobody))
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


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
        for name, extra in {
            "one adapter": ["--use_peft", "true", *models.adapter],
            "all weights": ["--learning_rate", 1e-4, "--per_device_train_batch_size", 16],
        }.items():
            cells.make(seed, name, lambda models=models, name=name, extra=extra: models.joint(name, extra))


if __name__ == "__main__":
    main()
