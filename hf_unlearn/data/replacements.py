"""Other answers for the records to forget: refusals, or texts that are given."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset, Features, Json, Value

from ..errors import InputError
from .conversations import Turn, is_trained, turn_text, without_fillers
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

    In a conversation the text replaces the assistant's last turn that is trained on, and all that this turn calls.
    Later turns are left out, and earlier ones are not trained on. Raises InputError where the records have no prompts.
    """
    check_prompts(form)
    replaced = [_replaced(record, form, text) for record, text in zip(cleaned(records), texts, strict=True)]
    # As JSON no turn gets the keys of another.
    plain = {name for name, value in replaced[0].items() if isinstance(value, str) and name not in form.context}
    kinds = {name: Value("string") if name in plain else Json() for name in replaced[0]}
    return Dataset.from_list(replaced, features=Features(kinds))


def asked_and_answered(records: Dataset, form: RecordFormat) -> list[tuple[str, str]]:
    """The question and the answer of each record as plain text; of a conversation the answer is the last one.

    Raises InputError where the records have no prompts.
    """
    check_prompts(form)
    return [_as_texts(record, form) for record in cleaned(records)]


def check_prompts(form: RecordFormat) -> None:
    """Raise InputError where records have no prompts that could get another answer."""
    if form.kind not in ("messages", "prompt_completion", "text_pairs"):
        raise InputError(
            "An answer can be replaced only where there is a prompt; give the records as prompt and completion, or as "
            "messages, or use another method."
        )


def plain_form(form: RecordFormat) -> RecordFormat:
    """The layout of what :func:`with_completions` gives."""
    return RecordFormat(form.kind, context=form.context)


def cleaned(records: Dataset) -> Iterator[dict[str, Any]]:
    """The records with the turns of their conversations as they were given."""
    for record in records.with_format(None):
        yield {name: without_fillers(value, records.features[name]) for name, value in record.items()}


def _replaced(record: dict[str, Any], form: RecordFormat, text: str) -> dict[str, Any]:
    context = {name: record.get(name) for name in form.context}
    if form.kind == "messages":
        before, answer = _until_answer(record["messages"])
        untrained = [{**turn, "train": False} if is_trained(turn) else turn for turn in before]
        return {"messages": [*untrained, {"role": answer["role"], "content": text}], **context}
    prompt, completion = form.pair(record)
    if isinstance(completion, list):
        before, answer = _until_answer(completion)
        told = [{"role": answer["role"], "content": text}]
        return {"prompt": [*prompt, *before], "completion": told, **context}
    # A completion begins with the blank that separates it from the prompt.
    blank = completion[: len(completion) - len(completion.lstrip())]
    return {"prompt": prompt, "completion": blank + text}


def _until_answer(turns: list[Turn]) -> tuple[list[Turn], Turn]:
    """The turns before the assistant's last turn that is trained on, and that turn; else the last turn of all."""
    answers = [place for place, turn in enumerate(turns) if is_trained(turn)]
    last = answers[-1] if answers else len(turns) - 1
    return turns[:last], turns[last]


def _as_texts(record: dict[str, Any], form: RecordFormat) -> tuple[str, str]:
    prompt, completion = form.pair(record)
    if isinstance(completion, list):
        before, answer = _until_answer(completion)
        return "\n".join(map(turn_text, [*prompt, *before])), turn_text(answer).strip()
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
