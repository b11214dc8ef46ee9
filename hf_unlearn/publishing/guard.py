"""A guard against what comes back: rows of new data that were forgotten before, by the ledger of a model.

The ledger has keyed digests of ids and of whole rows, and no texts. So copies are looked for of the forgotten records
that the new data has itself, or that the data set has which they were forgotten from.
"""

import hmac
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from ..data.arrow_tables import listed, read_tables
from ..data.canonical import NUMBER, is_number, number_text
from ..data.canonical import texts_of as texts_of_values
from ..data.copies.exact import normalised_text, text_columns, texts_of
from ..data.copies.near import find_near_copies
from ..data.request.digest_selector import Digested, DigestMatcher
from ..data.request.digests import ForgottenDigests, plain_kinds
from ..data.request.records import value_text
from ..errors import InputError
from .ledger import Ledger
from .ledger_of_model import forgotten_before

MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d(?:\.\d+)?)?))?(Z|\+00:?00)?")
PLAIN = re.compile(r"[1-9][0-9]*")
UNITS = ("s", "ms", "us", "ns")
# Whole numbers below 2**53, as people write them.
EXACT = r"^\s*[+-]?0*[0-9]{1,15}(\.0*)?\s*$"
LONGEST_PADDED = 20


@dataclass(frozen=True)
class Returned:
    """Which rows of a data set were forgotten before, bool of shape (rows,) each; no row is in two of them.

    Attributes:
        named: those that the ledger names, by an id or by their content.
        copies: others with the text of a forgotten record.
        near_copies: others that nearly equal one, or quote it.
    """

    named: np.ndarray
    copies: np.ndarray
    near_copies: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """All of them, bool of shape (rows,)."""
        return self.named | self.copies | self.near_copies


@dataclass(frozen=True)
class Guard:
    """Tells what was forgotten before.

    Args:
        ledger: of the model that forgot.
        key: the owner's, that the ledger was written with.
        renamed: the names that columns of the ledger have now.
        skip_missing: pass over what cannot be recognised because a column is missing, instead of raising InputError.
    """

    ledger: Ledger
    key: bytes = field(repr=False)
    renamed: Mapping[str, str] = field(default_factory=dict)
    skip_missing: bool = False

    def find(self, data: Mapping[str, Dataset], forgotten: Dataset | None = None) -> dict[str, Returned]:
        """Look through new data.

        Args:
            data: its splits by name.
            forgotten: the data set that the records were forgotten from, or these records; copies of all of them are
                looked for then, and not only of those that ``data`` has.

        Returns:
            What was found in each split.

        Raises:
            InputError: a column is missing or of a type that tells nothing, or ``forgotten`` has no such record.
        """
        named = {name: self.named(part) for name, part in data.items()}
        sources = [(part, named[name]) for name, part in data.items()]
        if forgotten is not None:
            sources.append((forgotten, mask := self.named(forgotten)))
            if not mask.any():
                raise InputError("The data set of forgotten records has none that the ledger names; name another one.")
        return {name: _with_copies(part, named[name], sources, self._columns()) for name, part in data.items()}

    def named(self, dataset: Dataset) -> np.ndarray:
        """Which rows the ledger names by an id or by their content, bool of shape (rows,)."""
        mask = np.zeros(len(dataset), bool)
        request = forgotten_before(self.ledger, self.key)
        there = {new: old for old, new in self.renamed.items()}
        if unknown := sorted(set(there) - set(dataset.column_names)):
            raise InputError(f"There is no column {listed(unknown)} to take the place of another one; correct it.")
        dataset = dataset.rename_columns(there) if there else dataset
        for part in request.parts if request is not None else ():
            assert isinstance(part, Digested)
            missing = [name for name in part.names if name not in dataset.column_names]
            if missing and self.skip_missing:
                continue
            if missing:
                raise InputError(
                    f"The ledger names records by {listed(part.names)}, and the data has no {listed(missing)}; say "
                    "what it is called now (--rename OLD=NEW), or pass over these records (--skip_missing)."
                )
            matcher: GuardMatcher | None = None
            for table, start in read_tables(dataset, part.names):
                kinds = [table.schema.field(name).type for name in part.names]
                matcher = matcher or GuardMatcher(part, kinds, dataset.features)
                found = matcher.mask(table, start)
                matcher.count(table, found, start)
                # What the type of then would have made one of the ids may be one.
                mask[start : start + table.num_rows] |= found | matcher.alike[-1]
            if matcher is not None:
                matcher.require_sure()
        return mask

    def _columns(self) -> set[str]:
        """The columns of ids."""
        ids = {part.columns[0] for run in self.ledger.runs for part in run.forgotten if not part.whole_rows}
        return {self.renamed.get(name, name) for name in ids}


