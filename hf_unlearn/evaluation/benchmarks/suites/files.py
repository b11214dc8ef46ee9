"""The sets of a suite, from the Hub or from local files in the layout of its authors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ....data.loading import load_data, reading
from ....errors import InputError
from ....models.training_record import DataSource

Row = dict[str, Any]
ENDINGS = (".json", ".jsonl", ".parquet")


@dataclass
class SuiteFiles:
    """Where the sets of a suite lie.

    Attributes:
        name: a Hub id, or a folder.
        revision: the branch, tag or commit on the Hub.
        records: of each set at most, drawn at random; None for all.
        seed: of the draw.
        source: where the sets came from, once one was read.
    """

    name: str
    revision: str | None = None
    records: int | None = None
    seed: int = 0
    source: DataSource | None = None

    @property
    def local(self) -> Path | None:
        """The folder; None for a Hub id."""
        folder = Path(self.name)
        if folder.is_file():
            raise InputError(f"--data {self.name} is a file; name the folder that the suite's files lie in.")
        return folder if folder.is_dir() else None

    def rows(
        self, config: str, split: str, columns: Sequence[str], *, named: Sequence[str] = (), whole: bool = False
    ) -> list[Row]:
        """The records of one set.

        Args:
            config, split: on the Hub.
            columns: those that every record must have; a set of plain texts has the column ``text``.
            named: what the file may be called in a folder, without its ending, the usual name first; by default
                ``config/split``. It may lie one folder deeper, as in a folder for each person.
            whole: keep all records, whatever ``records`` says.

        Raises:
            InputError: the set is not there, has no record, or lacks a column.
        """
        names = named or (f"{config}/{split}",)
        folder = self.local
        if folder is not None:
            rows = self._of_folder(folder, names)
            self.source = DataSource(folder.resolve().name)
        else:
            data, source = load_data(self.name, config=config, revision=self.revision)
            if split not in data:
                raise InputError(f"{self.name} has no split {split!r} of {config!r}; it has {', '.join(data)}.")
            rows = [dict(row) for row in data[split]]
            self.source = DataSource(source.name, revision=source.revision)
        if not rows:
            raise InputError(f"{names[0]} of {self.name} has no record; give the files of the suite's authors.")
        for column in columns:
            if not all(column in row for row in rows):
                raise InputError(f"{names[0]} of {self.name} needs the column {column!r} in every record.")
        return rows if whole else self.drawn(rows)

    def drawn(self, rows: list[Row]) -> list[Row]:
        """At most ``records`` of these records, in their order."""
        if self.records is None or self.records >= len(rows):
            return rows
        drawn = np.sort(np.random.default_rng(self.seed).choice(len(rows), self.records, replace=False))
        return [rows[i] for i in drawn]

    def _of_folder(self, folder: Path, names: Sequence[str]) -> list[Row]:
        for name in names:
            for start in (name, f"*/{name}"):
                found = [file for ending in ENDINGS for file in sorted(folder.glob(f"{start}{ending}"))]
                found = found or sorted(folder.glob(f"{start}-*.parquet"))
                if found:
                    return [row for file in found for row in _read(file)]
        raise InputError(f"{self.name} lacks {names[0]} ({', '.join(ENDINGS)}); name a folder with the suite's files.")


def _read(file: Path) -> list[Row]:
    """The records of a file; a plain text becomes a record with the column ``text``."""
    with reading(str(file)):
        if file.suffix == ".parquet":
            rows = pq.read_table(file).to_pylist()
        elif file.suffix == ".jsonl":
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            rows = json.loads(file.read_text(encoding="utf-8"))
    rows = rows if isinstance(rows, list) else [rows]
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file} must hold a list of records or of texts.")
    return rows
