"""Keyed digests of what a request made a model forget; the ledger keeps them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..arrow_tables import AnyDataset, column_names, read_tables, row_texts
from ..canonical import FRACTIONS, WHOLE, content_texts, has_fractions, is_number, kind_of
from .digests import ForgottenDigests, digest_each, key_check, keyed_digest
from .selection import Selection, take_rows


@dataclass(frozen=True)
class RequestFile:
    """One file of ids.

    Attributes:
        name: of the file. It may be a person's, so only the owner sees it.
        ids: how many it names.
        honoured: how many of them were forgotten before.
        digest: keyed, of all of them.
    """

    name: str
    ids: int
    honoured: int
    digest: str

    @property
    def pending(self) -> bool:
        return self.honoured < self.ids


@dataclass(frozen=True)
class Forgotten:
    """What a request makes a model forget.

    Attributes:
        digests: of the ids, found in D or not, and of the rows that are named in another way or are copies.
        files: that the request came from.
        key_check: identifies the key.
        records: a digest of the content of S, however the request names it.
        key: the owner's.
    """

    digests: list[ForgottenDigests]
    files: list[RequestFile]
    key_check: str
    records: str
    key: bytes = field(repr=False)


def forgotten_digests(dataset: AnyDataset, request: Selection, forget: np.ndarray, key: bytes) -> Forgotten:
    """Digest what a request on D makes a model forget; ``forget``: which rows, bool of shape (rows of D and H,)."""
    rest = forget.copy()
    digests: dict[tuple[tuple[str, ...], bool], dict[str, bool]] = {}
    forms: dict[str, str] = {}
    for matcher, masks in zip(request.matchers, request.masks, strict=True):
        if (named := matcher.named()) is not None:
            found = digests.setdefault((tuple(named.columns), named.whole_rows), {})
            found.update(zip(digest_each(key, named.texts), map(bool, matcher.hits), strict=True))
            rest &= ~np.concatenate(masks)
            if not named.whole_rows and not all(WHOLE.fullmatch(text.split("\x1f")[-1]) for text in named.texts):
                forms[named.columns[0]] = "text"
    # A copy, or a row named by position or predicate, is recognised by its whole content.
    columns = column_names(dataset)
    if rest.any():
        texts = _texts(dataset, rest, columns, partial(content_texts, features=dataset.features))
        digests.setdefault((tuple(columns), True), {}).update(dict.fromkeys(digest_each(key, texts), True))
    files = [
        RequestFile(matcher.source, len(named.texts), honoured, keyed_digest(key, named.texts))
        for matcher, named, honoured in zip(request.matchers, request.named, request.honoured, strict=True)
        if matcher.source and named is not None
    ]
    parts = []
    for (names, rows), found in digests.items():
        if found:
            form = "text" if rows else forms.get(names[0], "integer")
            types = _types(dataset, names)
            parts.append(ForgottenDigests(list(names), rows, sorted(found), types, form, sum(found.values())))
    records = keyed_digest(key, _texts(dataset, forget, columns))
    return Forgotten(parts, files, key_check(key), records, key)


def _texts(
    dataset: AnyDataset,
    mask: np.ndarray,
    columns: list[str],
    write: Callable[[pa.Table, list[str]], list[str]] = row_texts,
) -> Iterator[str]:
    """The content of the chosen rows."""
    if isinstance(dataset, Dataset):
        dataset, mask = take_rows(dataset, np.flatnonzero(mask)), mask[mask]
    for table, start in read_tables(dataset, columns):
        yield from write(table.filter(mask[start : start + table.num_rows]), columns)


def _types(dataset: AnyDataset, columns: Sequence[str]) -> list[str]:
    """What the columns hold, and whether some of their numbers are not whole."""
    schema, features = next(read_tables(dataset, columns))[0].schema, dataset.features or {}
    kinds = {name: kind_of(schema.field(name).type, features.get(name)) for name in columns}
    numbers = [name for name, kind in kinds.items() if is_number(kind) and kind != "integer"]
    for table, _ in read_tables(dataset, numbers) if numbers else ():
        kinds |= {name: kinds[name] + FRACTIONS for name in numbers if has_fractions(table.column(name))}
        numbers = [name for name in numbers if not kinds[name].endswith(FRACTIONS)]
    return [kinds[name] for name in columns]
