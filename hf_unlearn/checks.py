"""Whether records hold what their format promises, found out before a model is loaded; no message quotes a record."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .errors import InputError
from .requests import require_columns
from .tables import AnyDataset, column_names, read_tables

if TYPE_CHECKING:
    from .data import RecordFormat

BATCH_ROWS = 1000
EXAMPLE_COLUMNS = ("input_ids", "attention_mask", "labels")


def check_records(dataset: AnyDataset, form: "RecordFormat") -> None:
    """Look through all records of a data set; a stream is only looked at when its records are encoded.

    Args:
        dataset: records.
        form: their format.

    Raises:
        InputError: a column is missing, or a record is not as its format says.
    """
    require_columns(form.columns, column_names(dataset))
    if isinstance(dataset, Dataset):
        for batch in dataset.select_columns(form.columns).with_format(None).iter(batch_size=BATCH_ROWS):
            check_batch(batch, form)


def check_batch(batch: dict[str, list[Any]], form: "RecordFormat") -> None:
    """Check the columns of some records, as :func:`check_records` does those of a data set."""
    for column in form.columns:
        if None in batch[column]:
            raise InputError(f"Some records have nothing in column {column!r}; remove or fill them.")
    if form.kind == "messages":
        for messages in batch["messages"]:
            _check_turns(messages, "messages")
            if not any(message["role"] == "assistant" for message in messages):
                raise InputError("A conversation has no turn of the assistant, so there is nothing to train on.")
    elif form.kind == "prompt_completion" and form.prompt is None:
        _check_prompts(batch["prompt"], batch["completion"])
    elif form.kind != "prompt_completion":
        _check_texts(batch[form.text], form.text)
    if form.kind == "classification":
        for label in batch[form.label]:
            if not isinstance(label, str | int | float):
                raise InputError(
                    f"Column {form.label!r} holds {type(label).__name__} values; a class is a name or a number."
                )


def _check_texts(values: list[Any], column: str) -> None:
    for value in values:
        if not isinstance(value, str):
            raise InputError(f"Column {column!r} holds {type(value).__name__} values, not text.")


def _check_prompts(prompts: list[Any], completions: list[Any]) -> None:
    """Prompt and completion are both text, or both conversations, and that in every record."""
    if isinstance(prompts[0], str):
        _check_texts(prompts, "prompt")
        _check_texts(completions, "completion")
        return
    for prompt, completion in zip(prompts, completions, strict=True):
        _check_turns(prompt, "prompt")
        _check_turns(completion, "completion")
        if not any(message["role"] == "assistant" for message in completion):
            raise InputError("A completion has no turn of the assistant, so there is nothing to train on.")


def _check_turns(messages: Any, column: str) -> None:
    if not isinstance(messages, list):
        raise InputError(f"Column {column!r} holds {type(messages).__name__} values, not conversations.")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InputError(f"Column {column!r} holds a message without a role; each is {{'role', 'content'}}.")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise InputError(f"Column {column!r} holds a message whose content is not text.")


def check_examples(dataset: AnyDataset, per_token: bool, vocabulary: int) -> None:
    """Look through a data set that is tokenised already.

    Args:
        dataset: examples with ``input_ids``, ``attention_mask`` and ``labels``.
        per_token: whether an example has a label for each token, or one.
        vocabulary: token ids that the model knows, counted from 0.

    Raises:
        InputError: a column is missing, or not as it must be.
    """
    require_columns(EXAMPLE_COLUMNS, column_names(dataset))
    if not isinstance(dataset, Dataset):
        return
    lists = [name for name in EXAMPLE_COLUMNS if per_token or name != "labels"]
    for table, _ in read_tables(dataset, EXAMPLE_COLUMNS):
        for name in EXAMPLE_COLUMNS:
            kind = table.schema.field(name).type
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            value = kind.value_type if is_list else kind
            if is_list != (name in lists) or not pa.types.is_integer(value) or table[name].null_count:
                raise InputError(
                    f"The data set has a column 'input_ids', so it counts as tokenised, but its column {name!r} holds "
                    f"{kind}; rename 'input_ids' if it is something else."
                )
        lengths = [pc.list_value_length(table[name]) for name in lists]
        if any(not pc.all(pc.equal(lengths[0], other)).as_py() for other in lengths[1:]):
            raise InputError(f"Some examples have columns of different lengths among {', '.join(lists)}.")
        if pc.min(lengths[0]).as_py() == 0:
            raise InputError("Some examples have no token; remove them.")
        ids = pc.min_max(pc.list_flatten(table["input_ids"])).as_py()
        if ids["min"] < 0 or ids["max"] >= vocabulary:
            raise InputError(f"Some 'input_ids' are outside the model's vocabulary of {vocabulary} tokens.")
