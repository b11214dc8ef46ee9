"""Records that were forgotten before, recognised in D by the keyed digests that the ledger has of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ...errors import InputError
from ..arrow_tables import listed, row_texts
from .digests import ForgottenDigests, digest_each
from .records import Matcher, Records, Selector, value_text


@dataclass(frozen=True)
class Digested(Selector):
    """Rows whose id, or whose content in some columns, has one of the digests."""

    key: bytes = field(repr=False)
    names: tuple[str, ...]
    whole_rows: bool
    digests: frozenset[str]

    def columns(self, available: Sequence[str]) -> list[str]:
        if missing := [name for name in self.names if name not in available]:
            raise InputError(
                f"Records forgotten before are recognised by {listed(self.names)}, and the data set has no "
                f"{listed(missing)}; add the missing columns, or these records would come back."
            )
        return list(self.names)

    def bind(self, schema: pa.Schema, class_names: dict[str, list[str]]) -> "DigestMatcher":
        return DigestMatcher(self)


class DigestMatcher(Matcher):
    def __init__(self, wanted: Digested):
        super().__init__(0)
        self.wanted = wanted

    def mask(self, table: pa.Table, start: int) -> np.ndarray:
        names, whole_rows = list(self.wanted.names), self.wanted.whole_rows
        texts: list[str | None]
        if whole_rows:
            texts = [*row_texts(table, names)]
        else:
            values = table.column(names[0]).to_pylist()
            texts = [None if value is None else value_text(names[0], value) for value in values]
        distinct = list({text for text in texts if text is not None})
        digests = digest_each(self.wanted.key, distinct)
        known = {text for text, digest in zip(distinct, digests, strict=True) if digest in self.wanted.digests}
        return np.fromiter((text in known for text in texts), bool, len(texts))


def recognised(key: bytes, forgotten: Iterable[ForgottenDigests]) -> Records | None:
    """The records that these digests, made with the owner's key, are of; None where there are no digests."""
    kinds: dict[tuple[tuple[str, ...], bool], set[str]] = {}
    for part in forgotten:
        kinds.setdefault((tuple(part.columns), part.whole_rows), set()).update(part.digests)
    parts = [
        Digested(key, names, whole_rows, frozenset(digests))
        for (names, whole_rows), digests in kinds.items()
        if digests
    ]
    return Records(tuple(parts)) if parts else None
