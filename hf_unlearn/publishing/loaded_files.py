"""What is loaded of a model besides its weights, by digest, and the mark in it that says that it has a ledger."""

import json
from fnmatch import fnmatch
from pathlib import Path

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import CONFIG_NAME

from ..files import write_text, written_whole
from ..hub_access import hub_errors
from ..models.location import INDEX, LEDGER_MARK, MODEL_FILES, ModelSource, fetch_files, file_beside, loaded_weights
from .ledger import file_digest

# People and this package read them; no other loader does.
NOT_LOADED = (
    "README.md",
    "training_record.json",
    "unlearning_report.json",
    "unlearning_ledger.jsonl",
    "unlearning_ledger.tsr",
)
# Says of a model that is dealt into adapters which of them answers.
SHARDING = "sharding.json"
SHARDS = "shards/[0-9]*/adapter_config.json"
LOADED = (*(name for name in MODEL_FILES if name not in NOT_LOADED), SHARDS)


def loaded_files(source: ModelSource, folder: Path) -> dict[str, str]:
    """SHA-256 of each file that is loaded with the weights, by name; ``folder`` is where the model's files lie."""
    if not source.is_local:
        with hub_errors(f"The model {source.name!r}"):
            fetch_files(source.name, source.revision, [INDEX, SHARDS])
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kept = {name for name in names if any(fnmatch(name, pattern) for pattern in LOADED)}
    kept |= loaded_weights(names) & {INDEX}
    return {name: file_digest(folder / name) for name in sorted(kept)}


def mark(folder: Path) -> None:
    """Note in a model itself that a ledger belongs to it.

    That of a model which is dealt into adapters stands beside them: those that a deletion does not touch stay as they
    are.
    """
    adapter = folder / SAFETENSORS_WEIGHTS_NAME
    if adapter.is_file():
        with safe_open(adapter, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
        if LEDGER_MARK not in metadata:
            with written_whole(adapter) as temporary:
                save_file(load_file(adapter), temporary, metadata | {LEDGER_MARK: "true"})
        return
    place = next((path for name in (SHARDING, CONFIG_NAME) if (path := folder / name).is_file()), None)
    if place is not None:
        values = json.loads(place.read_text(encoding="utf-8"))
        if LEDGER_MARK not in values:
            write_text(place, json.dumps(values | {LEDGER_MARK: True}, indent=2, sort_keys=True) + "\n")


def marked_in(source: ModelSource) -> str | None:
    """Which file of a model says that a ledger belongs to it, None where none does."""
    if source.adapter:
        with hub_errors(f"The adapter {source.name!r}"):
            fetch_files(source.name, source.revision, [SAFETENSORS_WEIGHTS_NAME])
    for name in (SHARDING, CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        if (path := file_beside(source, name)) is not None and _has_mark(path):
            return name
    return None


def _has_mark(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            return isinstance(values, dict) and LEDGER_MARK in values
        with safe_open(path, framework="pt") as tensors:
            return LEDGER_MARK in (tensors.metadata() or {})
    except (OSError, ValueError, RecursionError, SafetensorError):  # a damaged file, of which its reader says more
        return False
