"""``hf-unlearn guard``: whether new data holds what was forgotten before."""

from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from ...data.loading import load_data
from ...data.request.selection import take_rows
from ...errors import InputError
from ...models.location import locate
from ...publishing.guard import Guard, Returned
from ...publishing.ledger import LEDGER_FILE
from ...publishing.ledger_of_model import ledger_key, ledger_of
from ..console import plain, table, terminal


def guard(
    dataset: str,
    *,
    ledger: str,
    dataset_config: str | None = None,
    digest_key_file: str | None = None,
    forgotten: str | None = None,
    rename: list[str] | None = None,
    skip_missing: bool = False,
    drop_to: Path | None = None,
    processes: int = 1,
) -> int:
    """Look through new data, show what was found in each split, and write the data without it where that is asked for.

    Args:
        dataset: the new data: a Hub id, a folder or a file.
        ledger: the model whose ledger says what was forgotten.
        dataset_config: the configuration of the data.
        digest_key_file: the key that the ledger was written with.
        forgotten: the data set that the records were forgotten from, to look for their copies, too.
        rename: the columns that have another name now, each as OLD=NEW.
        skip_missing: pass over what cannot be recognised because a column is missing.
        drop_to: a new folder for the data without what was found.
        processes: how many look for ids; 0: one a core, where there are rows enough. A script that names more than
            one needs ``if __name__ == "__main__":`` around the call.

    Returns:
        1 where something was found, else 0.

    Raises:
        InputError: something cannot be read, or what was forgotten could pass unrecognised.
    """
    renamed = dict(_pair(one) for one in rename or [])
    if processes < 0:
        raise InputError(f"--processes {processes} is below 0; name how many, or 0 for one a core.")
    if drop_to is not None and drop_to.exists():
        raise InputError(f"--drop_to {drop_to} exists already; name a new folder.")
    found_ledger = ledger_of(locate(ledger, None))
    if found_ledger is None:
        raise InputError(f"There is no {LEDGER_FILE} beside {ledger!r}; `hf-unlearn run` begins one.")
    key = ledger_key(digest_key_file, found_ledger)
    data, _ = load_data(dataset, config=dataset_config)
    assert isinstance(data, DatasetDict)
    original = None
    if forgotten is not None:
        original = next(iter(load_data(forgotten)[0].values()))
        assert isinstance(original, Dataset)
    returned = Guard(found_ledger, key, renamed, skip_missing).find(dict(data), original, processes)
    _show(dataset, returned, whole=original is not None)
    if drop_to is not None:
        _write(data, returned, drop_to)
    return int(any(found.rows.any() for found in returned.values()))


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals or not old or not new:
        raise InputError("--rename must be written OLD=NEW, the column's name in the ledger and in the data.")
    return old, new


def _show(name: str, returned: dict[str, Returned], *, whole: bool) -> None:
    out = terminal()
    columns = {"split": "word", "rows": "number", "named by the ledger": "number", "copies": "number"}
    shown = table(f"Forgotten before, in {plain(name)}", columns | {"near copies": "number"})
    for split, found in returned.items():
        counts = [len(found.named), *(np.count_nonzero(m) for m in (found.named, found.copies, found.near_copies))]
        shown.add_row(plain(split), *(f"{count:,}" for count in counts))
    out.print(shown)
    if not whole:
        out.print(
            "A ledger holds no texts, so copies were looked for of the records that this data has itself. With "
            "--forgotten and the data set they were forgotten from, they are looked for of all."
        )


def _write(data: DatasetDict, returned: dict[str, Returned], folder: Path) -> None:
    """Write each split without what was found, as Parquet files that ``load_dataset`` reads."""
    kept = {name: take_rows(part, np.flatnonzero(~returned[name].rows)) for name, part in data.items()}
    if not any(map(len, kept.values())):
        raise InputError("Every row was forgotten before, so there is nothing to write.")
    for name, part in kept.items():
        if len(part):
            file = folder / "data" / f"{name}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            part.to_parquet(str(file))
    rows = sum(map(len, kept.values()))
    terminal().print(f"{rows:,} of {sum(map(len, data.values())):,} rows are in {plain(folder)}.")
