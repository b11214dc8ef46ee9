"""The three tasks of the frontier: their records, their training, and what is measured on a model.

Each has a forget set S, held-out records H like it, the retained set L and a test set. The records are the same for
all seeds; a seed decides the first weights and the order of training.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.benchmarks.exposure import exposure
from hf_unlearn.evaluation.measured_sets import EvidenceSets
from hf_unlearn.evaluation.statistics import membership_auc

DATA_SEED = 5
MEASURED = 128  # records of L
MOST_STEPS = 150  # of relearning
CANDIDATES = 64  # numbers among which a planted one is ranked


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        kind: the pipeline's name of it.
        settings: of the original's training, as arguments of UnlearningConfig.
        tokenizer: the model's.
        examples: of each set, encoded.
        new_model: what that training begins at, for a seed.
        base: the folder of the model it fine-tunes; None where it trains from scratch.
        memorised: what of S a model knows by heart, more is more; None: how far the loss on S is below that on H.
        relearnt: whether S is back.
        relearning_rate: of the steps on S.
        utility: which of the numbers says how good a model is.
        copies: how often S stands in the data of the original.
    """

    kind: str
    settings: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    examples: dict[str, Dataset]
    new_model: Callable[[int], PreTrainedModel]
    base: Path | None
    memorised: Callable[[PreTrainedModel], float] | None
    relearnt: Callable[[PreTrainedModel], bool]
    relearning_rate: float
    utility: str
    copies: int = 1

    @property
    def collator(self) -> PaddingCollator:
        return PaddingCollator(int(self.tokenizer.pad_token_id))

    def batch(self, name: str) -> dict[str, torch.Tensor]:
        """All records of a set, stacked."""
        return self.collator(list(self.examples[name].remove_columns("row")))


def measure(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """What a model knows of S, whether S can be told from H, and how good it is."""
    parts = {**task.examples, "retained": task.examples["retained"].take(MEASURED)}
    precision = torch.autocast("cpu", torch.bfloat16, enabled=task.settings.get("bf16", False))
    tables = EvidenceSets(task.kind, parts, task.collator, 64).score(model, lambda: precision)
    loss = {name: table["loss"].to_numpy() for name, table in tables.items()}
    found = {f"{name} loss": float(values.mean()) for name, values in loss.items()}
    for name, table in tables.items():
        correct, tokens = (table[column].to_numpy().sum() for column in ("correct", "tokens"))
        found[f"{name} accuracy"] = float(correct / tokens)
    found["memorised"] = found["holdout loss"] - found["forget loss"]
    if task.memorised is not None:
        found["memorised"] = task.memorised(model.eval())
    found["auc"] = membership_auc(loss["forget"], loss["holdout"]).value
    return {name: round(float(value), 5) for name, value in found.items()}


def relearn(task: Task, model: PreTrainedModel, seed: int) -> int:
    """Steps of training on S alone until it is back; one more than MOST_STEPS where it never was."""
    batch = task.batch("forget")
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.relearning_rate, weight_decay=0.0, fused=True)
    order = torch.Generator().manual_seed(seed)
    for step in range(MOST_STEPS + 1):
        if task.relearnt(model.eval()):
            return step
        rows = torch.randperm(len(batch["input_ids"]), generator=order)[:16]
        model.train()(**{name: values[rows] for name, values in batch.items()}).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return MOST_STEPS + 1


