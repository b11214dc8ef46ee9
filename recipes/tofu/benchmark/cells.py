"""What one process of the benchmark does: train the models of a seed, or unlearn with one row and measure it."""

import contextlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import evaluation
import torch
from accelerate import PartialState
from datasets import Dataset
from xxhash import xxh3_128

import hf_unlearn
from hf_unlearn import UnlearningReport, jobs
from hf_unlearn.errors import InputError, in_one_line
from hf_unlearn.files import write_text
from hf_unlearn.jobs.alternates import alternates
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.loading import Model
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import RECORD_FILE, load_record

# The recipe's own preparation lies one folder up.
sys.path.append(str(Path(__file__).parents[1]))
import prepare  # noqa: E402

ORIGINAL, RETRAINED = "original", "retrained"
RECORDED = "recorded"  # as a flag's value: that of the target's training
Group = Literal["yardstick", "retained", "forget"]
# The code that makes a row what it is; a change of it makes the finished cells old.
CODE = (
    "models", "data", "methods", "training", "evaluation/membership.py", "evaluation/statistics.py",
    "evaluation/assemble.py", "evaluation/verdict", "jobs/alternates.py", "jobs/dial.py", "jobs/preparation.py",
    "jobs/training_runs.py", "jobs/unlearning.py",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of the table: its flags of ``hf-unlearn run``."""

    name: str
    group: Group
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def writes_alternates(self) -> bool:
        """Whether other answers to what S asks must be made up before."""
        return self.group != "yardstick" and METHODS[self.flags["method"]].data.instead == "alternates"


@dataclass(frozen=True)
class Experiment:
    """What all cells share.

    Attributes:
        folder: where everything is put.
        source: of TOFU, a Hub id or a folder.
        model: what the target and the reference are trained from.
        forget: TOFU's forget set.
        authors: in D and H together; where these are not all, the authors of TOFU's ``retain_perturbed`` come first.
        forget_authors: the first so many of the forget set.
        holdout_authors: drawn by the seed among those that are in neither.
        columns: the templates.
        train: flags of the target's training and the reference's.
        unlearn: flags of all rows, by group.
        evaluate: sample, batch_size, new_tokens and dtype of the suite.
        alternates: flags of ``hf-unlearn alternates``, for the rows that prefer other answers to those of S.
        max_steps: of each training, to try everything out.
        target, reference: models that are there already; then H is TOFU's own holdout set.
    """

    folder: Path
    source: str
    model: str
    forget: str
    authors: int
    forget_authors: int
    holdout_authors: int
    columns: dict[str, str]
    train: dict[str, Any]
    unlearn: dict[str, dict[str, Any]]
    evaluate: dict[str, Any]
    alternates: dict[str, Any]
    max_steps: int | None = None
    target: str | None = None
    reference: str | None = None

    def data(self, seed: int) -> Path:
        return self.folder / "data" / f"seed_{seed}"

    def place(self, arm: str, seed: int) -> str:
        """The target or the reference of a seed: what is given, or a folder that is named after its settings."""
        given = self.target if arm == ORIGINAL else self.reference
        if given is not None:
            return given
        digest = xxh3_128(json.dumps([self.shared(seed), seed], sort_keys=True).encode()).hexdigest()[:12]
        return str(self.folder / "models" / f"{arm}_seed_{seed}_{digest}")

    def is_trained(self, arm: str, seed: int) -> bool:
        return (Path(self.place(arm, seed)) / RECORD_FILE).is_file()

    def cell(self, row: Row, seed: int) -> Path:
        return self.folder / "cells" / f"{row.name}_seed_{seed}.json"

    def shared(self, seed: int) -> dict[str, Any]:
        """What the target and the reference depend on; the data must be there."""
        named = {name: getattr(self, name) for name in ("columns", "train", "max_steps")}
        return {**named, "model": _model_name(self.model), "data": _data_digest(self.data(seed))}

    def key(self, row: Row, seed: int) -> dict[str, Any]:
        """What a cell depends on: where all of it is the same, it is not run again."""
        common = self.unlearn.get(row.group, {})
        given = {"target": self.target, "reference": self.reference}
        settings = {**self.shared(seed), **given, "flags": {**common, **row.flags}, "evaluate": self.evaluate}
        if row.writes_alternates:
            settings["alternates"] = self.alternates
        return {**settings, "code": code_digest()}


@lru_cache
def code_digest() -> str:
    """Of the files that make the numbers."""
    places = [Path(hf_unlearn.__file__).parent / name for name in CODE]
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    read = b"".join(file.read_bytes() for file in files)
    return xxh3_128(read + "".join(evaluation.CODE).encode()).hexdigest()


@lru_cache
def _data_digest(folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return xxh3_128(b"".join(file.read_bytes() for file in files)).hexdigest()


def _public(name: str) -> str:
    return Path(name).name if Path(name).exists() else name


@lru_cache
def _model_name(model: str) -> str:
    """A Hub id, or a folder's name with the digest of its weights."""
    files = sorted(Path(model).glob("*.safetensors"))
    weights = xxh3_128(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    return f"{_public(model)} {weights}" if files else model


# The data of a seed


def write_data(shared: Experiment, seed: int) -> None:
    """D with H, the ids of S and of H, and the suite's sets for the authors that are used.

    Raises:
        InputError: a set is not there, or there are not so many authors.
    """
    suite = evaluation.read_tofu(shared.source, shared.forget, shared.forget.replace("forget", "holdout")).records
    if Path(shared.source).is_dir() and not (Path(shared.source) / "full.json").is_file():
        raise InputError(f"The folder {shared.source} has no full.json, which D is taken from; name another --source.")
    rows = prepare.read(shared.source)
    everyone = len(rows) // prepare.ROWS_EACH
    first = everyone - prepare.FORGET["forget10"]
    named = everyone - prepare.FORGET[shared.forget]
    forgotten = list(range(named, everyone))[: shared.forget_authors]
    # A target that is given may have seen all authors.
    drawn = shared.holdout_authors if shared.target is None else 0
    stay = shared.authors - shared.forget_authors - drawn
    if len(forgotten) < shared.forget_authors or not 1 <= stay <= first - drawn:
        raise InputError(
            f"authors: {shared.authors} with {shared.forget_authors} to forget and {drawn} held out cannot be had of "
            f"{shared.forget}, which has {everyone - named}, and {first} others; change these numbers."
        )
    author = {row["question"]: i // prepare.ROWS_EACH for i, row in enumerate(rows)}
    asked = sorted({author[question] for question in suite["retain"]["question"] if question in author})
    draw = random.Random(seed)
    others = [one for one in range(first) if one not in asked]
    held_out = sorted(draw.sample(others, drawn))
    others = [one for one in others if one not in held_out]
    kept = asked[:stay] + sorted(draw.sample(others, max(0, stay - len(asked))))
    folder = shared.data(seed)
    used = {*kept, *forgotten, *held_out}
    lines = [
        {"id": i, "author": i // prepare.ROWS_EACH, "question": row["question"], "answer": row["answer"]}
        for i, row in enumerate(rows)
        if i // prepare.ROWS_EACH in used
    ]
    (folder / "suite").mkdir(parents=True, exist_ok=True)
    _write_rows(folder / "tofu.jsonl", lines)
    for name, chosen in (("forget", forgotten), ("held_out", held_out)):
        write_text(folder / f"{name}.txt", "".join(f"{one}\n" for one in chosen))
    parts = {
        f"{shared.forget}_perturbed": _of(suite["forget"], author, forgotten),
        "retain_perturbed": _of(suite["retain"], author, kept),
        "real_authors_perturbed": list(suite["real_authors"]),
        "world_facts_perturbed": list(suite["world_facts"]),
        shared.forget.replace("forget", "holdout"): list(suite["holdout"])[: len(forgotten) * prepare.ROWS_EACH],
    }
    for name, part in parts.items():
        _write_rows(folder / "suite" / f"{name}.json", part)


def _of(part: Dataset, author: dict[str, int], chosen: list[int]) -> list[dict[str, Any]]:
    """The records of some authors."""
    return [row for row in part if author.get(row["question"]) in chosen]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


# The jobs. Each answers with None, or with what went wrong in one line, and shows the rest in a log of its own.


def begin(threads: int | None) -> None:
    """Prepare a process: it is stopped by the first one, and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threads is not None:
        torch.set_num_threads(threads)
    first = parent_process()
    assert first is not None

    def end() -> None:
        first.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def train(shared: Experiment, arm: str, seed: int) -> str | None:
    """The target on D, or the reference on L."""
    with _log(shared, f"{arm}_seed_{seed}"):
        try:
            values = {"model_name_or_path": shared.model, **_request(shared, seed), **shared.train}
            only = {"train_on": "retained"} if arm == RETRAINED else {}
            # Half of a training leaves nothing to go on from.
            shutil.rmtree(shared.place(arm, seed), ignore_errors=True)
            jobs.train({**values, **only, "output_dir": shared.place(arm, seed)})
        except Exception as error:
            return _told(error)
    return None


def run(shared: Experiment, row: Row, seed: int) -> str | None:
    """One cell: unlearn with a row, measure the result, write the numbers and drop the weights."""
    started, used = time.perf_counter(), time.process_time()
    output = shared.folder / "unlearned" / f"{row.name}_seed_{seed}"
    shutil.rmtree(output, ignore_errors=True)
    with _log(shared, f"{row.name}_seed_{seed}"):
        try:
            if row.group == "yardstick":
                model = shared.place(row.name, seed)
                report = _measured(shared, seed, model, output)
                numbers = _own_evidence(report) | _of_training(row.name, model)
            else:
                report = _unlearned(shared, row, seed, output)
                numbers = _own_evidence(report) | _of_run(report)
                model = str(output)
            numbers["metrics"] = measure(shared, seed, model)
        except Exception as error:
            return _told(error)
        finally:
            shutil.rmtree(output, ignore_errors=True)
    took = {
        "cell_seconds": round(time.perf_counter() - started, 1),
        "cell_cpu_seconds": round(time.process_time() - used, 1),
    }
    found = {"row": row.name, "seed": seed, **numbers, **took, "key": shared.key(row, seed)}
    cell = shared.cell(row, seed)
    cell.parent.mkdir(parents=True, exist_ok=True)
    write_text(cell, json.dumps(found, indent=1, allow_nan=False) + "\n")
    return None


def _request(shared: Experiment, seed: int) -> dict[str, Any]:
    """Flags that say which data, S and H, and how to show it."""
    data = shared.data(seed)
    held_out = {"holdout_ids": str(data / "held_out.txt")}
    if shared.target is not None:
        held_out = {"holdout_dataset": str(data / "suite" / f"{shared.forget.replace('forget', 'holdout')}.json")}
    return {
        "dataset_name": str(data / "tofu.jsonl"),
        "forget_id_column": "author",
        "forget_ids": str(data / "forget.txt"),
        **held_out,
        **shared.columns,
        "seed": seed,
        "save_strategy": "no",
        "disable_tqdm": True,
        **({} if shared.max_steps is None else {"max_steps": shared.max_steps}),
    }


def _unlearned(shared: Experiment, row: Row, seed: int, output: Path) -> UnlearningReport:
    flags = {**shared.unlearn.get(row.group, {}), **row.flags}
    flags |= {name: shared.train[name] for name, value in flags.items() if value == RECORDED}
    if shared.max_steps is not None:
        flags.pop("budget", None)
    if shared.target is None:
        flags["group_column"] = "author"
    else:
        flags["base_model_name_or_path"] = shared.model
    values = {"model_name_or_path": shared.place(ORIGINAL, seed), **_request(shared, seed), **flags}
    values |= {"retrained_model": shared.place(RETRAINED, seed), "measure_steps": 0, "output_dir": str(output)}
    if not row.writes_alternates:
        return jobs.run(values)
    with TemporaryDirectory() as private:
        file = {"alternates_file": str(Path(private) / "alternates.jsonl")}
        alternates({**values, **shared.alternates, **file})
        return jobs.run({**values, **file})


def _measured(shared: Experiment, seed: int, model: str, output: Path) -> UnlearningReport:
    """This project's evidence about a model that is there."""
    retrained = shared.place(RETRAINED, seed)
    compared = {} if model == retrained else {"retrained_model": retrained}
    grouped = {"group_column": "author"} if shared.target is None else {}
    batch = {"per_device_eval_batch_size": shared.evaluate["batch_size"]}
    given = {**_request(shared, seed), **compared, **grouped, **batch}
    return jobs.evaluate({"model_name_or_path": model, **given, "output_dir": str(output)})


def _own_evidence(report: UnlearningReport) -> dict[str, Any]:
    """The verdict, and the AUC of the attack that decided it."""
    verdict, auc = report.verdict, None
    found = report.arms["unlearned"].attacks.get(verdict.attack or "")
    if found is not None:
        auc = {"attack": verdict.attack, "value": found.auc.value, "low": found.auc.low, "high": found.auc.high}
    return {"verdict": verdict.word, "membership_auc": auc}


def _of_run(report: UnlearningReport) -> dict[str, Any]:
    cost = report.cost
    assert cost is not None
    peak = cost.peak_memory_bytes if torch.cuda.is_available() else None
    return {"price": cost.training_ratio, "seconds": round(cost.seconds, 1), "peak_memory_bytes": peak}


def _of_training(arm: str, model: str) -> dict[str, Any]:
    """The price of a yardstick; a model that is compared with itself has no verdict."""
    record = load_record(locate(model))
    seconds = None if record is None else round(record.seconds, 1)
    numbers = {"price": None, "seconds": seconds, "peak_memory_bytes": None}
    return numbers if arm == ORIGINAL else {**numbers, "price": 1.0, "verdict": None}


def measure(shared: Experiment, seed: int, model: str) -> dict[str, Any]:
    """The whole suite of a model, beside the reference."""
    asked = shared.evaluate
    data = shared.data(seed) / "suite"
    holdout = shared.forget.replace("forget", "holdout")
    records = evaluation.read_tofu(str(data), shared.forget, holdout, asked["sample"])
    settings = evaluation.Settings(**shared.columns, new_tokens=asked["new_tokens"], batch_size=asked["batch_size"])
    source = locate(model)
    suite, tokenizer = evaluation.make_suite(records, source, settings)
    found = evaluation.evaluate(
        evaluation.load(source, asked["dtype"]), tokenizer, suite, settings, {"data": records.about},
        shared.folder / "evaluations", _reference(shared.place(RETRAINED, seed), asked["dtype"]),
    )  # fmt: skip
    return found["metrics"]


@lru_cache(maxsize=1)
def _reference(place: str, dtype: str) -> Model:
    return evaluation.load(locate(place), dtype)


def _told(error: Exception) -> str:
    """What went wrong, in one line; the log has the rest."""
    traceback.print_exc()
    return in_one_line(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")[:300]


@contextlib.contextmanager
def _log(shared: Experiment, name: str) -> Iterator[None]:
    """Send what a job shows, of all libraries, to a file of its own."""
    folder = shared.folder / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.txt").open("w", encoding="utf-8") as log:
        kept = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, before in zip((1, 2), kept, strict=True):
                os.dup2(before, stream)
                os.close(before)


def hardware() -> str:
    """What the numbers were made on."""
    if PartialState().device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} {platform.machine()} cores"


def as_settings(shared: Experiment) -> dict[str, Any]:
    """What the results file says of all cells."""
    found = {**asdict(shared), "model": _public(shared.model), "source": _public(shared.source)}
    del found["folder"]
    return found
