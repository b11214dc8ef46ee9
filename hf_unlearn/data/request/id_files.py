"""Files of ids, one a line, as text, CSV or JSON Lines, and folders of such files."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import require_file

SUFFIXES = (".txt", ".csv", ".jsonl")


def request_files(folder: Path) -> tuple[list[Path], int]:
    """The files of ids in a folder, sorted by name, and the number of hidden files and folders in it.

    Raises InputError when there is none, or one of another kind; a link could lead out of the folder.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"Cannot read the folder of requests {folder}: {error.strerror}.") from None
    files = []
    for entry in entries:
        if entry.name.startswith(".") or entry.is_dir(follow_symlinks=False):
            continue
        if not entry.is_file(follow_symlinks=False):
            raise InputError(f"{entry.path} is a link or no regular file; copy the file of ids into the folder.")
        if Path(entry.name).suffix not in SUFFIXES:
            raise InputError(f"{entry.path} is no .txt, .csv or .jsonl file of ids; rewrite it or move it elsewhere.")
        files.append(Path(entry.path))
    if not files:
        raise InputError(f"There is no file of ids in {folder}; write each request as a .txt, .csv or .jsonl file.")
    return files, len(entries) - len(files)


def read_ids(path: Path, column: str) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """The ids of a file with the line each stands on."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is no file of ids; write a .txt (one id per line), .csv or .jsonl file.")
    require_file(path)
    try:
        # newline="" keeps a carriage return inside a quoted CSV field.
        with path.open(encoding="utf-8-sig", newline="" if path.suffix == ".csv" else None) as file:
            reader = {".txt": _read_text, ".csv": _read_csv, ".jsonl": _read_json_lines}[path.suffix]
            found = list(reader(file, path, column))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"Cannot read the ids in {path}: {reason}.") from None
    except csv.Error:
        raise InputError(f"{path} is not a CSV file.") from None
    if not found:
        raise InputError(f"{path} holds no ids; write one id per line.")
    values, lines = zip(*found, strict=True)
    return values, lines


def _read_text(file: Iterable[str], path: Path, column: str) -> Iterable[tuple[Any, int]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield line.rstrip("\n"), number


def _read_csv(file: Iterable[str], path: Path, column: str) -> Iterable[tuple[Any, int]]:
    reader = csv.reader(file)
    place = 0
    for row in reader:
        if reader.line_num == 1 and column in row:
            place = row.index(column)
        elif len(row) > 1 and reader.line_num == 1:
            raise InputError(f"The first line of {path} does not name the column {column!r} among its {len(row)}.")
        elif place < len(row) and row[place].strip():
            yield row[place], reader.line_num
        elif any(cell.strip() for cell in row):
            raise InputError(f"Line {reader.line_num} of {path} has no id in the column {column!r}.")


def _read_json_lines(file: Iterable[str], path: Path, column: str) -> Iterable[tuple[Any, int]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"Line {number} of {path} is not JSON.") from None
        if isinstance(value, dict):
            if column not in value:
                raise InputError(f"Line {number} of {path} has no key {column!r}.")
            value = value[column]
        if value is None or isinstance(value, dict | list):
            raise InputError(f"Line {number} of {path} holds no id: an id is text or a number.")
        yield value, number
