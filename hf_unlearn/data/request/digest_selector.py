"""Records that were forgotten before, recognised in D by the keyed digests that the ledger has of them."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features

from ...errors import InputError
from ..arrow_tables import listed, row_texts
from ..canonical import WHOLE, content_texts, id_texts, kind_of
from .digests import ForgottenDigests, digest_each
from .records import Matcher, Records, Selector, value_text


@dataclass(frozen=True)
class Digested(Selector):
    """Rows whose id, or whose content in some columns, has one of the digests of these parts of a ledger.

    The parts are of the same columns, and all of them are from before types were noted, or none is.
    """

    key: bytes = field(repr=False)
    parts: tuple[ForgottenDigests, ...]

    @cached_property
    def digests(self) -> frozenset[str]:
        return frozenset(digest for part in self.parts for digest in part.digests)

    @property
    def names(self) -> list[str]:
        return self.parts[0].columns

    @property
    def whole_rows(self) -> bool:
        return self.parts[0].whole_rows

    @property
    def old(self) -> bool:
        """Whether the digests are of texts as they were before types were noted."""
        return self.parts[0].types is None

    def columns(self, available: Sequence[str]) -> list[str]:
        if missing := [name for name in self.names if name not in available]:
            raise InputError(
                f"Records forgotten before are recognised by {listed(self.names)}, and the data set has no "
                f"{listed(missing)}; add the missing columns, or these records would come back."
            )
        return list(self.names)

    def bind(self, schema: pa.Schema, features: Features) -> "DigestMatcher":
        return DigestMatcher(self, [schema.field(name).type for name in self.names], features)


class DigestMatcher(Matcher):
    """Finds rows by digests; ``hits`` counts those of each digest, in their sorted order."""

    def __init__(self, wanted: Digested, types: list[pa.DataType], features: Features):
        super().__init__(len(wanted.digests))
        self.wanted, self.types, self.features = wanted, types, features
        self.whole = True
        self.positions = {digest: i for i, digest in enumerate(sorted(wanted.digests))}

    def mask(self, table: pa.Table, start: int) -> np.ndarray:
        texts = self._texts(table)
        known = self.known(texts.unique().drop_null().to_pylist())
        return np.asarray(pc.is_in(texts, value_set=pa.array(list(known), pa.large_string())))

    def count(self, table: pa.Table, mask: np.ndarray, start: int) -> None:
        texts = self._texts(table)
        self.whole &= bool(pc.all(pc.match_substring_regex(texts, f"\x1f({WHOLE.pattern})$"), min_count=0).as_py())
        found = texts.filter(pa.array(mask)).value_counts().to_pylist()
        counts = {each["values"]: each["counts"] for each in found}
        for text, digests in self.known(list(counts)).items():
            for digest in digests:
                self.hits[self.positions[digest]] += counts[text]

    def known(self, texts: Sequence[str]) -> dict[str, list[str]]:
        """Those of the texts of ids or rows that it has digests of, with these digests."""
        found: dict[str, list[str]] = {}
        forms = [(text, form) for text in texts for form in self._forms(text)]
        digests = digest_each(self.wanted.key, [form for _, form in forms])
        for (text, _), digest in zip(forms, digests, strict=True):
            if digest in self.wanted.digests:
                found.setdefault(text, []).append(digest)
        return found

    def check(self, allow_unmatched: bool) -> int:
        """How much of what was forgotten D lacks; raises InputError where it may be there in another form."""
        names = self.wanted.names
        types = [kind_of(kind, self.features.get(name)) for kind, name in zip(self.types, names, strict=True)]
        lacking = 0
        for part in self.wanted.parts:
            found = sum(bool(self.hits[self.positions[digest]]) for digest in part.digests)
            expected = len(part.digests) if part.found is None else part.found
            lacking += max(expected - found, 0)
            changed = part.may_differ(types, self.whole)
            if found < expected and (found or changed) and not allow_unmatched:
                what = "rows" if part.whole_rows else f"ids of the column {listed(names)}"
                then = f" The column types were {', '.join(part.types or [])} and are {', '.join(types)}."
                raise InputError(
                    f"An earlier request named {expected:,} {what} that the data set had, and it has {found:,} now."
                    f"{then if changed else ''} The others may be there in another form and would be trained on "
                    "again; restore the form that they had, or go on with --allow_unmatched if they are gone."
                )
        return lacking

    def _texts(self, table: pa.Table) -> pa.Array:
        """The text of each row's id or content, null where it has no id."""
        names = self.wanted.names
        if self.wanted.whole_rows:
            write = row_texts(table, names) if self.wanted.old else content_texts(table, names, self.features)
            return pa.array(write, pa.large_string())
        texts = id_texts(table, names[0], self.features.get(names[0]))
        return pc.binary_join_element_wise(
            pa.scalar(names[0], pa.large_string()), texts, pa.scalar("\x1f", pa.large_string())
        )

    def _forms(self, text: str) -> list[str]:
        """All forms in which the ledger may have a text: older ones have ids as Python wrote their values."""
        if self.wanted.whole_rows or not self.wanted.old:
            return [text]
        name = self.wanted.names[0]
        value = text.removeprefix(value_text(name, ""))
        forms = [value, f"{value}.0"] if WHOLE.fullmatch(value) else [value]
        feature = self.features.get(name)
        if isinstance(feature, ClassLabel):
            forms += [str(feature.str2int(value))] if value in feature.names else []
        elif not pa.types.is_nested(self.types[0]):
            with contextlib.suppress(pa.ArrowException):
                forms.append(str(pa.scalar(value).cast(self.types[0]).as_py()))
        return [value_text(name, form) for form in dict.fromkeys(forms)]


def recognised(key: bytes, forgotten: Iterable[ForgottenDigests]) -> Records | None:
    """The records that these digests, made with the owner's key, are of; None where there are no digests."""
    kinds: dict[tuple[tuple[str, ...], bool, bool], list[ForgottenDigests]] = {}
    for part in forgotten:
        if part.digests:
            kinds.setdefault((tuple(part.columns), part.whole_rows, part.types is None), []).append(part)
    return Records(tuple(Digested(key, tuple(parts)) for parts in kinds.values())) if kinds else None
