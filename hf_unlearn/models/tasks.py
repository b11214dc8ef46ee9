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
    has_pipeline: bool = True
    classes: bool = False
    quality: Literal["accuracy", "perplexity"] = "perplexity"
    interval: str = ""
    unit: str = ""
    next_token: bool = False
    two_texts: bool = False
    new_head: bool = False
    settings: tuple[str, ...] = ()
    note: str = ""


# An architecture that can do several of them does the first by default.
TASKS: dict[Task, TaskFacts] = {
    "text-generation": TaskFacts("text-generation", unit=" per token", next_token=True),
    "text-classification": TaskFacts(
        "text-classification",
        classes=True,
        quality="accuracy",
        interval="Clopper-Pearson",
        new_head=True,
        settings=("dataset_label_field",),
    ),
    "token-classification": TaskFacts(
        "token-classification",
        classes=True,
        quality="accuracy",
        interval="Korn-Graubard",
        unit=" per word",
        new_head=True,
        settings=("dataset_label_field",),
        note="Loss and accuracy are those of the words, at the first token of each.",
    ),
    # The Hub counts this as a kind of text generation, and transformers 5 has no pipeline for it.
    "text2text-generation": TaskFacts(
        "text-generation",
        has_pipeline=False,
        unit=" per token",
        two_texts=True,
        note="Loss and perplexity are those of the text that is written, given the one that is read.",
    ),
    "fill-mask": TaskFacts(
        "fill-mask",
        unit=" per masked token",
        new_head=True,
        settings=("mlm_probability",),
        note="Loss and perplexity are those of masked tokens; which ones is fixed for each record, so that all models "
        "guess the same.",
    ),
}