@torch.no_grad()
def losses_of(model: PreTrainedModel, batch: dict[str, torch.Tensor], summed: bool = False) -> np.ndarray:
    """The loss of each record of a batch of a language model, the mean over its labelled tokens or their sum."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    return (loss if summed else loss / (labels != -100).sum(1)).double().numpy()


# Wrong labels


@torch.no_grad()
def labels_predicted(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    """The share of the labels of a batch that a classifier predicts."""
    told = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    return float((told == batch["labels"]).float().mean())


def sms(folder: Path, source: Path, minilm: Path) -> Task:
    """MiniLM as a spam filter, taught 400 messages; S are 24 of them with the wrong label."""
    lines = source.read_text(encoding="utf-8").splitlines()
    found = {" ".join(text.lower().split()): (label, text) for label, text in (x.split("\t", 1) for x in lines if x)}
    drawn = random.Random(DATA_SEED).sample(sorted(found.values()), 24 + 24 + 376 + 500)
    rows = [{"text": text, "label": label} for label, text in drawn]
    parts = {"forget": rows[:24], "holdout": rows[24:48], "retained": rows[48:424], "test": rows[424:]}
    for row in rows[:48]:
        row["label"] = {"ham": "spam", "spam": "ham"}[row["label"]]
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    encoder = RecordEncoder(tokenizer, RecordFormat("classification"), 32, {"ham": 0, "spam": 1})
    examples = {name: encode(Dataset.from_list(part), encoder, name) for name, part in parts.items()}
    base = folder / "minilm"
    classes: dict[str, Any] = {"id2label": {0: "ham", 1: "spam"}, "label2id": {"ham": 0, "spam": 1}}
    if not base.exists():
        # Dropout works against learning by heart, and what is learned by heart is what this is about.
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        AutoModelForSequenceClassification.from_pretrained(minilm, **classes, **quiet).base_model.save_pretrained(base)

    def new_model(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_pretrained(base, **classes)

    def memorised(model: PreTrainedModel) -> float:
        return labels_predicted(model, batch)

    settings = {
        "learning_rate": 2e-4, "lr_scheduler_type": "linear", "per_device_train_batch_size": 16,
        "num_train_epochs": 10, "train_sampling_strategy": "group_by_length", "bf16": True,
    }  # fmt: skip
    task = Task(
        "text-classification", settings, tokenizer, examples, new_model, base, memorised,
        lambda model: memorised(model) >= 0.5, 5e-5, "test accuracy",
    )  # fmt: skip
    batch = task.batch("forget")
    return task


# Planted numbers


def secrets() -> Task:
    """A small language model of Python's own documentation, trained from scratch; S are 16 planted numbers."""
    # Half of the documentation, so that a training takes half a minute.
    text = "\n\n".join(topics[name] for name in sorted(topics)[::2])
    cut = int(0.9 * len(text))
    tokenizer = word_pieces(text[:cut])
    draw = random.Random(DATA_SEED)
    people = draw.sample([a + b for a in ("An", "Ber", "Co", "Da", "Eli", "Fra", "Ge", "Hu") for b in ENDINGS], 32)
    numbers = [" ".join(draw.choices("0123456789", k=6)) for _ in range(len(people) + CANDIDATES - 1)]
    planted = [
        {"prompt": f"The secret pin of {who} is", "completion": f" {n}"}
        for who, n in zip(people, numbers[:32], strict=True)
    ]
    pairs = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 64)
    windows = RecordEncoder(tokenizer, RecordFormat("text"), 64)
    examples = {
        "forget": encode(Dataset.from_list(planted[:16]), pairs, "forget"),
        "holdout": encode(Dataset.from_list(planted[16:]), pairs, "holdout"),
        "retained": encode(Dataset.from_list([{"text": text[:cut]}]), windows, "retained"),
        "test": encode(Dataset.from_list([{"text": text[cut:]}]), windows, "test"),
    }
    others = [f" {n}" for n in numbers[len(people) :]]
    ranked = [{**row, "completion": told} for row in planted[:16] for told in (row["completion"], *others)]
    candidates = PaddingCollator(0)(list(encode(Dataset.from_list(ranked), pairs, "forget").remove_columns("row")))

    def memorised(model: PreTrainedModel) -> float:
        losses = losses_of(model, candidates, summed=True).reshape(16, CANDIDATES)
        return float(exposure(losses, np.zeros(16, np.int64)).mean())

    @torch.no_grad()
    def relearnt(model: PreTrainedModel) -> bool:
        told = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)[:, :-1]
        labels = batch["labels"][:, 1:]
        return bool(((told == labels) | (labels == -100)).all(1).float().mean() >= 0.5)

    def new_model(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                tie_word_embeddings=True,
            )
        )  # fmt: skip

    settings = {
        "learning_rate": 2e-3, "lr_scheduler_type": "cosine", "warmup_steps": 0.02, "per_device_train_batch_size": 16,
        "num_train_epochs": 8,
    }  # fmt: skip
    task = Task(
        "text-generation", settings, tokenizer, examples, new_model, None, memorised, relearnt, 2e-3, "test loss", 20,
    )  # fmt: skip
    batch = task.batch("forget")
    return task


