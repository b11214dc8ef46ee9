"""What a model does: one row a task, for what differs between them once the records are tensors."""

from dataclasses import dataclass
from typing import Literal

Task = Literal[
    "text-generation", "text-classification", "token-classification", "text2text-generation", "fill-mask"
]  # fmt: skip

IGNORED = -100  # the label that transformers' losses leave out


@dataclass(frozen=True)
class TaskFacts:
    """What is particular to a task.

    Attributes:
        pipeline_tag: the Hub's name for it.
        has_pipeline: whether transformers has a ``pipeline()`` for it.
        classes: whether the model has named classes.
        quality: what a set is judged by besides the loss.
        interval: how the interval of an accuracy is made; empty where there is none.
        unit: what a loss is per, as an axis says it; empty for a whole record.
        next_token: whether the label of a position is what the model predicts one position earlier.
        two_texts: whether the model reads one text and writes another, and makes its inputs from the labels.
        new_head: whether training may begin at a model that lacks the weights of the last layer.
        settings: what the card shows of the settings besides the usual.
        note: what a reader of the numbers must know; empty when nothing.
    """

    pipeline_tag: str
    has_pipeline: bool
    classes: bool
    quality: Literal["accuracy", "perplexity"]
    interval: str
    unit: str
    next_token: bool
    two_texts: bool
    new_head: bool
    settings: tuple[str, ...]
    note: str


# An architecture that can do several of them does the first by default.
TASKS: dict[Task, TaskFacts] = {
    "text-generation": TaskFacts(
        pipeline_tag="text-generation",
        has_pipeline=True,
        classes=False,
        quality="perplexity",
        interval="",
        unit=" per token",
        next_token=True,
        two_texts=False,
        new_head=False,
        settings=(),
        note="",
    ),
    "text-classification": TaskFacts(
        pipeline_tag="text-classification",
        has_pipeline=True,
        classes=True,
        quality="accuracy",
        interval="Clopper-Pearson",
        unit="",
        next_token=False,
        two_texts=False,
        new_head=True,
        settings=("dataset_label_field",),
        note="",
    ),
    "token-classification": TaskFacts(
        pipeline_tag="token-classification",
        has_pipeline=True,
        classes=True,
        quality="accuracy",
        interval="Korn-Graubard",
        unit=" per word",
        next_token=False,
        two_texts=False,
        new_head=True,
        settings=("dataset_label_field",),
        note="Loss and accuracy are those of the words, at the first token of each.",
    ),
    # The Hub counts this as a kind of text generation, and transformers 5 has no pipeline for it.
    "text2text-generation": TaskFacts(
        pipeline_tag="text-generation",
        has_pipeline=False,
        classes=False,
        quality="perplexity",
        interval="",
        unit=" per token",
        next_token=False,
        two_texts=True,
        new_head=False,
        settings=(),
        note="Loss and perplexity are those of the text that is written, given the one that is read.",
    ),
    "fill-mask": TaskFacts(
        pipeline_tag="fill-mask",
        has_pipeline=True,
        classes=False,
        quality="perplexity",
        interval="",
        unit=" per masked token",
        next_token=False,
        two_texts=False,
        new_head=True,
        settings=("mlm_probability",),
        note="Loss and perplexity are those of masked tokens; which ones is fixed for each record, so that all models "
        "guess the same.",
    ),
}
