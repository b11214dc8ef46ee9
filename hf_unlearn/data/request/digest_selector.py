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
from ..canonical import FRACTIONS, WHOLE, content_texts, has_fractions, id_texts, kind_of, text_in
from .digests import ForgottenDigests, digest_each, plain_kinds
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

    @cached_property
    def positions(self) -> dict[str, int]:
        """The place of each digest in their sorted order."""
        return {digest: i for i, digest in enumerate(sorted(self.digests))}

    @cached_property
    def by_bytes(self) -> dict[bytes, str]:
        """Each digest by its bytes."""
        return {bytes.fromhex(digest): digest for digest in self.digests}

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
        self.kinds = [kind_of(kind, features.get(name)) for kind, name in zip(types, wanted.names, strict=True)]
        self.whole = True
        self.fractions: set[str] = set()
        self.alike: list[np.ndarray] = []
        self.positions = wanted.positions

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
        names = self.wanted.names
        self.fractions |= {name for name in names if name not in self.fractions and has_fractions(table.column(name))}
        self.alike.append(self._alike(texts) & ~mask)

    def _alike(self, texts: pa.Array) -> np.ndarray:
        """Which rows have an id that the column's type, when a request named ids, would have made one of those."""
        kinds: dict[str, set[str]] = {}
        for part in self.wanted.parts:
            if part.types and not part.whole_rows and plain_kinds(part.types) != self.kinds:
                kinds.setdefault(part.types[0], set()).update(part.digests)
        found: set[str] = set()
        start = value_text(self.wanted.names[0], "")
        for kind, digests in kinds.items():
            forms = {text: text_in(kind, text.removeprefix(start)) for text in texts.unique().drop_null().to_pylist()}
            changed = {text: start + form for text, form in forms.items() if form is not None}
            made = zip(changed, digest_each(self.wanted.key, changed.values()), strict=True)
            found |= {text for text, digest in made if digest in digests}
        return np.asarray(pc.is_in(texts, value_set=pa.array(list(found), pa.large_string())))

    def known(self, texts: Sequence[str]) -> dict[str, list[str]]:
        """Those of the texts of ids or rows that it has digests of, with these digests."""
        found: dict[str, list[str]] = {}
        forms = [(text, form) for text in texts for form in self._forms(text)]
        digests = digest_each(self.wanted.key, [form for _, form in forms])
        for (text, _), digest in zip(forms, digests, strict=True):
            if digest in self.wanted.digests:
                found.setdefault(text, []).append(digest)
        return found

    def check(self, allow_unmatched: bool, gone: np.ndarray) -> int:
        """How much of what was forgotten D lacks; raises InputError where it may be there in another form.

        ``gone``: the rows that are in S now, bool of shape (rows,).
        """
        names = self.wanted.names
        named = zip(self.kinds, names, strict=True)
        types = [kind + FRACTIONS if name in self.fractions else kind for kind, name in named]
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
                    "again; restore the form that they had, or go on with --allow_unmatched (in Python, "
                    "allow_unmatched=True) if they are gone."
                )
        if (alike := int(np.count_nonzero(np.concatenate(self.alike) & ~gone))) and not allow_unmatched:
            raise InputError(
                f"{alike:,} rows to retain may be of people whom an earlier request named: column {listed(names)} had "
                "another type then, which wrote their ids as it wrote others (3 for 03). Name them in this request, "
                "too, or restore that type, or retain them with --allow_unmatched (in Python, "
                "allow_unmatched=True)."
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
