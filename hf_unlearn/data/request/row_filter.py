"""``training_filter.json``: which values a model's training rows had, so that only the owner of the key can ask.

Each value of a column of ids, texts or classes is one entry: the first bytes of its keyed BLAKE2b digest (RFC 7693,
section 2.9), sorted, of all columns together. So the file tells nobody else more than how many entries there are. Each
data set has a secret of its own, so that filters of two models, or a filter and a ledger, cannot be compared.

A value of the training rows is always found. Another one is taken for one of them with the probability
``false_positives`` at most, which is below 2**-20.
"""

import base64
import binascii
import hashlib
import hmac
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ...errors import InputError
from ...files import load_json
from ..arrow_tables import AnyDataset, plain_type, read_tables
from ..canonical import ANY_NUMBER, FLOATS, has_fractions, is_number, kind_of, number_text, refuse_large, text_in
from ..canonical import texts_of as texts_of_values
from .digests import key_check
from .records import value_text

FILTER_FILE = "training_filter.json"

FILTER_VERSION = 1

# A false positive is as rare as 2 to the power of minus this.
SPARE_BITS = 20
DIGEST_BYTES = 8  # what is computed; an entry is the first few of them

FAMILIES = ("number", "moment", "text")
MOMENTS = ("date", "timestamp[ns]", "timestamp with a zone[ns]")


@dataclass(frozen=True)
class RowFilter:
    """The filter of the rows of a training.

    Attributes:
        rows: how many rows were trained on.
        entries: how many distinct values all their columns have together, with one for each column.
        entry_bytes: the size of an entry.
        false_positives: the probability that a value which no row has is taken for an entry.
        salt: 32 hexadecimal characters, from which the secret of the filter follows with the owner's key.
        key_check: identifies that secret.
        digests: the entries in base64, sorted.
    """

    rows: int
    entries: int
    entry_bytes: int
    false_positives: float
    salt: str
    key_check: str
    digests: str = field(repr=False)
    schema_version: int = FILTER_VERSION

    def open(self, key: bytes) -> "OpenFilter | None":
        """The filter with its secret, None with another key; raises InputError where it is damaged."""
        secret = _secret(key, self.salt)
        if key_check(secret) != self.key_check:
            return None
        try:
            content = base64.b64decode(self.digests, validate=True)
        except (binascii.Error, ValueError):
            content = b""
        if not 0 < self.entry_bytes <= DIGEST_BYTES or len(content) != self.entries * self.entry_bytes:
            raise InputError(f"{FILTER_FILE} is damaged; copy or download the model again.")
        padded = np.zeros((self.entries, DIGEST_BYTES), np.uint8)
        padded[:, DIGEST_BYTES - self.entry_bytes :] = np.frombuffer(content, np.uint8).reshape(
            self.entries, self.entry_bytes
        )
        return OpenFilter(secret, self.entry_bytes, padded.reshape(-1).view(">u8").astype(np.uint64))


@dataclass(frozen=True)
class OpenFilter:
    """A filter with its secret; ``entries`` are sorted, uint64 of shape (entries,)."""

    secret: bytes = field(repr=False)
    entry_bytes: int
    entries: np.ndarray = field(repr=False)

    def family(self, column: str) -> str | None:
        """What a column holds, one of :data:`FAMILIES`; None where the filter does not have the column."""
        found = self._holds([_mark(column, family) for family in FAMILIES])
        return next((family for family, there in zip(FAMILIES, found, strict=True) if there), None)

    def holds(self, column: str, values: list[str]) -> np.ndarray:
        """Which values of a column it has, whatever their form; bool of shape (values,)."""
        return self._holds([value_text(column, value) for value in values])

    def _holds(self, texts: list[str]) -> np.ndarray:
        wanted = _cut(_digests(self.secret, texts), self.entry_bytes)
        places = np.searchsorted(self.entries, wanted)
        there = places < len(self.entries)
        there[there] = self.entries[places[there]] == wanted[there]
        return there


def row_filter_of(dataset: AnyDataset, key: bytes) -> RowFilter | None:
    """The filter of the rows that a model was trained on; None for a stream, which may have no end."""
    return row_filter(dataset, key) if isinstance(dataset, Dataset) else None


def load_row_filter(path: Path) -> RowFilter:
    """Read a filter; raises InputError where it is none."""
    return load_json(RowFilter, path, "filter of training rows", FILTER_VERSION, "train again")


