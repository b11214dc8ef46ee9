"""Files of text before they are read: their encoding, and whether quotation marks enclose their fields."""

import codecs
import csv
import re
import sys
from pathlib import Path

import numpy as np

from ..errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
CHUNK = 2**20
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
DEEPEST = 1000  # Some thousand levels crash the readers.


def check_utf8(path: Path) -> None:
    """Raise InputError for a file that is not UTF-8; some readers hand on its bytes as they are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8; save it as UTF-8.") from None


def check_depth(path: Path) -> None:
    """Raise InputError for a JSON file that is nested so deep that a reader would crash."""
    depth = 0
    with path.open("rb") as file:
        for line in file:
            opened, closed = (sum(map(line.count, marks)) for marks in ((b"{", b"["), (b"}", b"]")))
            if opened == closed and depth + opened <= DEEPEST:
                continue
            steps = np.zeros(256, np.int64)
            steps[list(b"{[")], steps[list(b"}]")] = 1, -1
            depths = depth + np.cumsum(steps[np.frombuffer(STRING.sub(b"", line), np.uint8)])
            if depths.max(initial=0) > DEEPEST:
                raise InputError(f"{path} is nested deeper than {DEEPEST:,} levels; write flatter records.")
            depth = int(depths[-1]) if len(depths) else depth


def quoting(path: Path, delimiter: str, name: object = None) -> int:
    """How to read the quotation marks of a delimited file: as in :mod:`csv`, around fields, or as text.

    A mark that opens a field and is closed nowhere, or lines later, would join records. Where each line has as many
    fields as the first one and marks do not enclose fields, they are text. Raises InputError where both may be meant;
    ``name`` is what it calls the file.
    """
    lines, widths, marks = 0, set(), False
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip("\n"):
                lines += 1
                widths.add(line.count(delimiter))
                marks = marks or '"' in line
    if not marks:
        return csv.QUOTE_MINIMAL
    by_line = len(widths) == 1 and widths != {0}
    rows = _rows(path, delimiter, strict=True)
    if rows is None and by_line:
        return csv.QUOTE_NONE
    if rows is None:
        rows = _rows(path, delimiter, strict=False)
        by_line = True
    if rows != lines and by_line:
        raise InputError(
            f"{name or path} has {lines:,} lines, which are {rows:,} rows if quotation marks enclose fields; which is "
            "meant cannot be told. Save it as .jsonl or .parquet, or double the marks inside of quoted fields."
        )
    return csv.QUOTE_MINIMAL


def _rows(path: Path, delimiter: str, *, strict: bool) -> int | None:
    """The rows with marks around fields; None where some mark is neither around one nor doubled, if ``strict``."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return sum(1 for row in csv.reader(file, delimiter=delimiter, strict=strict) if row)
    except csv.Error:
        return None
    finally:
        csv.field_size_limit(limit)
