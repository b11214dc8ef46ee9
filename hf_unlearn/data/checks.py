"""Checks of records before a model is loaded; no message quotes a record."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PretrainedConfig

from ..errors import InputError
from ..models.loading import ARCHITECTURES
from ..models.location import ModelSource
from ..models.tasks import IGNORED, TASKS, Task
from .arrow_tables import AnyDataset, column_names, read_tables, require_columns
from .conversations import is_trained, template_options
from .format import RecordFormat, record_format
from .labels import class_ids, label_ids

BATCH_ROWS = 1000

EXAMPLE_COLUMNS = ("input_ids", "attention_mask", "labels")


def check_records(dataset: AnyDataset, form: RecordFormat) -> None:
    """Raise InputError where a record is not as its format says; records of a stream are checked when encoded."""
    require_columns(form.columns, column_names(dataset))
    if isinstance(dataset, Dataset):
        for _ in read_tables(dataset, form.columns):
            pass  # Reading says where text is not UTF-8, which Python cannot read.
        for batch in dataset.select_columns(form.columns).with_format(None).iter(batch_size=BATCH_ROWS):
            check_batch(batch, form)


def check_batch(batch: dict[str, list[Any]], form: RecordFormat) -> None:
    """Check some records, given as columns, as :func:`check_records` does."""
    for column in [*form.text_columns, *form.label_columns]:
        if None in batch[column]:
            raise InputError(f"Some records have nothing in column {column!r}; remove or fill them.")
    if form.kind == "messages":
        for messages in batch["messages"]:
            _check_turns(messages, "messages")
            if not any(map(is_trained, messages)):
                raise InputError("A conversation has no turn of the assistant to train on; remove it or add one.")
    elif form.kind == "prompt_completion" and form.prompt is None:
        _check_prompts(batch["prompt"], batch["completion"])
    elif form.kind == "text_pairs" and form.prompt is None:
        # A model that reads one text and writes another has no turns.
        _check_texts(batch["prompt"], "prompt")
        _check_texts(batch["completion"], "completion")
    elif form.kind == "tagged_words":
        _check_words(batch[form.text], batch[form.label], form)
    elif form.prompt is None:
        _check_texts(batch[form.text], form.text)
    if form.kind == "classification":
        _check_classes(batch[form.label], form.label)
    for values in zip(*(batch[column] for column in form.context), strict=True):
        template_options(dict(zip(form.context, values, strict=True)))


def _check_words(words: list[Any], tags: list[Any], form: RecordFormat) -> None:
    """Raise InputError unless each record is a list of words with as many tags."""
    for record, its_tags in zip(words, tags, strict=True):
        for value, column in ((record, form.text), (its_tags, form.label)):
            if not isinstance(value, list):
                raise InputError(f"Column {column!r} holds {type(value).__name__} values, not a list for each record.")
        _check_texts(record, form.text)
        _check_classes(its_tags, form.label)
        if len(record) != len(its_tags):
            raise InputError(f"Some records have more or fewer tags in {form.label!r} than words in {form.text!r}.")


def _check_classes(values: list[Any], column: str) -> None:
    for value in values:
        if not isinstance(value, str | int | float):
            raise InputError(f"Column {column!r} holds {type(value).__name__} values; a class is a name or a number.")


def _check_texts(values: list[Any], column: str) -> None:
    for value in values:
        if not isinstance(value, str):
            raise InputError(f"Column {column!r} holds {type(value).__name__} values, not text.")


def _check_prompts(prompts: list[Any], completions: list[Any]) -> None:
    """Raise InputError unless prompts and completions are all text or all conversations."""
    if isinstance(prompts[0], str):
        _check_texts(prompts, "prompt")
        _check_texts(completions, "completion")
        return
    for prompt, completion in zip(prompts, completions, strict=True):
        _check_turns(prompt, "prompt")
        _check_turns(completion, "completion")
        if not any(map(is_trained, completion)):
            raise InputError("A completion has no turn of the assistant to train on; remove it or add one.")


def _check_turns(messages: Any, column: str) -> None:
    if not isinstance(messages, list):
        raise InputError(f"Column {column!r} holds {type(messages).__name__} values, not conversations.")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f"Column {column!r} holds a message without a role; each needs 'role' and 'content'.")
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise InputError(f"Column {column!r} holds 'tool_calls' that are no list of calls.")
        content = message.get("content")
        if not isinstance(content, str) and (content is not None or not calls):
            raise InputError(f"Column {column!r} holds a message whose content is not text.")
        if message.get("weight") not in (None, 0, 1) or message.get("train") not in (None, False, True):
            raise InputError(
                f"Column {column!r} holds a message with another 'weight' than 0 and 1, or another 'train' than true "
                "and false; correct it."
            )


def check_examples(dataset: AnyDataset, task: Task, vocabulary: float) -> None:
    """Raise InputError where tokenised examples do not fit a task and the number of token ids of its model."""
    require_columns(EXAMPLE_COLUMNS, column_names(dataset))
    if not isinstance(dataset, Dataset):
        return
    lists = [name for name in EXAMPLE_COLUMNS if task != "text-classification" or name != "labels"]
    for table, _ in read_tables(dataset, EXAMPLE_COLUMNS):
        for name in EXAMPLE_COLUMNS:
            kind = table.schema.field(name).type
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            value = kind.value_type if is_list else kind
            if is_list != (name in lists) or not pa.types.is_integer(value) or table[name].null_count:
                raise InputError(
                    f"The data set has a column 'input_ids', so it counts as tokenised, but its column {name!r} holds "
                    f"{kind}; rename 'input_ids' if it holds something else."
                )
        lengths = {name: pc.list_value_length(table[name]) for name in lists}
        if any(pc.min(length).as_py() == 0 for length in lengths.values()):
            raise InputError("Some examples have no token; remove them.")
        if TASKS[task].two_texts:
            del lengths["labels"]
        if any(not pc.all(pc.equal(lengths["input_ids"], other)).as_py() for other in lengths.values()):
            raise InputError(f"Some examples have columns of different lengths among {', '.join(lengths)}; mend them.")
        for name in ("input_ids",) if TASKS[task].classes else ("input_ids", "labels"):
            ids = pc.list_flatten(table[name])
            ends = pc.min_max(ids.filter(pc.not_equal(ids, IGNORED)) if name == "labels" else ids).as_py()
            if ends["min"] is not None and (ends["min"] < 0 or ends["max"] >= vocabulary):
                raise InputError(
                    f"Some {name!r} are outside the model's vocabulary of {vocabulary} tokens; use its own tokenizer."
                )


def check_fit(
    sets: Sequence[AnyDataset | None],
    source: ModelSource | None,
    model_config: PretrainedConfig,
    task: Task,
    layout: dict[str, Any],
) -> None:
    """Raise InputError where a record, or a tokenised example, does not fit the task or the model.

    ``source`` is None where the model does not have the classes of the data yet; ``layout`` are the options of
    :func:`~hf_unlearn.data.format.record_format`.
    """
    for part in sets:
        if part is None:
            continue
        columns = column_names(part)
        if "input_ids" in columns:
            check_examples(part, task, model_config.get_text_config().vocab_size)
            continue
        form = record_format(columns, task, **layout)
        check_records(part, form)
        # Encoding checks the classes of an adapter, which are in its training record.
        if TASKS[task].classes and source is not None and not source.adapter:
            label_ids(part, form.label, class_ids(model_config))


def check_head(base: ModelSource, model_config: PretrainedConfig, task: Task, classes: int) -> None:
    """Raise InputError where the base model is a classifier with another number of classes than the data."""
    architecture = (model_config.architectures or [""])[0]
    if architecture in ARCHITECTURES[task].values() and model_config.num_labels != classes:
        raise InputError(
            f"{base.name!r} is a classifier of {model_config.num_labels} classes and the data set has {classes}; "
            "use a base model without a classifier's head, or one with as many classes."
        )
