"""Rows that mention a person: a name, an address, an e-mail or a number of a file, anywhere in their text.

What is found goes to a private review, and only what somebody confirms there becomes part of the request.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ...errors import InputError
from ...files import require_ours, written_privately
from ..arrow_tables import AnyDataset, column_names, read_tables
from .id_files import read_ids
from .mention_patterns import BETWEEN, Form, fold, forms_of
from .records import Records

FLAG = "--mentions_review"
CONTEXT = 60
ABOUT = (
    "Rows that mention what the request names. Set forget to true or false in each line, or set all here to true or "
    "false for the lines that still have null, and give the same command again. This file holds the text of records. "
    "Keep it to yourself, and delete it once the request is done."
)


class Entry(NamedTuple):
    """One entry of the file, and the ways to write it."""

    line: int
    forms: list[Form]

    def find(self, text: str, folded: str) -> tuple[int, int] | None:
        """Where a text, given with its folded form, mentions it: begin and end, None where it does not."""
        return next((place for form in self.forms if (place := form.find(text, folded)) is not None), None)


@dataclass(frozen=True)
class Mentions:
    """What a file of mentions finds in a data set.

    Attributes:
        entries: how many the file has.
        found: how many of them occur in the data set.
        rows: how many rows mention one.
        confirmed: the rows that somebody confirmed, counted from 0.
    """

    entries: int
    found: int
    rows: int
    confirmed: tuple[int, ...]

    @property
    def records(self) -> Records | None:
        """The confirmed rows as a request, None without any."""
        return Records.rows(self.confirmed) if self.confirmed else None


def confirmed_mentions(dataset: AnyDataset, file: Path, review: Path | None) -> Mentions:
    """Look for mentions, and read from the review which of them are to be forgotten.

    Args:
        dataset: D. All its text is looked at, in conversations too, and its whole numbers.
        file: the names, addresses, e-mails and numbers, one a line (.txt, .csv or .jsonl).
        review: the private file; it is written where it is not there.

    Raises:
        InputError: an entry cannot be looked for, no row mentions one, or the review is not finished.
    """
    if review is None:
        raise InputError(f"Mentions need a review; name a private file to write with {FLAG}, such as review.jsonl.")
    require_ours(review, FLAG, ABOUT[:40])
    entries = read_entries(file)
    lines = list(_found(dataset, entries))
    named = {line for one in lines for line in one["entries"]}
    if not lines:
        raise InputError(
            f"No row mentions one of the {len(entries):,} entries of {file}; correct it, or leave it out."
        )
    counts = f"{len(lines):,} rows mention {len(named):,} of the {len(entries):,} entries of {file}"
    if not review.exists():
        _write(review, lines)
        raise InputError(f"{counts}. Say in {review} which are to be forgotten, and give the same command again.")
    answers = _answers(review, lines)
    if undecided := sum(answer is None for answer in answers):
        raise InputError(
            f"{counts}, and {undecided:,} of them are undecided; set forget to true or false in {review}."
        )
    rows = tuple(line["row"] for line, answer in zip(lines, answers, strict=True) if answer)
    return Mentions(len(entries), len(named), len(lines), rows)


def read_entries(file: Path) -> list[Entry]:
    """The entries of a file; raises InputError, which names the line, where one says too little."""
    values, numbers = read_ids(file, "mention")
    entries = []
    for value, number in zip(values, numbers, strict=True):
        try:
            entries.append(Entry(number, forms_of(str(value))))
        except InputError as error:
            raise InputError(f"Line {number} of {file}: {error}; write it in full, or leave it out.") from None
    return entries


def _found(dataset: AnyDataset, entries: list[Entry]) -> Iterator[dict[str, Any]]:
    """A line of the review for each row that mentions an entry."""
    names = column_names(dataset)
    for table, start in read_tables(dataset, names):
        columns = [_texts(table.column(name)) for name in names]
        for row, parts in enumerate(zip(*columns, strict=True)):
            text = BETWEEN.join(part for part in parts if part)
            folded = fold(text)
            places = {entry.line: place for entry in entries if (place := entry.find(text, folded)) is not None}
            if places:
                shown = [_context(text, *place) for place in dict.fromkeys(places.values())]
                yield {"row": start + row, "forget": None, "entries": list(places), "context": shown}


def _texts(column: pa.ChunkedArray) -> list[str]:
    """All that each value of a column says, empty where that is no text and no whole number."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return ["" if value is None else value for value in column.to_pylist()]
    return [BETWEEN.join(_said(value)) for value in column.to_pylist()]


def _said(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, float) and value.is_integer():
        yield str(int(value))
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _said(inner)


def _context(text: str, begin: int, end: int) -> str:
    before, after = text[max(begin - CONTEXT, 0) : begin], text[end : end + CONTEXT]
    return f"{before}>>{text[begin:end]}<<{after}".replace(BETWEEN, " | ")


# The review


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write the review, all of it or nothing; only its owner can read it."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        with written_privately(path) as file:
            for line in ({"about": ABOUT, "all": None, "rows": len(lines)}, *lines):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"The review of mentions cannot be written to {path}: {error.strerror}.") from None


def _answers(path: Path, found: list[dict[str, Any]]) -> list[bool | None]:
    """What the review says of each row that is found; raises InputError where it is about other rows."""
    try:
        head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
        given = [line.pop("forget") for line in lines]
        same = lines == [{name: value for name, value in one.items() if name != "forget"} for one in found]
        default = head["all"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise InputError(f"{path} is no review of mentions any more; delete it, and it is written anew.") from None
    if not same:
        raise InputError(
            f"{path} is the review of another data set or file of mentions, or lines of it were changed; delete it, "
            "and it is written anew."
        )
    answers = [default if answer is None else answer for answer in given]
    if any(answer is not None and not isinstance(answer, bool) for answer in answers):
        raise InputError(f"{path} may have only true, false or null for forget and all; correct it.")
    return answers
