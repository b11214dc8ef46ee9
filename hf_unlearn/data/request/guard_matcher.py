"""A matcher of forgotten records that also knows their ids in another type of column, or in another hand.

The work is done table by table, here or in processes that :func:`begin` has told what to look for.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features

from ...errors import InputError
from ..arrow_tables import listed
from ..canonical import NUMBER, is_number, number_text
from ..canonical import texts_of as texts_of_values
from .digest_selector import Digested, DigestMatcher
from .digests import ForgottenDigests, keyed_hash, plain_kinds
from .records import value_text

MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?))?(Z|\+00:?00)?")
PLAIN = re.compile(r"[1-9][0-9]*")
UNITS = ("s", "ms", "us", "ns")
# Whole numbers below 2**53, as people write them.
EXACT = r"^\s*[+-]?0*[0-9]{1,15}(\.0*)?\s*$"
LONGEST_PADDED = 20
# What this process looks for, where it is one that helps.
PARTS: list[Digested] = []


class Batch(NamedTuple):
    """Some rows to look at.

    Attributes:
        part: the place, among the parts, of what to look for.
        rows: a table of the columns that it needs, as a stream of Arrow's IPC: a part of a table takes no more there.
        features: those of the columns.
    """

    part: int
    rows: pa.Buffer
    features: Features

    @classmethod
    def of(cls, part: int, table: pa.Table, features: Features) -> "Batch":
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return cls(part, sink.getvalue(), features)

    def seen(self, parts: Sequence[Digested]) -> "Seen":
        """What these rows have of one of the parts."""
        table = pa.ipc.open_stream(self.rows).read_all()
        wanted = parts[self.part]
        matcher = GuardMatcher(wanted, [table.schema.field(name).type for name in wanted.names], self.features)
        return Seen(matcher.look(table), matcher.hits, matcher.kinds, matcher.exact)


class Seen(NamedTuple):
    """What some rows have.

    Attributes:
        mask: which rows have a forgotten id or content, bool of shape (rows,).
        hits: how many rows have each digest, int64 of shape (digests,).
        kinds: what each column holds, see :func:`~hf_unlearn.data.canonical.kind_of`.
        exact: by column, whether it holds nothing but whole numbers that all types of numbers tell apart.
    """

    mask: np.ndarray
    hits: np.ndarray
    kinds: list[str]
    exact: dict[str, bool]

    def counted_with(self, other: "Seen") -> "Seen":
        """With what was counted of other rows."""
        exact = {name: whole and other.exact[name] for name, whole in self.exact.items()}
        return self._replace(hits=self.hits + other.hits, exact=exact)

    def require_sure(self, wanted: Digested) -> None:
        """Raise InputError where a forgotten record may be there in a form that it cannot have been recognised in."""
        for part in wanted.parts:
            found = sum(bool(self.hits[wanted.positions[digest]]) for digest in part.digests)
            for name, then, now in zip(wanted.names, plain_kinds(part.types or []), self.kinds, strict=False):
                if found < len(part.digests) and not _same_texts(part, then, now, exact=self.exact[name]):
                    raise InputError(
                        f"The column {listed([name])} held {then} when {len(part.digests):,} records were forgotten, "
                        f"and holds {now} now. {found:,} of them were recognised, and others may be there in another "
                        "form; give the column the type that it had."
                    )


def begin(parts: Sequence[Digested]) -> None:
    """Tell this process what to look for."""
    PARTS[:] = parts


def seen_in(batch: Batch) -> Seen:
    """What a batch has of what this process looks for."""
    return batch.seen(PARTS)


class GuardMatcher(DigestMatcher):
    """Finds rows by digests, also where an id is written in another form."""

    def __init__(self, wanted: Digested, types: list[pa.DataType], features: Features):
        super().__init__(wanted, types, features)
        self.exact = dict.fromkeys(wanted.names, True)

    def count(self, table: pa.Table, mask: np.ndarray, start: int) -> None:
        super().count(table, mask, start)
        for name, kind in zip(self.wanted.names, self.kinds, strict=True):
            texts = texts_of_values(table.column(name), self.features.get(name)) if _may_be_whole(kind) else None
            self.exact[name] &= texts is not None and bool(
                pc.all(pc.match_substring_regex(texts, EXACT), min_count=0).as_py()
            )

    def look(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table have a forgotten id or content, bool of shape (rows,); they are counted."""
        mask = self.mask(table, 0)
        self.count(table, mask, 0)
        # What the type of then would have made one of the ids may be one.
        return mask | self.alike.pop()

    def known(self, texts: Sequence[str]) -> dict[str, list[str]]:
        if self.wanted.whole_rows:
            return super().known(texts)
        wanted, old, digest_of = self.wanted.by_bytes, self.wanted.old, keyed_hash(self.wanted.key)
        held = {kind for part in self.wanted.parts for kind in part.types or []}
        padded = "string" in held and is_number(self.kinds[0])
        found: dict[str, list[str]] = {}
        start = value_text(self.wanted.names[0], "")
        for text in texts:
            forms = [start + form for form in forms_of(text[len(start) :], padded)]
            for form in dict.fromkeys([*self._forms(text), *forms]) if old else forms:
                if (digest := digest_of(form.encode())) in wanted:
                    found.setdefault(text, []).append(wanted[digest])
        return found


def forms_of(value: str, padded: bool = False) -> list[str]:
    """The forms in which another type, or another hand, may have written an id; ``padded``: with zeros before it."""
    # Few ids are plain numbers, and a pattern takes a while.
    if value[:1] in "123456789" and PLAIN.fullmatch(value):
        more = range(len(value) + 1, LONGEST_PADDED + 1) if padded else ()
        return [value, *(value.zfill(size) for size in more)]
    bare = value.strip() if value.isascii() else unicodedata.normalize("NFKC", value).strip()
    forms = [value, bare, bare.lower(), bare.upper(), bare.capitalize()]
    if bare[:1] not in "+-.0123456789":
        return list(dict.fromkeys(forms))
    for number in (bare, bare.lstrip("0+") or "0"):
        if NUMBER.fullmatch(number):
            # A number of single or half precision that was widened since.
            widened = (
                [str(precision(float(number))) for precision in (np.float32, np.float16)] if "." in number else []
            )
            forms += map(number_text, [number, *widened])
    if moment := MOMENT.fullmatch(bare):
        day, time = moment[1], (moment[2] or "00:00:00")
        time = time if time.count(":") == 2 else f"{time}:00"
        time = time.rstrip("0").rstrip(".") if "." in time else time
        forms += [f"{day} {time}", f"{day} {time}Z", *([day] if time == "00:00:00" else [])]
    return list(dict.fromkeys(forms))


def _may_be_whole(kind: str) -> bool:
    return is_number(kind) or kind == "string"


def _same_texts(part: ForgottenDigests, then: str, now: str, *, exact: bool) -> bool:
    """Whether what a column of one kind held has texts in another kind that are recognised, whatever it is.

    ``exact``: whether all that the column holds now are whole numbers that are told apart.
    """
    if now in (then, "null") or {then, now} <= {"string", "label"}:
        return True
    (family, before), (of_now, after) = (kind.rstrip("]").partition("[")[::2] for kind in (then, now))
    if family == of_now and before in UNITS and after in UNITS:
        return UNITS.index(before) <= UNITS.index(after)
    if part.whole_rows:
        return exact and then == "integer" and is_number(now)
    return exact and part.form == "integer" and _may_be_whole(then) and _may_be_whole(now)
