"""Columns of CSV files that have to be read as text, because two of their values would become the same number."""

import math
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
PLAIN = re.compile(r"-?(0|[1-9][0-9]{0,14})")
DIGITS = re.compile(r"[+-]?[0-9]+")


def text_columns(files: Iterable[str], options: dict[str, Any]) -> list[str]:
    """Name the columns that hold whole numbers as only text can tell them apart.

    These have a leading zero or sign, more than 15 digits, one number written in two ways, or text among numbers.

    Args:
        files: paths of CSV files.
        options: of ``pandas.read_csv``, with the number of rows that it reads at a time.

    Returns:
        Their names; none where a file cannot be read, which its reader says.
    """
    columns: dict[str, _Column] = {}
    try:
        for file in files:
            with pd.read_csv(file, dtype=str, **options) as parts:
                for part in parts:
                    for name in part.columns:
                        columns.setdefault(name, _Column()).add(part[name].dropna().tolist())
    except (ValueError, OSError):
        return []
    return [name for name, column in columns.items() if column.is_text]


class _Column:
    """What the parts of a column hold; each part is read as numbers or as text by itself."""

    def __init__(self) -> None:
        self.numbers = self.texts = self.lossy = self.two_ways = self.fractions = False
        self.written: dict[float, str] = {}

    @property
    def is_text(self) -> bool:
        return self.numbers and (self.texts or self.lossy or (self.two_ways and not self.fractions))

    def add(self, values: list[str]) -> None:
        stripped = [value.strip() for value in values]
        if not all(map(NUMBER.fullmatch, stripped)):
            self.texts = True
        elif stripped:
            self.numbers = True
            for text in set(stripped):
                self._add_number(text)

    def _add_number(self, text: str) -> None:
        if not PLAIN.fullmatch(text) and DIGITS.fullmatch(text):
            self.lossy = True
        value = float(text)
        if not value.is_integer() or math.isinf(value):
            # Measurements, not ids: one of them may be written in two ways.
            self.fractions = True
        elif self.written.setdefault(value, text) != text:
            self.two_ways = True
