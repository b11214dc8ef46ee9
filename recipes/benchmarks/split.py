"""How long a split takes, against the Arrow kernels written by hand, and how much memory a stream needs.

python recipes/benchmarks/split.py                  1,000,000 rows in memory, 10,000 ids
python recipes/benchmarks/split.py --stream         10,000,000 rows streamed from ten parquet files
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset

from hf_unlearn import Records, split_retained

WORDS = np.array(["amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "jade"])
KEY = b"a key of sixteen"


def table(start: int, rows: int) -> pa.Table:
    """Ids and texts of ten words."""
    words = WORDS[np.random.default_rng(start).integers(0, len(WORDS), (rows, 9))]
    texts = [" ".join(row) + f" {i}" for i, row in enumerate(words, start)]
    return pa.table({"id": [f"user-{i:08d}" for i in range(start, start + rows)], "text": texts})


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def in_memory(rows: int, ids: int, pairs: int) -> None:
    dataset = Dataset(table(0, rows))
    drawn = np.random.default_rng(0).choice(rows, ids, replace=False)
    forget = [f"user-{i:08d}" for i in drawn]

    def by_hand() -> tuple[Dataset, Dataset]:
        mask = pc.is_in(dataset.data.column("id"), value_set=pa.array(forget)).to_numpy()
        return dataset.select(np.flatnonzero(~mask)), dataset.select(np.flatnonzero(mask))

    def copied_by_hand() -> tuple[pa.Table, pa.Table]:
        mask = pc.is_in(dataset.data.column("id"), value_set=pa.array(forget))
        return dataset.data.table.filter(pc.invert(mask)), dataset.data.table.filter(mask)

    def ours() -> Any:
        return split_retained(dataset, Records.ids("id", forget), duplicates=None, digest_key=KEY)

    def ours_with_audit() -> Any:
        return split_retained(dataset, Records.ids("id", forget), near_duplicates=None, digest_key=KEY)

    split, (retained, _) = ours(), by_hand()
    assert split.retained["id"][:] == retained["id"][:]
    times: dict[str, list[float]] = {f.__name__: [] for f in (ours, by_hand, copied_by_hand, ours_with_audit)}
    for _ in range(pairs):
        for function in (ours, by_hand, copied_by_hand, ours_with_audit):
            times[function.__name__].append(seconds(function))
    print(f"{rows:,} rows, {ids:,} ids, {pairs} interleaved runs; median seconds (min to max):")
    for name, values in times.items():
        print(f"  {name:16} {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
    for other in ("by_hand", "copied_by_hand"):
        ratios = [a / b for a, b in zip(times["ours"], times[other], strict=True)]
        print(f"  ours / {other}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def streamed(rows: int, ids: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # In files of a million rows, as data sets lie on the Hub.
        size, piece = 1_000_000, 100_000
        for first in range(0, rows, size):
            with pq.ParquetWriter(Path(folder) / f"{first:010d}.parquet", table(0, 1).schema) as writer:
                for start in range(first, min(first + size, rows), piece):
                    writer.write_table(table(start, min(piece, rows - start)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stream = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        drawn = np.random.default_rng(0).choice(rows, ids, replace=False)
        request = Records.ids("id", [f"user-{i:08d}" for i in drawn])
        started = time.perf_counter()
        split = split_retained(stream, request, near_duplicates=None, digest_key=KEY)
        split_seconds = time.perf_counter() - started
        kept = sum(t.num_rows for t in split.retained.with_format("arrow").iter(batch_size=10_000))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert kept == split.audit.retained_rows == rows - ids
    print(f"{rows:,} rows streamed, {ids:,} ids: split with the duplicate audit {split_seconds:.0f} s,")
    print(f"  peak memory {peak / 2**20:.2f} GiB (before: {before / 2**20:.2f} GiB), all retained rows read once.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--ids", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=9)
    args = parser.parse_args()
    if args.stream:
        streamed(args.rows or 10_000_000, args.ids)
    else:
        in_memory(args.rows or 1_000_000, args.ids, args.pairs)


if __name__ == "__main__":
    main()
