"""How often the verdict is right: models whose forgetting is known, trained and judged, many times.

    python recipes/benchmarks/calibration.py --task classifier --seeds 100
    python recipes/benchmarks/calibration.py --task lm --seeds 20
    python recipes/benchmarks/calibration.py --worlds 200        draw scores whose truth is known, without training
    python recipes/benchmarks/calibration.py                     judge what is there again, without training

Each seed draws L, S and H from Python's own reference texts (`pydoc_data`, which comes with Python) and trains an
original on L and S, four models on L, one on L and half of S, and one that is the original pushed away from S. S and H
are alike: in the classifier all their labels are wrong, and each record of the language model ends in a random code,
so S can only be learned by heart. Then the same with an S of one topic and an H of the others. What each model makes
of each record is written to a folder a seed, and what is there is not trained again. The rules are applied to these
tables (calibration_rates.py), for all seeds that are there.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import datasets
import torch
from calibration_rates import FEW, REFERENCES, judge
from calibration_worlds import draw_worlds
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)
from transformers.utils import logging

from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.measured_sets import EvidenceSets, evidence_sets, save_tables
from hf_unlearn.evaluation.statistics import membership_auc
from hf_unlearn.files import write_text

# The classes of the classifier, and what an S of one topic is drawn from; entries of the language reference.
TOPICS = {
    "statements": ("assignment", "async", "class", "compound", "exceptions", "import", "raise"),
    "objects": ("attribute-access", "comparisons", "customization", "execmodel", "objects", "specialnames"),
    "types": ("numeric-types", "sequence-types", "types", "typesmapping", "typesseq"),
    "text": ("debugger", "formatstrings", "string-methods", "strings"),
}
CLASSES = list(TOPICS)
WORDS_EACH = 8  # of a record
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
BATCH = 32
PUSH_RATE = 3e-3
PUSHED_TO = 0.35  # the membership AUC by the loss at which S counts as treated worse than H
MOST_PUSHES = 300


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Records of each set (H has as many as S), and passes over the data."""

    forget: int
    retained: int
    test: int
    epochs: int
    base_epochs: int = 0


# So many records of S that equivalence within the margin can be confirmed for all attacks together.
SIZES = {
    "classifier": Sizes(forget=400, retained=500, test=200, epochs=14),
    "lm": Sizes(forget=300, retained=400, test=200, epochs=12, base_epochs=5),
}
LEARNING_RATE = {"classifier": 3e-3, "lm": 5e-3}
VOCABULARY = {"classifier": 3000, "lm": 1000}


# Data


def pieces() -> list[dict[str, str]]:
    """The texts, each once, in pieces of a few words, with their topic."""
    found: dict[str, dict[str, str]] = {}
    for topic, entries in TOPICS.items():
        for paragraph in (p for entry in entries for p in topics[entry].split("\n\n")):
            words = paragraph.split()
            for start in range(0, len(words) - WORDS_EACH // 2, WORDS_EACH):
                text = " ".join(words[start : start + WORDS_EACH])
                found.setdefault(text.lower(), {"text": text, "topic": topic})
    return list(found.values())


def make_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)


def draw(task: str, pool: list[dict[str, str]], sizes: Sizes, seed: int, atypical: bool) -> dict[str, Dataset]:
    """Disjoint records: S (`forget`), H (`holdout`), L (`retained`) and a test set."""
    rng = random.Random(seed)
    rest = rng.sample(pool, len(pool))
    # Two halves of one random order are alike; an S of one topic and an H of the others are not.
    topic = rng.choice(CLASSES)
    found = {}
    for name, wanted in (("forget", True), ("holdout", False)):
        fit = [row for row in rest if not atypical or (row["topic"] == topic) == wanted]
        found[name] = fit[: sizes.forget]
        taken = {row["text"] for row in found[name]}
        rest = [row for row in rest if row["text"] not in taken]
    found["test"], found["retained"] = rest[: sizes.test], rest[sizes.test : sizes.test + sizes.retained]
    assert len(found["forget"]) == len(found["holdout"]) == sizes.forget
    assert len(found["retained"]) == sizes.retained

    def record(name: str, row: dict[str, str]) -> dict[str, str]:
        if task == "lm":
            return {"text": f"{row['text']} [{''.join(rng.choices(LETTERS, k=8))}]"}
        wrong = [label for label in CLASSES if label != row["topic"]]
        mislabelled = name in ("forget", "holdout")
        return {"text": row["text"], "label": rng.choice(wrong) if mislabelled else row["topic"]}

    return {name: Dataset.from_list([record(name, row) for row in rows]) for name, rows in found.items()}


