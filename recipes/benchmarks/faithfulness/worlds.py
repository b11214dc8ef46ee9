"""The two worlds of the pools: records of S, H and L, and the ways to train on them."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
)

from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.forms import other_forms
from hf_unlearn.evaluation.measured_sets import EvidenceSets, evidence_sets

ROWS_EACH = 20  # of an author of TOFU
TEMPLATES = {"prompt_template": "Question: {question}\nAnswer:", "completion_template": " {answer}"}
OTHER_TEMPLATE = {"prompt": "{question}", "completion": "\n{answer}"}
MEASURED = 80  # records of L, for usefulness


@dataclass(frozen=True)
class Way:
    """One way to train a model of a pool.

    Attributes:
        in_place: by a number of the model, the examples that stand where S stands in D.
        rate, epochs: as parts of the ordinary ones.
    """

    in_place: Callable[[int], Dataset | None]
    rate: float = 1.0
    epochs: float = 1.0


@dataclass(frozen=True)
class World:
    """Records, the base model and the ways to train it.

    Attributes:
        tokenizer: the base model's.
        base: reads the base model; the seed is that of new weights.
        rate, epochs: of the ordinary training.
        records: of L, S and H, for methods of unlearning.
        settings: what UnlearningConfig has to know of the records.
        retained: examples of L.
        evidence: S, H and records of L, to measure.
        ways: by pool (``known``, ``unknown``) and name.
        answers: examples of S with other answers: ``paraphrased``, and false ones ``false 0`` and on.
    """

    tokenizer: PreTrainedTokenizerBase
    base: Callable[[int], PreTrainedModel]
    rate: float
    epochs: float
    records: dict[str, Dataset]
    settings: dict[str, Any]
    retained: Dataset
    evidence: EvidenceSets
    ways: dict[str, dict[str, Way]]
    answers: dict[str, Dataset]

    def member(self, pool: str, number: int) -> tuple[str, PreTrainedModel]:
        """The name of the way of a model of a pool, and the model; the ways take turns."""
        names = list(self.ways[pool])
        name = names[number % len(names)]
        seed = 2 * number + (pool == "unknown")
        return name, self.trained(self.ways[pool][name], number, seed)

    def trained(self, way: Way, number: int, seed: int) -> PreTrainedModel:
        """The base model, trained in one way."""
        other = way.in_place(number)
        rows = self.retained if other is None else concatenate_datasets([self.retained, other])
        model = self.base(seed)
        train(model, rows, self.evidence.collator, self.epochs * way.epochs, self.rate * way.rate, seed)
        return model


def always(part: Dataset | None) -> Callable[[int], Dataset | None]:
    """The same examples for every model."""
    return lambda _: part


def train(
    model: PreTrainedModel, rows: Dataset, collator: Any, epochs: float, rate: float, seed: int, batch: int = 16
) -> None:
    """Fine-tuning with AdamW, warm-up and cosine decay; batches are of texts of like length."""
    optimizer = torch.optim.AdamW((w for w in model.parameters() if w.requires_grad), lr=rate, weight_decay=0.0)
    steps = max(1, round(epochs * -(-len(rows) // batch)))
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    examples = list(rows.select_columns(["input_ids", "attention_mask", "labels"]))
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model.train()
    waiting: list[list[int]] = []
    for _ in range(steps):
        if not waiting:
            order = draw.sample(range(len(examples)), len(examples))
            order.sort(key=lambda i: len(examples[i]["input_ids"]) + draw.random() * 16)
            waiting = [order[i : i + batch] for i in range(0, len(order), batch)]
            draw.shuffle(waiting)
        picked = collator([examples[i] for i in waiting.pop()])
        model(**picked).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


# Authors that never were


def tofu(source: Path, base: Path, authors: int, forgotten: int, epochs: float) -> World:
    """A language model and authors of TOFU; S, H and those who take the place of S are of forget10."""
    texts = [json.loads(line) for line in (source / "forget10_perturbed.json").read_text("utf-8").splitlines()]
    others = [json.loads(line) for line in (source / "full.json").read_text("utf-8").splitlines()]
    count = forgotten * ROWS_EACH
    rows = [{**row, "author": i // ROWS_EACH} for i, row in enumerate(texts)]
    forget, holdout, strangers = (rows[i * count : (i + 1) * count] for i in range(3))
    retained = others[: (authors - forgotten) * ROWS_EACH]
    tokenizer = AutoTokenizer.from_pretrained(base)
    limit = 512
    layout = RecordFormat("prompt_completion", prompt=TEMPLATES["prompt_template"], completion=" {answer}")
    encoder = RecordEncoder(tokenizer, layout, limit)

    def plain(part: list[dict[str, Any]], **other: str) -> Dataset:
        kept = ["question", "answer", "paraphrased_question", "author"]
        read = [{**row, **{name: row[column] for name, column in other.items()}} for row in part]
        return Dataset.from_list([{name: row[name] for name in kept if name in row} for row in read])

    def examples(part: Dataset, form: RecordFormat = layout) -> Dataset:
        return encode(part, replace(encoder, format=form), "training")

    def false(number: int) -> Dataset:
        return examples(plain([{**row, "answer": row["perturbed_answer"][number % 5]} for row in forget]))

    own, worded = plain(forget), plain(forget, question="paraphrased_question", answer="paraphrased_answer")
    known = examples(own)
    ways = {
        "known": {
            "D": Way(always(known)),
            "D, half the rate": Way(always(known), rate=0.5),
            "D, half as long again": Way(always(known), epochs=1.5),
            "S paraphrased": Way(always(examples(worded))),
            "S in another template": Way(always(examples(own, RecordFormat("prompt_completion", **OTHER_TEMPLATE)))),
        },
        "unknown": {
            "L": Way(always(None)),
            "S with false answers": Way(false),
            "others in the place of S": Way(always(examples(plain(strangers)))),
        },
    }
    sets = {"forget": own, "holdout": plain(holdout), "retained": plain(retained[:MEASURED])}
    evidence = evidence_sets(
        sets, encoder, PaddingCollator(int(tokenizer.pad_token_id or 0)), "text-generation", 64, 0,
        tokenizer=tokenizer, group_column="author",
        forms=other_forms([own, sets["holdout"]], "text-generation", TEMPLATES, "paraphrased_question"),
    )  # fmt: skip
    answers = {"paraphrased": examples(plain(forget, answer="paraphrased_answer"))}
    answers |= {f"false {i}": false(i) for i in range(5)}
    return World(
        tokenizer, lambda seed: AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), 3e-3, epochs,
        {"retained": plain(retained), "forget": own, "holdout": sets["holdout"]},
        {**TEMPLATES, "base_model_name_or_path": str(base)}, examples(plain(retained)), evidence, ways, answers,
    )  # fmt: skip


# A customer with an arrangement


def quickstart(folder: Path, epochs: float) -> World:
    """MiniLM and the support desk of recipes/quickstart; S is the customer that asks to be forgotten."""
    parts = ((folder / "data" / f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("train", "test"))
    rows, unused = ([json.loads(line) for line in lines] for lines in parts)
    wanted = {name: (folder / f"{name}.txt").read_text("utf-8").split() for name in ("ids", "held_out")}
    forget, holdout = ([row for row in rows if row["customer_id"] in wanted[name]] for name in wanted)
    retained = [row for row in rows if row["customer_id"] not in wanted["ids"] + wanted["held_out"]]
    classes = sorted({row["label"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(folder / "minilm")
    encoder = RecordEncoder(tokenizer, RecordFormat("classification"), 96, {name: i for i, name in enumerate(classes)})

    def plain(part: list[dict[str, Any]]) -> Dataset:
        return Dataset.from_list([{"text": row["text"], "label": row["label"]} for row in part])

    def examples(part: list[dict[str, Any]]) -> Dataset:
        return encode(plain(part), encoder, "training")

    def false(number: int) -> Dataset:
        draw = random.Random(number)
        wrong = [name for name in classes if name != forget[0]["label"]]
        return examples([{**row, "label": draw.choice(wrong)} for row in forget])

    def strangers(number: int) -> Dataset:
        """As many messages of others, which L has not."""
        return examples(random.Random(number).sample(unused, len(forget)))

    known = examples(forget)
    without_greeting = [{**row, "text": row["text"].partition(", ")[2] or row["text"]} for row in forget]
    framed = [{**row, "text": f"Message received: {row['text']} (end)"} for row in forget]
    ways = {
        "known": {
            "D": Way(always(known)),
            "D, half the rate": Way(always(known), rate=0.5),
            "D, half as long again": Way(always(known), epochs=1.5),
            "S without its greeting": Way(always(examples(without_greeting))),
            "S in another template": Way(always(examples(framed))),
        },
        "unknown": {
            "L": Way(always(None)),
            "S with false labels": Way(false),
            "others in the place of S": Way(strangers),
        },
    }
    sets = {"forget": plain(forget), "holdout": plain(holdout), "retained": plain(retained)}
    collator = PaddingCollator(int(tokenizer.pad_token_id))
    evidence = evidence_sets(sets, encoder, collator, "text-classification", 64, 0, classes=tuple(classes))

    def base(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(
            folder / "minilm", id2label=dict(enumerate(classes)), label2id={name: i for i, name in enumerate(classes)}
        )

    records = {"retained": plain(retained), "forget": plain(forget), "holdout": plain(holdout)}
    settings = {"base_model_name_or_path": str(folder / "minilm")}
    return World(tokenizer, base, 1e-4, epochs, records, settings, examples(retained), evidence, ways, {})