def row_filter(dataset: Dataset, key: bytes) -> RowFilter:
    """Make the filter of rows.

    Columns of lists, of bytes and of numbers that are not whole have no ids, and stay out.

    Args:
        dataset: the rows.
        key: the owner's.
    """
    # The same rows have the same secret, so that the same training writes the same file.
    salt = hmac.digest(key, f"salt of {FILTER_FILE}\x1d{dataset._fingerprint}".encode(), "sha256")[:16].hex()
    secret = _secret(key, salt)
    columns = _columns(dataset)
    found: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for table in _tables(dataset, list(columns)):
        for name in [*found]:
            if _has_no_ids(table.column(name)):
                del found[name]
                continue
            texts = texts_of_values(table.column(name), dataset.features.get(name)).unique().drop_null().to_pylist()
            found[name].append(_digests(secret, [value_text(name, text) for text in texts]))
    marks = _digests(secret, [_mark(name, columns[name]) for name in found])
    digests = _distinct(np.concatenate([marks, *(part for parts in found.values() for part in parts)]))
    size = math.ceil((math.log2(max(len(digests), 1)) + SPARE_BITS) / 8)
    # Some that differ begin alike.
    entries = _distinct(_cut(digests, size))
    content = entries.astype(">u8").view(np.uint8).reshape(-1, DIGEST_BYTES)[:, DIGEST_BYTES - size :].tobytes()
    return RowFilter(
        rows=len(dataset),
        entries=len(entries),
        entry_bytes=size,
        false_positives=len(entries) / 256**size,
        salt=salt,
        key_check=key_check(secret),
        digests=base64.b64encode(content).decode(),
    )


def forms_in(family: str, value: str) -> list[str] | None:
    """The texts that a value has in columns of a family; None where nobody can read it as one."""
    if family == "number":
        return [number_text(value.strip())] if ANY_NUMBER.fullmatch(value.strip()) else []
    if family == "moment":
        forms = [text_in(kind, _in_utc(value.strip())) for kind in MOMENTS]
        return [form for form in forms if form is not None] or None
    return [value]


def _in_utc(moment: str) -> str:
    """A point in time with a zone as columns have it, and anything else as it is."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return moment if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")


def family_of(kind: str) -> str | None:
    """The family of a kind of columns, see :func:`~hf_unlearn.data.canonical.kind_of`; None for those without ids."""
    if is_number(kind):
        return "number"
    if kind == "date" or kind.startswith("timestamp"):
        return "moment"
    return "text" if kind in ("string", "label", "mixed") else None


def _columns(dataset: Dataset) -> dict[str, str]:
    """The columns that may have ids, each with its family."""
    schema = dataset.features.arrow_schema
    kinds = {name: kind_of(plain_type(schema.field(name).type), dataset.features[name]) for name in schema.names}
    return {name: family for name, kind in kinds.items() if (family := family_of(kind)) is not None}


def _tables(dataset: Dataset, columns: list[str]) -> Iterator[pa.Table]:
    """The rows in any order: those of an index mapping would come one by one, each in a piece of its own."""
    if dataset._indices is None:
        yield from (table for table, _ in read_tables(dataset, columns))
        return
    chosen = np.zeros(dataset.data.num_rows, bool)
    chosen[np.asarray(dataset._indices.column(0))] = True
    whole = Dataset(dataset.data, info=dataset.info.copy(), fingerprint=dataset._fingerprint)
    for table, start in read_tables(whole, columns):
        yield table.filter(pa.array(chosen[start : start + table.num_rows]))


def _has_no_ids(column: pa.ChunkedArray) -> bool:
    """Whether some numbers of a column are not whole, or so large that neighbours are one number."""
    if has_fractions(column):
        return True
    if str(column.type) not in FLOATS:
        return False
    try:
        refuse_large("", str(column.type), np.asarray(column.drop_null(), dtype=np.float64))
    except InputError:
        return True
    return False


def _mark(column: str, family: str) -> str:
    return f"{column}\x1d{family}"


def _secret(key: bytes, salt: str) -> bytes:
    return hmac.digest(key, f"secret of {FILTER_FILE}\x1d{salt}".encode(), "sha256")


def _digests(secret: bytes, texts: list[str]) -> np.ndarray:
    """The keyed digest of each text, uint64 of shape (texts,)."""
    found = [hashlib.blake2b(text.encode(), key=secret, digest_size=DIGEST_BYTES).digest() for text in texts]
    return np.frombuffer(b"".join(found), ">u8").astype(np.uint64)


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """The distinct numbers, sorted; of random ones NumPy's own search takes longer."""
    ordered = np.sort(numbers)
    return ordered[np.concatenate([np.ones(min(len(ordered), 1), bool), ordered[1:] != ordered[:-1]])]


def _cut(digests: np.ndarray, size: int) -> np.ndarray:
    """The first bytes of each digest, as a number."""
    return digests >> np.uint64(8 * (DIGEST_BYTES - size))