class GuardMatcher(DigestMatcher):
    """Finds rows by digests, also where an id is written in another form."""

    def __init__(self, wanted: Digested, types: list[pa.DataType], features: Features):
        super().__init__(wanted, types, features)
        # By column, whether it holds nothing but whole numbers that all types of numbers tell apart.
        self.exact = dict.fromkeys(wanted.names, True)

    def count(self, table: pa.Table, mask: np.ndarray, start: int) -> None:
        super().count(table, mask, start)
        for name, kind in zip(self.wanted.names, self.kinds, strict=True):
            texts = texts_of_values(table.column(name), self.features.get(name)) if _may_be_whole(kind) else None
            self.exact[name] &= texts is not None and bool(
                pc.all(pc.match_substring_regex(texts, EXACT), min_count=0).as_py()
            )

    def require_sure(self) -> None:
        """Raise InputError where a forgotten record may be there in a form that it cannot have been recognised in."""
        for part in self.wanted.parts:
            found = sum(bool(self.hits[self.positions[digest]]) for digest in part.digests)
            for name, then, now in zip(self.wanted.names, plain_kinds(part.types or []), self.kinds, strict=False):
                if found < len(part.digests) and not _same_texts(part, then, now, exact=self.exact[name]):
                    raise InputError(
                        f"The column {listed([name])} held {then} when {len(part.digests):,} records were forgotten, "
                        f"and holds {now} now. {found:,} of them were recognised, and others may be there in another "
                        "form; give the column the type that it had."
                    )

    def known(self, texts: Sequence[str]) -> dict[str, list[str]]:
        if self.wanted.whole_rows:
            return super().known(texts)
        wanted = {bytes.fromhex(digest): digest for digest in self.wanted.digests}
        held = {kind for part in self.wanted.parts for kind in part.types or []}
        padded = "string" in held and is_number(self.kinds[0])
        found: dict[str, list[str]] = {}
        start = value_text(self.wanted.names[0], "")
        for text in texts:
            forms = [start + form for form in forms_of(text[len(start) :], padded)]
            for form in dict.fromkeys([*self._forms(text), *forms]) if self.wanted.old else forms:
                digest = hmac.digest(self.wanted.key, form.encode(), "sha256")
                if digest in wanted:
                    found.setdefault(text, []).append(wanted[digest])
        return found


def forms_of(value: str, padded: bool = False) -> list[str]:
    """The forms in which another type, or another hand, may have written an id; ``padded``: with zeros before it."""
    forms = [value]
    if PLAIN.fullmatch(value):
        return forms + ([value.zfill(size) for size in range(len(value) + 1, LONGEST_PADDED + 1)] if padded else [])
    bare = value.strip() if value.isascii() else unicodedata.normalize("NFKC", value).strip()
    forms += [bare, bare.lower(), bare.upper(), bare.capitalize()]
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


def _with_copies(
    dataset: Dataset, named: np.ndarray, sources: list[tuple[Dataset, np.ndarray]], ids: set[str]
) -> Returned:
    """Look for copies and near copies of the named rows of all sources."""
    nothing = np.zeros_like(named)
    try:
        columns = text_columns(dataset, ids)
    except InputError:
        # Numbers alone have no copies that tell of somebody.
        return Returned(named, nothing, nothing)
    texts = [
        chunk
        for part, mask in sources
        if mask.any() and set(columns) <= set(part.column_names)
        for chunk in texts_of(part, columns, mask).chunks
    ]
    keys = pa.chunked_array([pa.array([], pa.large_string()), *texts]).unique().drop_null()
    if not len(keys):
        return Returned(named, nothing, nothing)
    copies = nothing.copy()
    for table, start in read_tables(dataset, columns):
        copies[start : start + table.num_rows] = np.asarray(pc.is_in(normalised_text(table, columns), value_set=keys))
    copies &= ~named
    near = nothing.copy()
    _, found = find_near_copies(dataset, columns, keys, ~(named | copies))
    for part in found:
        near[part["row"].to_numpy()] = True
    return Returned(named, copies, near)
