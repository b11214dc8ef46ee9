"""The settings of the commands: recipe and flags to dataclasses. A recipe is flags written down; flags win."""

import argparse
import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from transformers import HfArgumentParser, TrainingArguments

from .config import UnlearningConfig
from .errors import InputError
from .tasks import Task


@dataclass
class ModelArguments:
    """Which model."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(default=None, metadata={"help": "The model: a folder or Hub id."})
    model_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    task: Task | None = field(
        default=None, metadata={"help": "What it does; read from its architecture when left out."}
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = field(
        default="float32", metadata={"help": "Type of the weights; auto: as stored."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "Such as sdpa or flash_attention_2."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code from the model's repository."})
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter instead of the weights."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Load the weights under an adapter in 4 bits (QLoRA); needs bitsandbytes."}
    )
    load_in_8bit: bool = field(
        default=False, metadata={"help": "Load the weights under an adapter in 8 bits; needs bitsandbytes."}
    )
    lora_r: int = field(default=16, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scale."})
    lora_dropout: float = field(default=0.05, metadata={"help": "LoRA dropout."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules with an adapter; PEFT's choice for the model when left out."}
    )


@dataclass
class DataArguments:
    """Which data."""

    _argument_group_name = "data set D"

    dataset_name: str | None = field(
        default=None, metadata={"help": "D: a Hub id, a folder, or a .jsonl, .csv, .tsv or .parquet file."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    dataset_train_split: str = field(default="train", metadata={"help": "The split that was trained on."})
    dataset_test_split: str | None = field(default=None, metadata={"help": "A split to report on."})
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Stream D instead of storing it; needs max_steps."}
    )


@dataclass
class RequestArguments:
    """Which records to forget, and which were held out."""

    _argument_group_name = "request: the records to forget (S) and the held-out ones (H); several unite"

    forget_ids: str | None = field(
        default=None, metadata={"help": "File of ids, one a line (.txt, .csv, .jsonl); needs --forget_id_column."}
    )
    forget_id_column: str | None = field(default=None, metadata={"help": "The column that holds the ids."})
    forget_values: list[str] | None = field(
        default=None, metadata={"help": "column=value: every row with that value, such as author=Doe."}
    )
    forget_rows: list[int] | None = field(default=None, metadata={"help": "Row numbers, counted from 0."})
    forget_dataset: str | None = field(
        default=None, metadata={"help": "A data set (as for --dataset_name) whose rows are to be forgotten."}
    )
    ids_must_be_unique: bool = field(default=False, metadata={"help": "Fail when an id belongs to several rows."})
    allow_unmatched: bool = field(default=False, metadata={"help": "Go on when an id is not in D."})
    duplicates: Literal["report", "forget", "error", "ignore"] = field(
        default="report",
        metadata={"help": "Retained rows with the text of a forgotten one: count, forget too, fail, or do not look."},
    )
    holdout_split: str | None = field(default=None, metadata={"help": "H is this split of the data set."})
    holdout_dataset: str | None = field(default=None, metadata={"help": "H is this data set."})
    holdout_ids: str | None = field(
        default=None,
        metadata={"help": "H is the rows with these ids, which D leaves out; a file as for --forget_ids."},
    )
    holdout_values: list[str] | None = field(
        default=None, metadata={"help": "H is every row with column=value, which D leaves out."}
    )
    holdout_rows: list[int] | None = field(default=None, metadata={"help": "H is these rows, which D leaves out."})
    digest_key_file: str | None = field(
        default=None,
        metadata={"help": "Your key for the digest of the request; a file in HF_HOME, made when missing, by default."},
    )


@dataclass
class RunArguments:
    """What to do around the training."""

    _argument_group_name = "evidence and publishing"

    retrained_model: str | None = field(
        default=None, metadata={"help": "A model trained on L alone to compare with: a folder or Hub id."}
    )
    with_retrained: bool = field(
        default=False, metadata={"help": "Train that model now, as the training record says; costs a full training."}
    )
    push: bool = field(default=False, metadata={"help": "Publish to --hub_model_id after the verdict."})
    push_anyway: bool = field(
        default=False, metadata={"help": "Publish also when the verdict is not_forgotten or over_forgotten."}
    )
    push_to_existing: bool = field(default=False, metadata={"help": "Publish to a repository that has files already."})


@dataclass
class TrainArguments:
    """What `hf-unlearn train` trains on."""

    _argument_group_name = "training"

    train_on: Literal["all", "retained"] = field(
        default="all", metadata={"help": "D, or L: the data without the records to forget."}
    )


@dataclass
class EvaluateArguments:
    """What `hf-unlearn evaluate` compares the model with."""

    _argument_group_name = "models to compare with"

    original_model: str | None = field(default=None, metadata={"help": "The model before unlearning."})
    retrained_model: str | None = field(default=None, metadata={"help": "A model trained on L alone."})


SETTINGS: dict[str, tuple[Any, ...]] = {
    "run": (ModelArguments, DataArguments, RequestArguments, RunArguments, UnlearningConfig),
    "train": (ModelArguments, DataArguments, RequestArguments, TrainArguments, UnlearningConfig),
    "split": (DataArguments, RequestArguments, UnlearningConfig),
    "evaluate": (ModelArguments, DataArguments, RequestArguments, EvaluateArguments, UnlearningConfig),
}

# In a recipe the section "original" says how A(D) was trained; of the other keys these hold for it too.
ORIGINAL = "original"
SHARED_WITH_ORIGINAL = (
    "task",
    "trust_remote_code",
    "dataset_text_field",
    "dataset_label_field",
    "prompt_template",
    "completion_template",
    "max_length",
    "seed",
    *(f.name for f in dataclasses.fields(DataArguments)),
    *(f.name for f in dataclasses.fields(RequestArguments)),
)
INHERITED = {f.name for f in dataclasses.fields(TrainingArguments)}

T = TypeVar("T")


def parse(command: str, argv: list[str]) -> dict[str, Any]:
    """Read the recipe named by ``--config`` and the flags.

    Args:
        command: ``run``, ``train``, ``split`` or ``evaluate``.
        argv: the flags.

    Returns:
        The settings that were given, by name; what was not given is not among them.

    Raises:
        InputError: an unknown key or flag, or a value of the wrong type.
        SystemExit: after ``--help``.
    """
    parser = _Parser(SETTINGS[command], command)
    if {"-h", "--help", "--help_all"} & set(argv):
        parser.show_help(everything="--help_all" in argv)
        raise SystemExit(0)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        raise InputError(_unknown(unknown[0].split("=")[0].lstrip("-"), parser.names, "flag"))
    values = vars(given)
    recipe = values.pop("config", None)
    if recipe is None:
        return values
    from_file = _read_recipe(Path(recipe), command, parser)
    return {**from_file, **values}


def build(kind: type[T], values: dict[str, Any]) -> T:
    """Fill a dataclass with the settings that belong to it."""
    names = {f.name for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names})


class _Parser(HfArgumentParser):
    """A parser whose help shows this package's settings first and whose errors are sentences."""

    def __init__(self, kinds: tuple[Any, ...], command: str):
        super().__init__(kinds, prog=f"hf-unlearn {command}", add_help=False, allow_abbrev=False)
        self.add_argument("--config", help="A recipe: a YAML file of these settings. Flags win over it.")
        self.names = {action.dest for action in self._actions} | {ORIGINAL}
        self.command = command

    def show_help(self, everything: bool) -> None:
        for action in self._actions:
            if action.dest in INHERITED and not everything and action.dest != "output_dir":
                action.help = argparse.SUPPRESS
        self.usage = f"hf-unlearn {self.command} --config recipe.yaml [--flag value ...]"
        self.epilog = (
            "Every flag of transformers' TrainingArguments works too, such as --learning_rate, --num_train_epochs, "
            "--per_device_train_batch_size, --seed; --help_all lists them."
        )
        self.print_help()

    def error(self, message: str) -> Any:
        raise InputError(f"{message[0].upper()}{message[1:]}.")