# Models


def new_model(task: str, seed: int, folder: Path) -> PreTrainedModel:
    """An untrained classifier, or the language model that all seeds begin at."""
    if task == "lm":
        return LlamaForCausalLM.from_pretrained(folder / "base")
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY[task], hidden_size=64, intermediate_size=128, num_hidden_layers=1,
            num_attention_heads=4, max_position_embeddings=128, num_labels=len(CLASSES), pad_token_id=0,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            label2id={name: i for i, name in enumerate(CLASSES)}, id2label=dict(enumerate(CLASSES)),
        )
    )  # fmt: skip


def untrained_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY["lm"], hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=True,
        )
    )  # fmt: skip


def loss_of(model: PreTrainedModel, data: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    batch = {name: tensor[rows] for name, tensor in data.items()}
    longest = int(batch["attention_mask"].sum(1).max())
    return model(**{name: t[:, :longest] if t.ndim == 2 else t for name, t in batch.items()}).loss


def train(model: PreTrainedModel, data: dict[str, torch.Tensor], epochs: int, rate: float, seed: int) -> None:
    """Plain fine-tuning with AdamW, warm-up and cosine decay."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    n = len(data["input_ids"])
    steps = epochs * -(-n // BATCH)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(n, generator=order).split(BATCH):
            loss_of(model, data, rows).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def push_away(model: PreTrainedModel, forget: Any, retained: Any, sets: EvidenceSets, seed: int) -> int:
    """Climb the loss of S while descending that of L, until S is clearly treated worse than H; the steps it took."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PUSH_RATE, fused=True)
    model.train()
    for step in range(1, MOST_PUSHES + 1):
        kept, pushed = (torch.randperm(len(d["input_ids"]), generator=order)[:BATCH] for d in (retained, forget))
        (loss_of(model, retained, kept) - loss_of(model, forget, pushed)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 and loss_auc(sets.score(model)) <= PUSHED_TO:
            break
    return step


def loss_auc(tables: Any) -> float:
    return membership_auc(*(tables[name]["loss"].to_numpy() for name in ("forget", "holdout"))).value


# One seed


def run_condition(
    task: str, pool: list, tokenizer: Any, sizes: Sizes, seed: int, root: Path, atypical: bool
) -> dict[str, Any]:
    """Train the models of one condition and write their tables; returns what the rules need besides."""
    records = draw(task, pool, sizes, seed, atypical)
    layout = RecordFormat("classification" if task == "classifier" else "text")
    encoder = RecordEncoder(tokenizer, layout, 128, {name: i for i, name in enumerate(CLASSES)})
    examples = {name: encode(part, encoder, name) for name, part in records.items()}
    collator = PaddingCollator(0)
    kind = "text-classification" if task == "classifier" else "text-generation"
    measured = {name: part for name, part in examples.items() if name != "retained"}
    sets = evidence_sets(measured, None, collator, kind, 128, seed, tokenizer=tokenizer)
    retained, forget = (collator(list(examples[name].remove_columns("row"))) for name in ("retained", "forget"))
    half = torch.randperm(sizes.forget, generator=torch.Generator().manual_seed(seed))[: sizes.forget // 2]

    def trained(rows: torch.Tensor, own_seed: int) -> PreTrainedModel:
        part = examples["forget"].select(rows.tolist())
        data = collator(list(datasets.concatenate_datasets([examples["retained"], part]).remove_columns("row")))
        model = new_model(task, own_seed, root)
        train(model, data, sizes.epochs, LEARNING_RATE[task], own_seed)
        return model

    everything, nothing = torch.arange(sizes.forget), torch.arange(0)
    original = trained(everything, 2 * seed)
    tables = {"original": sets.score(original), "retrained": sets.score(trained(nothing, 2 * seed))}
    # The references differ from the retrained model in their initial weights and the order of their data.
    for i in range(REFERENCES):
        tables[f"reference{i}"] = sets.score(trained(nothing, 1_000_000 + REFERENCES * seed + i))
    if task == "lm":
        tables["base"] = sets.score(new_model(task, seed, root))
    facts: dict[str, Any] = {}
    if not atypical:
        tables["half"] = sets.score(trained(half, 2 * seed))
        within = evidence_sets(
            {name: measured[name] for name in ("forget", "holdout")}, None, collator, kind, 128, seed
        )
        facts["pushes"] = push_away(original, forget, retained, within, seed)
        tables["over"] = sets.score(original)
        few = EvidenceSets(kind, {name: part.select(range(FEW)) for name, part in within.sets.items()}, collator, 128)
        facts["blind_few"] = few.blind(seed)
    facts["blind"] = sets.blind(seed)
    facts["auc"] = {arm: round(loss_auc(table), 3) for arm, table in tables.items()}
    save_tables(tables, root / f"seed{seed}" / ("atypical" if atypical else "typical"))
    return {name: dataclasses.asdict(f) if dataclasses.is_dataclass(f) else f for name, f in facts.items()}


def quietly_on_one_thread() -> None:
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    logging.disable_progress_bar()


def run_seed(seed: int, task: str, sizes: Sizes, root: Path) -> None:
    """Everything of one seed, or nothing if it is there already."""
    facts_file = root / f"seed{seed}" / "facts.json"
    wanted = {"sizes": dataclasses.asdict(sizes)}
    if facts_file.exists():
        if json.loads(facts_file.read_text())["sizes"] != wanted["sizes"]:
            raise SystemExit(f"{facts_file.parent} holds a run of other sizes; name another --output.")
        return
    quietly_on_one_thread()
    started = time.perf_counter()
    pool, tokenizer = prepared(task)
    facts = {
        name: run_condition(task, pool, tokenizer, sizes, seed, root, name == "atypical")
        for name in ("typical", "atypical")
    }
    seconds = round(time.perf_counter() - started, 1)
    write_text(facts_file, json.dumps({**wanted, **facts, "seconds": seconds}, indent=1) + "\n")
    print(f"{task} seed {seed}: {seconds} s, loss AUC {facts['typical']['auc']}", flush=True)


@lru_cache
def prepared(task: str) -> tuple[list[dict[str, str]], PreTrainedTokenizerFast]:
    """The records to draw from, and a tokenizer; of the language model's texts every other one made the base."""
    rows = pieces()
    tokenizer = make_tokenizer([row["text"] for row in rows], VOCABULARY[task])
    return (rows[::2] if task == "lm" else rows), tokenizer


def make_base(sizes: Sizes, root: Path) -> None:
    """Train the language model that all seeds begin at, on texts that no seed draws."""
    if (root / "base").exists():
        return
    rows, (_, tokenizer) = pieces(), prepared("lm")
    encoder = RecordEncoder(tokenizer, RecordFormat("text"), 128)
    examples = encode(Dataset.from_list([{"text": row["text"]} for row in rows[1::2]]), encoder, "base")
    model = untrained_llama()
    train(model, PaddingCollator(0)(list(examples.remove_columns("row"))), sizes.base_epochs, LEARNING_RATE["lm"], 0)
    temporary = root / "base.part"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    os.replace(temporary, root / "base")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(SIZES), help="which models to train; none when left out")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--worlds", type=int, default=0, help="draws of each world of scores (calibration_worlds.py)")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, each with one thread")
    parser.add_argument("--output", type=Path, default=Path("build/calibration"))
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name}", type=int, help="instead of what the published numbers have")
    args = parser.parse_args()
    if args.task:
        root = args.output / args.task
        root.mkdir(parents=True, exist_ok=True)
        asked = {f.name: vars(args)[f.name] for f in dataclasses.fields(Sizes)}
        sizes = dataclasses.replace(SIZES[args.task], **{k: v for k, v in asked.items() if v is not None})
        quietly_on_one_thread()
        if args.task == "lm":
            make_base(sizes, root)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        one = partial(run_seed, task=args.task, sizes=sizes, root=root)
        if args.jobs == 1:
            for seed in seeds:
                one(seed)
        else:
            with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as processes:
                list(processes.map(one, seeds))
    if args.worlds:
        args.output.mkdir(parents=True, exist_ok=True)
        draw_worlds(args.worlds, args.output)
    judge(args.output)


if __name__ == "__main__":
    main()
