"""The command that repeats a run, as the card and the page for an auditor print it."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.report import UnlearningReport
from ..methods.table import METHODS, find_method
from ..models.tasks import TASKS
from ..output_folder import PUBLISHING_SETTINGS, is_written

# They shape no number, or are the owner's secrets.
LEFT_OUT = (*PUBLISHING_SETTINGS, "output_dir", "digest_key_file", "near_duplicates_review", "run_name", "logging_dir")
SECRET = ("hub_", "push_to_hub")
# Even the name of a file or a value may say whose records these are. What stands for it, and what it is.
STANDS_FOR = {
    "forget_ids": ("ids", "the file of the ids to forget"),
    "forget_requests": ("requests", "the folder with the files of ids to forget"),
    "forget_dataset": ("records", "the data set of the records to forget"),
    "forget_mentions": ("mentions", "the file of the names, addresses and numbers to look for"),
    "mentions_review": ("mentions_review", "the review in which the rows that mention them were confirmed"),
    "holdout_ids": ("held_out_ids", "the file of the ids that were held out"),
    "forget_values": ("values.txt", "the file of the values to forget, a line column=value for each"),
    "holdout_values": (
        "held_out_values.txt",
        "the file of the values that were held out, a line column=value for each",
    ),
    "forget_rows": ("ROWS", "the numbers of the rows to forget"),
    "holdout_rows": ("HELD_OUT_ROWS", "the numbers of the rows that were held out"),
}
SHOWN = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_last_layers",
    "max_length",
    "dataset_text_field",
    "prompt_template",
    "completion_template",
)


@dataclass(frozen=True)
class Command:
    """A command of several lines.

    Attributes:
        lines: the program, and one flag with its values each.
        fill_in: what only the owner knows, by what stands for it.
    """

    lines: list[str]
    fill_in: dict[str, str]


def given_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run was given, without what names a record or a folder of this machine, for its report."""
    given: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or name in LEFT_OUT or name.startswith(SECRET):
            continue
        if name in STANDS_FOR:
            given[name] = _stand_in(name, value)
        elif not is_written(value):
            continue
        elif isinstance(value, list | tuple):
            given[name] = [_without_folder(one) for one in value]
        else:
            given[name] = _without_folder(value)
    return given


def _stand_in(name: str, value: Any) -> Any:
    word, _ = STANDS_FOR[name]
    if name.endswith("_values"):
        return list(dict.fromkeys(str(pair).partition("=")[0] for pair in value))
    suffix = Path(value).suffix if isinstance(value, str | Path) and Path(value).is_file() else ""
    return word + suffix


def _without_folder(value: Any) -> Any:
    """A place on this machine by its name alone, and any other value as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _without_folder(item) for key, item in value.items()}
    if not isinstance(value, str | Path):
        return value if isinstance(value, bool | int | float | None) else str(value)
    try:
        return Path(value).absolute().name if Path(value).exists() else str(value)
    except (OSError, ValueError):
        return str(value)


def repeating_command(report: UnlearningReport, places: Mapping[str, Any] | None = None) -> Command:
    """The command that repeats the run of a report.

    Args:
        report: of the run.
        places: its settings with the folders of this machine, which a published page does not have.

    Returns:
        The command, without what names records and with the revisions that were used.
    """
    flags = _given_flags(report, places or {}) if report.given else _recorded_flags(report)
    fill_in: dict[str, str] = {}
    for name, (_, meaning) in STANDS_FOR.items():
        if name in flags:
            columns = ", ".join(report.given[name]) if name.endswith("_values") else ""
            fill_in[str(flags[name]).removeprefix("@")] = f"{meaning} (of {columns})" if columns else meaning
    if not report.given and report.shards is None:
        fill_in |= _unknown_parts(report)
    processes = report.hardware.get("processes", "1")
    program = "hf-unlearn run"
    if processes.isdigit() and processes != "1":
        program = f"torchrun --nproc_per_node {processes} -m hf_unlearn.cli run"
    lines = [f"--{name} {_words(value)}" for name, value in flags.items() if value is not None]
    return Command([program, *lines, "--output_dir repeated"], fill_in)


def _given_flags(report: UnlearningReport, places: Mapping[str, Any]) -> dict[str, Any]:
    flags: dict[str, Any] = {
        name: value if name in STANDS_FOR else places.get(name, value) for name, value in report.given.items()
    }
    # All users of a machine can read the words of a command line, so values stand in a file.
    flags |= {name: f"@{word}" for name, (word, _) in STANDS_FOR.items() if name in flags and name.endswith("_values")}
    if report.original is not None and report.original.on_hub:
        flags["model_revision"] = report.original.revision
    if report.dataset.revision is not None:
        flags["dataset_revision"] = report.dataset.revision
    if report.method.seed is not None and report.shards is None:
        flags.setdefault("seed", report.method.seed)
    return flags


def _recorded_flags(report: UnlearningReport) -> dict[str, Any]:
    """What the report says of a run whose settings it does not have."""
    method, data = report.method, report.dataset
    flags: dict[str, Any] = {}
    if report.original:
        flags |= {"model_name_or_path": report.original.name, "model_revision": report.original.revision}
    flags |= {"dataset_name": data.name, "dataset_config": data.config, "dataset_revision": data.revision}
    flags["dataset_train_split"] = data.split if data.split != "train" else None
    columns = report.audit.id_columns if report.audit is not None else []
    flags |= {"forget_ids": "ids.txt", "forget_id_column": columns[0] if columns else "COLUMN"}
    if report.shards is not None:
        return flags | {"drop": True if report.shards.dropped and not report.shards.retrained else None}
    flags["method"] = method.name
    row = find_method(method.name, method.start) if method.name in METHODS else None
    if row and row.alpha is not None:
        flags["alpha"] = method.alpha
    flags |= {"start": method.start, "rewind_checkpoint": method.checkpoint}
    if row and method.options != row.options:
        flags["method_kwargs"] = method.options
    flags["alternates_file"] = "alternates.jsonl" if method.alternates else None
    if report.base and row and row.uses_base:
        flags["base_model_name_or_path"] = report.base.name
    flags |= {"budget": method.budget} if method.budget else {"num_train_epochs": method.epochs}
    flags["stop_when_useful"] = None if method.usefulness is None else True
    flags |= {name: method.settings.get(name) for name in (*SHOWN, *TASKS[report.task].settings)}
    flags["group_column"] = report.group_column
    flags["base_is_clean"] = True if report.base_is_clean == "stated" else None
    if method.lora:
        flags |= {"use_peft": True, "lora_r": method.lora["r"], "lora_alpha": method.lora["lora_alpha"]}
        flags["merge_adapter"] = None if method.adapter_of else True
    flags["seed"] = method.seed
    return flags


def _unknown_parts(report: UnlearningReport) -> dict[str, str]:
    """What such a report does not say at all."""
    found = {}
    if not (report.audit and report.audit.id_columns):
        found["COLUMN"] = "the column that holds the ids"
    sets = report.arms["unlearned"].sets if "unlearned" in report.arms else {}
    if "holdout" in sets:
        found["--holdout_…"] = "add where the held-out records are"
    if "test" in sets:
        found["--dataset_test_split"] = "add the name of the split that was tested on"
    return found


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_words(one) for one in value)
    if isinstance(value, bool):
        return str(value).lower()
    return _in_shell(json.dumps(value) if isinstance(value, dict) else str(value))


def _in_shell(value: str) -> str:
    """A value as bash reads it, on one line."""
    if value.isprintable():
        return shlex.quote(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "$'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + "'"
