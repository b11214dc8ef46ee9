"""How long a run takes before its training, and what reads a ledger, where something is large.

python recipes/benchmarks/load.py                   all of it
python recipes/benchmarks/load.py requests ledger   50 requests in one folder; a ledger of 10,000 lines
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from datasets import disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_unlearn import UnlearningReport, UnlearningTrainer, jobs
from hf_unlearn.data.request.digests import load_digest_key
from hf_unlearn.evaluation.report import REPORT_FILE, LedgerNote
from hf_unlearn.jobs.ledger import verify
from hf_unlearn.publishing import guard as guarding
from hf_unlearn.publishing.ledger import Ledger, digest_of, file_digest, line_of, load_ledger

SPECIAL = ["[PAD]", "[UNK]", "[EOS]"]
HELD_OUT = 200


def make_base(folder: Path, words: int, writes: bool) -> Path:
    """A tiny untrained model, of one token a word: a language model that writes, or an encoder."""
    known = [*SPECIAL, *(f"w{number}" for number in range(words - len(SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[EOS]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": words, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    if writes:
        LlamaForCausalLM(LlamaConfig(**size, eos_token_id=2, bos_token_id=None)).save_pretrained(folder)
    else:
        BertModel(BertConfig(**size)).save_pretrained(folder)
    return folder


def make_rows(path: Path, rows: int, words: int, classes: int | None) -> None:
    """Rows of ten words by customers of ten rows each; with classes, or as prompt and completion."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(rows):
            text = " ".join(f"w{draw.randrange(words - len(SPECIAL))}" for _ in range(10))
            row = {"customer": f"c-{number // 10:06d}"}
            row |= {"prompt": text, "completion": f" w{number % 100}"} if classes is None else {"text": text}
            row |= {} if classes is None else {"label": f"class {number % classes:05d}"}
            file.write(json.dumps(row) + "\n")


def now() -> np.ndarray:
    """Seconds on the clock, and of the processor with the processes that have ended, shape (2,)."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), time.process_time() + ended.ru_utime + ended.ru_stime])


class TrainingBegins(Exception):
    """Ends a run of which only what comes before is measured."""


def settings(folder: Path, rows: int, words: int, classes: int | None, requests: int) -> dict[str, Any]:
    """Make data and requests, and train a model for a step; the settings of a run that lets it forget them."""
    base = make_base(folder / "base", words, classes is None)
    make_rows(folder / "rows.jsonl", rows, words, classes)
    customers = [f"c-{number:06d}" for number in range(rows // 10)]
    (folder / "held_out.txt").write_text("\n".join(customers[-HELD_OUT // 10 :]))
    (folder / "requests").mkdir()
    for number in range(requests):
        (folder / "requests" / f"{number:03d}.txt").write_text("\n".join(customers[20 * number : 20 * number + 20]))
    common = {
        "dataset_name": str(folder / "rows.jsonl"), "holdout_ids": str(folder / "held_out.txt"), "max_steps": 1,
        "forget_id_column": "customer", "digest_key_file": str(folder / "key"), "report_to": "none",
        "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    kind = {"task": "text-classification"} if classes is not None else {}
    original = str(folder / "original")
    jobs.train({**common, **kind, "model_name_or_path": str(base), "output_dir": original})
    forget = {"forget_requests": str(folder / "requests"), "method": "fine_tune"}
    return {**common, **forget, "model_name_or_path": original, "output_dir": str(folder / "out")}


def before_training(folder: Path, *sizes: Any) -> np.ndarray:
    """The seconds of a run before its training; ``sizes`` are those of :func:`settings`."""
    run = settings(folder, *sizes)
    started = now()
    with patch.object(UnlearningTrainer, "train", side_effect=TrainingBegins), suppress(TrainingBegins):
        jobs.run(run)
    return now() - started


def checked(folder: Path, lines: int) -> np.ndarray:
    """Put lines before that of a finished run, and check the ledger; the seconds."""
    jobs.run(settings(folder, 1000, 500, 3, 1))
    out = folder / "out"
    ledger, key = load_ledger(out), load_digest_key(folder / "key")
    assert ledger is not None
    last = ledger.runs[-1]
    events, previous = [], None
    for number in range(lines - 1):
        events.append(replace(last, rows=number, previous=previous).sealed(key))
        previous = digest_of(line_of(events[-1]))
    last = replace(last, previous=previous)
    report = UnlearningReport.load(out / REPORT_FILE)
    replace(report, ledger=LedgerNote(lines - 1, last.statement)).save(out / REPORT_FILE)
    last = replace(last, report=file_digest(out / REPORT_FILE))
    Ledger(tuple(events)).with_event(last, key).save(out)
    started = now()
    verify(str(out), None, str(folder / "key"), None, None)
    return now() - started


def guarded(folder: Path, files: int, rows: int, *, near: bool) -> np.ndarray:
    """Look whether new rows bring back what a run forgot, by id and as copies; the seconds of the command.

    Without ``near`` nobody looks for near copies, and the seconds are those of the job.
    """
    jobs.run(settings(folder, 1000, 500, 3, 1))
    (folder / "new").mkdir()
    for number in range(files):
        places = pa.array(np.arange(number * rows, (number + 1) * rows)).cast(pa.string())
        table = {
            "customer": pc.binary_join_element_wise("x", places, "-"),
            "text": pc.binary_join_element_wise("a message that nobody asked to forget, number", places, " "),
            "label": pa.array(np.full(rows, "class 00000")),
        }
        pq.write_table(pa.table(table), folder / "new" / f"{number}.parquet")
    files_of = {"--ledger": "out", "--digest_key_file": "key", "--forgotten": "rows.jsonl"}
    flags = [word for flag, name in files_of.items() for word in (flag, str(folder / name))]
    started = now()
    if near:
        subprocess.run([sys.executable, "-m", "hf_unlearn.cli", "guard", str(folder / "new"), *flags], check=True)
    else:
        beside = {"ledger": "out", "digest_key_file": "key", "forgotten": "rows.jsonl"}
        with patch.object(guarding, "find_near_copies", return_value=(None, [])):
            given = {name: str(folder / place) for name, place in beside.items()}
            jobs.guard(str(folder / "new"), **given, processes=0)
    return now() - started


CASES: dict[str, tuple[str, Callable[[Path], np.ndarray]]] = {
    "ledger": ("a ledger of 10,000 lines, `verify` with the key", lambda at: checked(at, 10_000)),
    "guard": ("10,000,000 new rows, by id and for copies", lambda at: guarded(at, 10, 1_000_000, near=False)),
    "near": ("10,000,000 new rows, the whole of `guard`", lambda at: guarded(at, 10, 1_000_000, near=True)),
    "requests": ("50 requests in one folder, 100,000 rows", lambda at: before_training(at, 100_000, 500, 3, 50)),
    "classes": ("10,000 classes, 100,000 rows", lambda at: before_training(at, 100_000, 500, 10_000, 1)),
    "vocabulary": ("a vocabulary of 200,000, 20,000 rows", lambda at: before_training(at, 20_000, 200_000, None, 1)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"which of {', '.join(CASES)}; all by default")
    args = parser.parse_args()
    disable_progress_bars()
    found = []
    for name in args.cases or CASES:
        told, measure = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            clock, processor = measure(Path(folder))
            found.append(f"{told}: {clock:.1f} s, {processor:.1f} s of CPU time")
    print("\n".join(found))
    own, other = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak memory {own / 2**20:.2f} GiB, and of the largest other process {other / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
