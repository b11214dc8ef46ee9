"""Tiny models that are dealt into shards by customer."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import UnlearningReport, jobs
from hf_unlearn.models.location import locate
from hf_unlearn.sharding.layout import Sharding, load_sharding, number_of, owner_digests

from ..conftest import WORDS, write_rows

Train = Callable[..., Path]
Delete = Callable[..., UnlearningReport]

OWNERS = [f"c-{number:02d}" for number in range(12)]
ROWS_EACH = 3
ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 4
RARE_OWNER = OWNERS[5]
CLASSIFIER = {
    "task": "text-classification",
    "num_train_epochs": 6,
    "learning_rate": 2e-2,
    "per_device_train_batch_size": 8,
}


def question_rows(owners: list[str] = OWNERS) -> list[dict[str, Any]]:
    """Questions of customers, who each have some."""
    draw, found = random.Random(5), []
    for owner in owners:
        for _ in range(ROWS_EACH):
            words = f"{draw.choice(WORDS)} {draw.choice(WORDS)} {len(found)}"
            answer = f" {draw.randint(100, 999)} {draw.choice(WORDS)}."
            found.append({"customer": owner, "prompt": f"The code of {words} is", "completion": answer})
    draw.shuffle(found)
    return found


def without(*owners: str) -> list[dict[str, Any]]:
    return [row for row in question_rows() if row["customer"] not in owners]


def sharding_of(folder: Path) -> Sharding:
    found = load_sharding(locate(str(folder)))
    assert found is not None
    return found


def write_key(path: Path, key: str) -> Path:
    """Write a key that nobody else can read."""
    path.touch(mode=0o600)
    path.write_text(key)
    return path


def adapters(folder: Path) -> dict[str, bytes]:
    """The files that make each adapter and each checkpoint, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "shards").rglob("adapter_*"))
    }  # fmt: skip


def same_files(folder: Path, other: Path) -> None:
    """Raise AssertionError unless two models have the same adapters and say the same of them."""
    assert adapters(folder) == adapters(other)
    assert sharding_of(folder) == sharding_of(other)


def shards_of(owners: list[str] = OWNERS) -> dict[str, int]:
    digests = owner_digests(bytes.fromhex(KEY), "customer", owners)
    return {owner: number_of(digest, 4) for owner, digest in zip(owners, digests, strict=True)}


RARE_SHARD = shards_of()[RARE_OWNER]


def script(*words: str) -> None:
    """Run a program of the tests; its failure is that of the test."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0


def words_of(flags: dict[str, Any]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def killed(folder: Path, moments: str, command: str, flags: dict[str, Any]) -> list[Path]:
    """Kill a command at some moments and start it again, see `killed.py`; the folders where that was done."""
    script("tests/support/killed.py", str(folder), moments, command, *words_of(flags))
    return sorted(path for path in folder.iterdir() if path.name.isdigit())


def deleted_in_a_row(folder: Path, model: Path, owners: list[str], flags: dict[str, Any]) -> tuple[list[Path], int]:
    """Delete owners one after the other in processes that are killed; the folders, and how often that was done."""
    script("-m", "tests.sharding.in_a_row", str(folder), str(model), ",".join(owners), *words_of(flags))
    return sorted(path for path in folder.iterdir() if path.is_dir()), int((folder / "kills").read_text())


def ticket_rows() -> list[dict[str, Any]]:
    """Messages of customers; the class ``other`` is one customer's alone."""
    draw, found = random.Random(6), []
    for owner in OWNERS:
        for number in range(4):
            label = ("billing", "delivery")[number % 2]
            if owner == RARE_OWNER and number > 2:
                label = "other"
            text = f"{label[:4]} {draw.choice(WORDS)} {draw.choice(WORDS)} number {len(found)}"
            found.append({"customer": owner, "text": text, "label": label})
    draw.shuffle(found)
    return found


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_key(tmp_path_factory.mktemp("key") / "digest.key", KEY)


@pytest.fixture(scope="session")
def train_shards(lm_base: Path, key_file: Path) -> Callable[..., Path]:
    """Trains the tiny language model in four shards; a setting that is given goes before those here."""

    def train(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
        data = folder.with_suffix(".jsonl")
        if not data.is_file():
            write_rows(data, rows)
        jobs.train(
            {
                "model_name_or_path": str(lm_base),
                "dataset_name": str(data),
                "output_dir": str(folder),
                "shards": 4,
                "shard_column": "customer",
                "digest_key_file": str(key_file),
                "learning_rate": 1e-2,
                "per_device_train_batch_size": 4,
                "num_train_epochs": 1,
                "lora_r": 4,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "use_cpu": True,
                "seed": 3,
            }
            | settings
        )
        return folder

    return train


@pytest.fixture(scope="session")
def sharded(train_shards: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model in four shards; not to be changed."""
    return train_shards(tmp_path_factory.mktemp("sharded") / "model", question_rows())


@pytest.fixture(scope="session")
def classifier(
    train_shards: Callable[..., Path], encoder_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a tiny classifier in four shards; not to be changed."""
    settings = {"model_name_or_path": str(encoder_base), **CLASSIFIER}
    return train_shards(tmp_path_factory.mktemp("classifier") / "model", ticket_rows(), **settings)


@pytest.fixture
def delete(key_file: Path, tmp_path: Path, pictures_left_blank: None) -> Delete:
    """Deletes owners from a sharded model; the data lie beside it."""

    def delete(model: Path, out: Path, owners: list[str], **settings: Any) -> UnlearningReport:
        values = {
            "model_name_or_path": str(model),
            "output_dir": str(out),
            "dataset_name": str(settings.pop("data", None) or tmp_path / "data.jsonl"),
            "forget_values": [f"customer={owner}" for owner in owners],
            "digest_key_file": str(key_file),
            "near_duplicates": "ignore",
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        if not (tmp_path / "data.jsonl").is_file():
            write_rows(tmp_path / "data.jsonl", question_rows())
        return jobs.run(values | settings)

    return delete