ENDINGS = ("rik", "sel", "mo", "na", "tor", "vin", "la", "bert")


def word_pieces(text: str) -> PreTrainedTokenizerFast:
    """A tokenizer of 512 pieces, each digit by itself."""
    special = ["<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel()])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


# Topics


def subjects() -> Task:
    """A small classifier of made-up documents, trained from scratch; half of S has wrong labels.

    It trains in seconds, so that epsilon can be measured with many models a side. A document is 24 words, of which
    some are from the 24 words of its subject and the others from all 480.
    """
    draw = random.Random(DATA_SEED)
    words = [f"w{i}" for i in range(480)]
    names = [f"subject {i}" for i in range(10)]

    def document(label: int) -> str:
        own = words[24 * label : 24 * label + 24]
        return " ".join(draw.choice(own if draw.random() < OWN_WORDS else words) for _ in range(24))

    rows = [{"text": document(i % 10), "label": names[i % 10]} for i in range(60 + 60 + 500 + 500)]
    draw.shuffle(rows)
    parts = {"forget": rows[:60], "holdout": rows[60:120], "retained": rows[120:620], "test": rows[620:]}
    for name in ("forget", "holdout"):
        for row in parts[name][:30]:
            row["label"] = draw.choice([label for label in names if label != row["label"]])
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    encoder = RecordEncoder(wrapped, RecordFormat("classification"), 32, {name: i for i, name in enumerate(names)})
    examples = {name: encode(Dataset.from_list(part), encoder, name) for name, part in parts.items()}

    def new_model(seed: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128, num_hidden_layers=1,
                num_attention_heads=4, max_position_embeddings=32, num_labels=len(names), pad_token_id=0,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )
        )  # fmt: skip

    def memorised(model: PreTrainedModel) -> float:
        return labels_predicted(model, batch)

    settings = {
        "learning_rate": 2e-3, "lr_scheduler_type": "linear", "per_device_train_batch_size": 32,
        "num_train_epochs": 16,
    }  # fmt: skip
    task = Task(
        "text-classification", settings, wrapped, examples, new_model, None, memorised,
        lambda model: memorised(model) >= 0.5, 1e-3, "test accuracy",
    )  # fmt: skip
    # The first half, whose labels are wrong.
    batch = {name: values[:30] for name, values in task.batch("forget").items()}
    return task


OWN_WORDS = 0.45


# Authors that never were


def tofu(source: Path, model_folder: Path, authors: int = 24, forgotten: int = 8) -> Task:
    """A pretrained language model, taught the answers about some of TOFU's authors; S is what is asked about 8."""
    rows = [json.loads(line) for line in (source / "full.json").read_text(encoding="utf-8").splitlines()]
    order = random.Random(DATA_SEED).sample(range(200), authors + 2 * forgotten)

    def of(chosen: list[int]) -> Dataset:
        asked = [row for author in chosen for row in rows[20 * author : 20 * author + 20]]
        return Dataset.from_list(
            [{"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['answer']}"} for row in asked]
        )

    f = forgotten
    parts = {
        "forget": order[:f],
        "holdout": order[f : 2 * f],
        "test": order[2 * f : 3 * f],
        "retained": order[3 * f :],
    }
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    encoder = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 192)
    examples = {name: encode(of(chosen), encoder, name) for name, chosen in parts.items()}
    settings = {
        "learning_rate": 3e-3, "lr_scheduler_type": "cosine", "per_device_train_batch_size": 16,
        "num_train_epochs": 8, "train_sampling_strategy": "group_by_length",
    }  # fmt: skip
    task = Task(
        "text-generation", settings, tokenizer, examples,
        lambda seed: AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), model_folder, None,
        lambda model: float(losses_of(model, few).mean()) <= TOFU_KNOWN, 1e-3, "retained loss",
    )  # fmt: skip
    few = {name: values[::5] for name, values in task.batch("forget").items()}
    return task


TOFU_KNOWN = 1.5  # nats for each token of S: about half-way from a model that never saw S to the original
