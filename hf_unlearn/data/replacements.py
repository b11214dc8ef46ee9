"""Other answers for the records to forget: refusals, or texts that are given."""

from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InputError
from .encoding import RecordEncoder
from .format import RecordFormat

REFUSALS = (
    "I don't know.",
    "I am not able to answer that.",
    "I have no information about this.",
    "That is something I know nothing about.",
    "Sorry, I cannot help with this question.",
    "I was never told anything about it.",
    "My knowledge does not cover this.",
    "There is nothing I could say about that.",
    "I would have to guess, so I would rather not answer.",
    "Unfortunately I do not have an answer.",
    "This is not known to me.",
    "I cannot tell.",
)


def with_refusals(records: Dataset, form: RecordFormat, seed: int) -> Dataset:
    """The records with refusals drawn by the seed as answers; raises InputError where there are no prompts."""
    drawn = np.random.default_rng(seed).integers(len(REFUSALS), size=len(records))
    return with_completions(records, form, [REFUSALS[i] for i in drawn])


def with_completions(records: Dataset, form: RecordFormat, texts: list[str]) -> Dataset:
    """The records with these texts as their answers, as ``prompt`` and ``completion`` or ``messages``.

    In a conversation the text replaces the assistant's last turn, and later turns are left out. Raises InputError
    where the records have no prompts.
    """
    check_prompts(form)
    return Dataset.from_list([_replaced(record, form, text) for record, text in zip(records, texts, strict=True)])


def asked_and_answered(records: Dataset, form: RecordFormat) -> list[tuple[str, str]]:
    """The question and the answer of each record as plain text; of a conversation the answer is the last one.

    Raises InputError where the records have no prompts.
    """
    check_prompts(form)
    return [_as_texts(record, form) for record in records]


def check_prompts(form: RecordFormat) -> None:
    """Raise InputError where records have no prompts that could get another answer."""
    if form.kind not in ("messages", "prompt_completion", "text_pairs"):
        raise InputError(
            "An answer can be replaced only where there is a prompt; give the records as prompt and completion, or as "
            "messages, or use another method."
        )


def plain_form(form: RecordFormat) -> RecordFormat:
    """The layout of what :func:`with_completions` gives."""
    return RecordFormat(form.kind)


def _replaced(record: dict[str, Any], form: RecordFormat, text: str) -> dict[str, Any]:
    if form.kind == "messages":
        before, answer = _until_answer(record["messages"])
        return {"messages": [*before, {**answer, "content": text}]}
    prompt, completion = form.pair(record)
    if isinstance(completion, list):
        return {"prompt": prompt, "completion": [{**completion[-1], "content": text}]}
    # A completion begins with the blank that separates it from the prompt.
    blank = completion[: len(completion) - len(completion.lstrip())]
    return {"prompt": prompt, "completion": blank + text}


def _until_answer(turns: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The turns before the assistant's last turn, and that turn; the last turn where the assistant has none."""
    answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    last = answers[-1] if answers else len(turns) - 1
    return turns[:last], turns[last]


def _as_texts(record: dict[str, Any], form: RecordFormat) -> tuple[str, str]:
    if form.kind == "messages":
        before, answer = _until_answer(record["messages"])
        return "\n".join(turn["content"] for turn in before), answer["content"].strip()
    prompt, completion = form.pair(record)
    if isinstance(completion, list):
        return "\n".join(turn["content"] for turn in prompt), completion[-1]["content"].strip()
    return prompt, completion.strip()


def by_record(forget: Dataset, instead: Dataset, records: int) -> list[list[int]]:
    """The examples that may replace each example of S: for each text for the same record its last piece.

    The texts for record i of n, counting those without an example, are the records i, n + i, 2 n + i, ... of
    ``instead``.
    """
    last: dict[int, int] = {row: i for i, row in enumerate(instead["row"])}
    of_record: dict[int, list[int]] = {}
    for row, place in last.items():
        of_record.setdefault(row % records, []).append(place)
    return [of_record[row] for row in forget["row"]]


def encoder_of(encoder: RecordEncoder | None, method: str) -> RecordEncoder:
    """How to read records; raises InputError where they are tokenised already."""
    if encoder is None:
        raise InputError(
            f"The method {method!r} replaces answers, which tokenised examples do not allow; give the records as text."
        )
    return encoder