def _read_recipe(path: Path, command: str, parser: _Parser) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the recipe {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"The recipe {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise InputError(f"The recipe {path} must be a mapping of settings to values.")
    original = content.pop(ORIGINAL, None) or {}
    everything = {f.name for kinds in SETTINGS.values() for kind in kinds for f in dataclasses.fields(kind)}
    for section in (content, original):
        for key in section:
            if key not in everything:
                raise InputError(f"{path}: {_unknown(key, everything, 'key')}")
    if command == "train":
        content = {key: value for key, value in content.items() if key in SHARED_WITH_ORIGINAL} | original
    # One recipe serves all the commands; each takes the settings that concern it.
    actions = {action.dest: action for action in parser._actions}
    flags = [flag for key, value in content.items() if key in actions for flag in _as_flags(actions[key], value)]
    return vars(parser.parse_known_args(flags)[0])


def _as_flags(action: argparse.Action, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{action.dest}", *(str(item) for item in value)]
    if isinstance(value, dict):
        value = json.dumps(value)
    if value is False and "no" in (action.choices or ()):
        # YAML reads an unquoted no as false.
        value = "no"
    return [f"--{action.dest}={value}"]


def _unknown(key: str, names: set[str], kind: str) -> str:
    nearest = difflib.get_close_matches(key, names, n=1)
    return f"there is no {kind} {key!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ".")
