"""Other forms of a record: other words or another format before it, or its prompt paraphrased; the answer stays.

A method that trains on S makes the loss of S large in the very words that it trains on. What it knows may still be
there for whoever asks in other words.

Tagged words and texts for a masked model have no other form. What a method unlearns of them are single words, and
words in front of a text are no other way to ask for one inside it. Examples that are tokenised already have none.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..models.tasks import Task
from .arrow_tables import AnyDataset, column_names
from .checks import check_records
from .format import RecordFormat, record_format, template_fields

# By name, what goes before a prompt, a turn of a user, or a text without a prompt. The end stays the end.
BEFORE = {"request": "Please complete the following.\n", "heading": "### Input\n"}

PARAPHRASE = "paraphrase"


def other_forms(
    records: Sequence[AnyDataset | None], task: Task, layout: dict[str, Any], paraphrase_column: str | None
) -> dict[str, RecordFormat]:
    """The other forms in which records can be read.

    Args:
        records: S and H; None for a missing set.
        task: what the models do.
        layout: the options of :func:`~hf_unlearn.data.format.record_format`.
        paraphrase_column: the column with each prompt, or each text of a classifier, in other words.

    Returns:
        How to read them, by the name of the form; empty where they have none.

    Raises:
        InputError: paraphrases are named that cannot take the prompt's place, or a record has none.
    """
    given = [part for part in records if part is not None]
    forms: dict[str, RecordFormat] = {}
    if not any("input_ids" in column_names(part) for part in given):
        own = record_format(column_names(given[0]), task, **layout)
        if own.kind not in ("tagged_words", "maskable"):
            forms = {name: replace(own, before=words) for name, words in BEFORE.items()}
        worded = None if paraphrase_column is None else paraphrased(given[0], own, paraphrase_column)
        if worded is not None:
            forms[PARAPHRASE] = worded
            for part in given:
                check_records(part, worded)
    if paraphrase_column is not None and PARAPHRASE not in forms:
        raise InputError(
            f"paraphrase_column={paraphrase_column!r} is for prompts of plain text and for classifiers of texts; "
            "leave it out."
        )
    return forms


def paraphrased(records: AnyDataset, own: RecordFormat, column: str) -> RecordFormat | None:
    """How to read records with paraphrases in the place of their prompts; None where they have no plain prompt.

    Raises InputError where the template of the prompt has several columns.
    """
    if own.kind == "classification":
        return replace(own, text=column)
    asked = plain_prompts(records, own)
    if asked is None or asked.prompt is None:
        return None
    fields = set(template_fields(asked.prompt))
    if len(fields) != 1:
        raise InputError(
            f"paraphrase_column={column!r} takes the place of the prompt's column, but the template "
            f"{asked.prompt!r} has {len(fields)} columns; join them into one."
        )
    words = asked.prompt.replace(f"{{{fields.pop()}}}", f"{{{column}}}")
    template_fields(words)
    return replace(asked, prompt=words)


def plain_prompts(records: AnyDataset, own: RecordFormat) -> RecordFormat | None:
    """The format with its templates where records have a prompt of plain text; None where they have none."""
    if own.kind not in ("prompt_completion", "text_pairs"):
        return None
    first: dict[str, Any] = next(iter(records), {})
    if own.prompt is None and not isinstance(first.get("prompt"), str):
        return None
    return replace(own, prompt=own.prompt or "{prompt}", completion=own.completion or "{completion}")
