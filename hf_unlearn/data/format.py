"""Which columns of a record a model reads; this depends on the task and on the columns that there are."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from ..models.tasks import TASKS, Task
from .arrow_tables import listed, require_columns
from .conversations import CONTEXT


@dataclass(frozen=True)
class RecordFormat:
    """Which columns of a record are read, and how.

    Attributes:
        kind: the layout.
        text: the column of the text or of the words; unused for ``messages`` and pairs.
        label: the column of the class, or of a class for each word.
        prompt, completion: templates over columns, for pairs; None for the columns of these names.
        context: the columns that a chat template reads besides the turns.
        before: words that go before the text, the prompt or each turn of a user, and are not trained on.
    """

    kind: Literal[
        "text", "messages", "prompt_completion", "classification", "tagged_words", "maskable", "text_pairs"
    ]  # fmt: skip
    text: str = "text"
    label: str = "label"
    prompt: str | None = None
    completion: str | None = None
    context: tuple[str, ...] = ()
    before: str = ""

    @property
    def text_columns(self) -> list[str]:
        """The columns that carry what a record says, without its label."""
        if self.kind == "messages":
            return ["messages"]
        if self.kind not in ("prompt_completion", "text_pairs"):
            return [self.text]
        if self.prompt is None or self.completion is None:
            return ["prompt", "completion"]
        return list(dict.fromkeys(template_fields(self.prompt) + template_fields(self.completion)))

    @property
    def asked_columns(self) -> list[str]:
        """The columns that are read before an answer; of a conversation, and of a text to go on with, all of it."""
        if self.kind not in ("prompt_completion", "text_pairs"):
            return self.text_columns
        return ["prompt"] if self.prompt is None else template_fields(self.prompt)

    @property
    def label_columns(self) -> list[str]:
        """The column of the classes, if there are classes."""
        return [self.label] if self.kind in ("classification", "tagged_words") else []

    @property
    def columns(self) -> list[str]:
        """All the columns that are read."""
        return [*self.text_columns, *self.label_columns, *self.context]

    def pair(self, record: dict[str, Any]) -> tuple[Any, Any]:
        """The prompt and the completion of a record; of a conversation all is completion."""
        if self.kind == "messages":
            return [], self.turns(record["messages"])
        prompt, completion = record.get("prompt"), record.get("completion")
        if self.prompt is not None and self.completion is not None:
            prompt, completion = self.prompt.format_map(record), self.completion.format_map(record)
        return self.before + prompt if isinstance(prompt, str) else self.turns(prompt), completion

    def turns(self, messages: Any) -> Any:
        """A conversation, with the words before each turn of the user."""
        if not self.before:
            return messages
        return [
            {**turn, "content": self.before + turn["content"]}
            if turn["role"] == "user" and turn.get("content")
            else turn
            for turn in messages
        ]


def template_fields(template: str) -> list[str]:
    """The columns that a template such as ``"Question: {question}"`` names; raises InputError for other templates."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"The template {template!r} is malformed: {error}.") from None
    fields = []
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise InputError(f"The template {template!r} may have only column names in braces, such as {{question}}.")
        fields.append(name)
    return fields


def layout_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of :func:`record_format` that settings, by the names of their flags, say."""
    return {
        "text_field": settings.get("dataset_text_field", "text"),
        "label_field": settings.get("dataset_label_field", "label"),
        "prompt_template": settings.get("prompt_template"),
        "completion_template": settings.get("completion_template"),
    }


def record_format(
    available: Sequence[str],
    task: Task,
    *,
    text_field: str = "text",
    label_field: str = "label",
    prompt_template: str | None = None,
    completion_template: str | None = None,
) -> RecordFormat:
    """Choose the layout for a task from the columns of a data set; raises InputError when they do not fit.

    By default the columns ``tokens`` and ``ner_tags`` are found, too. Templates build pairs from other columns.
    """
    if task == "text-classification":
        require_columns([text_field, label_field], available)
        return RecordFormat("classification", text=text_field, label=label_field)
    if task == "token-classification":
        words = "tokens" if text_field == "text" and "tokens" in available else text_field
        tags = "ner_tags" if label_field == "label" and "ner_tags" in available else label_field
        require_columns([words, tags], available)
        return RecordFormat("tagged_words", text=words, label=tags)
    if task == "fill-mask":
        require_columns([text_field], available)
        return RecordFormat("maskable", text=text_field)
    pair: Literal["text_pairs", "prompt_completion"] = "text_pairs" if TASKS[task].two_texts else "prompt_completion"
    if (prompt_template is None) != (completion_template is None):
        raise InputError("prompt_template and completion_template go together; give both or neither.")
    if prompt_template is not None and completion_template is not None:
        fields = template_fields(prompt_template) + template_fields(completion_template)
        if not fields:
            raise InputError("prompt_template and completion_template name no column; write columns in braces.")
        require_columns(fields, available)
        return RecordFormat(pair, prompt=prompt_template, completion=completion_template)
    context = () if TASKS[task].two_texts else tuple(name for name in CONTEXT if name in available)
    if "messages" in available and not TASKS[task].two_texts:
        return RecordFormat("messages", context=context)
    if {"prompt", "completion"} <= set(available):
        return RecordFormat(pair, context=context)
    if TASKS[task].two_texts:
        raise InputError(
            "To train an encoder-decoder the data set needs the columns 'prompt' (to read) and 'completion' (to "
            f"write); it has {listed(available)}. Build them from other columns with prompt_template and "
            "completion_template."
        )
    if text_field not in available:
        raise InputError(
            "To train a language model the data set needs a column 'messages', the columns 'prompt' and 'completion', "
            f"or a column {text_field!r}; it has {listed(available)}. Name the column of the text with "
            "dataset_text_field, or build prompts from other columns with prompt_template and completion_template."
        )
    return RecordFormat("text", text=text_field)


def columns_read(available: Sequence[str], task: Task | None = None, **layout: Any) -> list[str] | None:
    """The columns that carry what a model reads of a record, without its label; None where no format fits.

    Without a task, records with a class or with tagged words are for a classifier, as their columns have no other use.
    ``layout`` are the options of :func:`record_format`.
    """
    if "input_ids" in available:
        return ["input_ids"]
    if task is None:
        classified = {layout.get("text_field", "text"), layout.get("label_field", "label")}
        task = "text-generation"
        if layout.get("prompt_template") is None and {"tokens", "ner_tags"} <= set(available):
            task = "token-classification"
        elif layout.get("prompt_template") is None and classified <= set(available):
            task = "text-classification"
    try:
        return record_format(available, task, **layout).text_columns
    except InputError:
        return None
