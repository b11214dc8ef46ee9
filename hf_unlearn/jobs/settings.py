"""The settings of the commands that take a recipe.

From Python, a setting that names data or records may hold the data set, or the ``Records``, in place of a name.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from transformers import TrainingArguments

from ..models.tasks import Task
from ..training.config import UnlearningConfig


@dataclass
class ModelArguments:
    """Which model."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(default=None, metadata={"help": "The model: a folder or Hub id."})
    model_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    task: Task | None = field(default=None, metadata={"help": "Its task; by default read from its architecture."})
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = field(
        default="float32", metadata={"help": "The data type of the weights; auto: as stored."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "The implementation of attention, such as sdpa or flash_attention_2."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow code from the model's repository to run."})
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter instead of the weights."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Load the weights below an adapter in 4 bits (QLoRA); needs bitsandbytes."}
    )
    load_in_8bit: bool = field(
        default=False, metadata={"help": "Load the weights below an adapter in 8 bits; needs bitsandbytes."}
    )
    lora_r: int = field(default=16, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA scale."})
    lora_dropout: float = field(default=0.05, metadata={"help": "LoRA dropout."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "The modules that get an adapter; by default PEFT's choice for the model."}
    )


@dataclass
class DataArguments:
    """Which data."""

    _argument_group_name = "data set D"

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "The data set D: a Hub id, a folder, or a .jsonl, .csv, .tsv or .parquet file."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "The configuration (subset) of D."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    dataset_train_split: str = field(default="train", metadata={"help": "The split that the original was trained on."})
    dataset_test_split: str | None = field(
        default=None, metadata={"help": "A split for the report, which no model was trained on."}
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Stream D instead of storing it; needs --max_steps."}
    )


@dataclass
class RequestArguments:
    """Which records to forget, and which were held out."""

    _argument_group_name = "request: the records to forget (S) and the held-out records (H); several flags add up"

    forget_ids: str | None = field(
        default=None,
        metadata={"help": "A file of ids to forget, one a line (.txt, .csv, .jsonl); needs --forget_id_column."},
    )
    forget_id_column: str | None = field(default=None, metadata={"help": "The column of D that holds the ids."})
    forget_requests: str | None = field(
        default=None,
        metadata={
            "help": "A folder of such files, one a request; those that the model's ledger already names cost nothing."
        },
    )
    forget_values: list[str] | None = field(
        default=None,
        metadata={
            "help": "Forget every row with this value: column=value, such as author=Doe. @FILE reads such lines "
            "from a file, and - from standard input: others on this machine can see the words of a command."
        },
    )
    forget_rows: list[int] | None = field(
        default=None, metadata={"help": "Forget the rows with these numbers, counted from 0."}
    )
    forget_dataset: str | None = field(
        default=None, metadata={"help": "Forget the rows of this data set (named as for --dataset_name)."}
    )
    forget_mentions: str | None = field(
        default=None,
        metadata={
            "help": "Forget rows that mention a name, address, e-mail or number of this file, one a line; only those "
            "that are confirmed in --mentions_review."
        },
    )
    mentions_review: str | None = field(
        default=None,
        metadata={"help": "The review of these rows (.jsonl), which is private; written where it is not there."},
    )
    allow_unmatched: bool = field(default=False, metadata={"help": "Continue when an id is not in D."})
    duplicates: Literal["report", "forget", "error", "ignore"] = field(
        default="report",
        metadata={"help": "Retained rows with the text of a row to forget: count, forget too, fail, or do not look."},
    )
    near_duplicates: Literal["report", "forget", "error", "ignore"] = field(
        default="report", metadata={"help": "Retained rows that nearly equal a row to forget, or quote it: the same."}
    )
    near_duplicates_review: str | None = field(
        default=None, metadata={"help": "Write the near copies with their texts to this file (.jsonl). It is private."}
    )
    near_duplicates_encoder: str | None = field(
        default=None,
        metadata={
            "help": "A sentence encoder that also finds paraphrases: a folder or Hub id. Of a model that is dealt "
            "into shards it also measures a router."
        },
    )
    holdout_split: str | None = field(
        default=None, metadata={"help": "The held-out records: this split of the data set."}
    )
    holdout_dataset: str | None = field(default=None, metadata={"help": "The held-out records: this data set."})
    holdout_ids: str | None = field(
        default=None,
        metadata={"help": "The held-out records: rows of D with these ids; a file as for --forget_ids."},
    )
    holdout_values: list[str] | None = field(
        default=None,
        metadata={"help": "The held-out records: every row of D with column=value, as for --forget_values."},
    )
    holdout_rows: list[int] | None = field(default=None, metadata={"help": "The held-out records: these rows of D."})
    digest_key_file: str | None = field(
        default=None,
        metadata={
            "help": "Your secret key for the digests in requests and ledger. By default hf_unlearn/digest.key "
            "in your folder of settings (~/.config), made if missing. Back it up."
        },
    )


@dataclass
class RunArguments:
    """What to do around the training."""

    _argument_group_name = "evidence and publishing"

    retrained_model: str | None = field(
        default=None,
        metadata={"help": "A model trained on the retained records alone, to compare with: a folder or Hub id."},
    )
    with_retrained: bool = field(
        default=False,
        metadata={"help": "Train that model now, as the training record says. This costs a full training."},
    )
    drop: bool = field(
        default=False,
        metadata={
            "help": "Of a model that is dealt into shards: leave the adapters that the request touches out, and train "
            "none. The next run without --drop trains them."
        },
    )
    shard_processes: int = field(
        default=1,
        metadata={"help": "Of a model that is dealt into shards: so many processes train the shards touched at once."},
    )
    push: bool = field(default=False, metadata={"help": "Publish to --hub_model_id after the verdict."})
    push_anyway: bool = field(
        default=False,
        metadata={"help": "Publish even if the verdict is not_forgotten or over_forgotten, or the utility is lost."},
    )
    push_to_existing: bool = field(
        default=False, metadata={"help": "Publish even to a repository that has files already."}
    )
    tell_users_to_move: bool = field(
        default=False, metadata={"help": "In the published card, ask users of the original to move to this model."}
    )


@dataclass
class TrainArguments:
    """What `hf-unlearn train` trains on."""

    _argument_group_name = "training"

    train_on: Literal["all", "retained"] = field(
        default="all",
        metadata={"help": "The data set, or only its retained records: those that are not to be forgotten."},
    )
    shards: int | None = field(
        default=None,
        metadata={
            "help": "Deal the owners of the records into so many shards, and train one LoRA adapter for each. To "
            "forget an owner later is then to train one adapter again. Needs --shard_column."
        },
    )
    slices: int = field(
        default=1,
        metadata={
            "help": "Deal the owners of each shard into so many slices, with a checkpoint after each. A deletion then "
            "trains the slices from the owner's on."
        },
    )
    shard_column: str | None = field(
        default=None, metadata={"help": "The column that says whose a record is (customer, author)."}
    )
    unknown_owner: Literal["base", "vote"] | None = field(
        default=None,
        metadata={
            "help": "What answers without an owner, or to one who is unknown or deleted: the base model, or the mean "
            "of all adapters. None: the vote for classifiers, else the base."
        },
    )
    shard_processes: int = field(
        default=1,
        metadata={
            "help": "So many processes train shards at once, each its own; the result is the same. Each holds a model."
        },
    )


@dataclass
class AlternatesArguments:
    """How other answers to the prompts of the records to forget are invented."""

    _argument_group_name = "alternates"

    generator: str | None = field(
        default=None, metadata={"help": "The model that invents them: a folder or Hub id. None: the original."}
    )
    alternates_per_record: int = field(default=5, metadata={"help": "How many for each record, all different."})
    alternates_prompt: str | None = field(
        default=None,
        metadata={
            "help": "What that model reads, with {prompt} and {completion} of a record. None: a request with three "
            "examples."
        },
    )


@dataclass
class ReferencesArguments:
    """Which reference models to train."""

    _argument_group_name = "references: models to compare a run with, several seeds of each kind"

    seeds: int = field(
        default=8,
        metadata={
            "help": "How many of each kind, with --seed and the next ones. A proof of any epsilon takes 12 or more: "
            "see `hf-unlearn plan`."
        },
    )
    arms: list[str] = field(
        default_factory=lambda: ["retrained"],
        metadata={
            "help": "The kinds. retrained: trained on the retained records, as the training record says; each is "
            "a full training. retrained_unlearned: the same, then put through this run's own unlearning. same_budget: "
            "the base model, trained on the retained records for what this run spends. These never saw the "
            "records to forget. unlearned: this run's own unlearning of the original, which is compared with "
            "them; as there is one original, epsilon is conditional on it.",
            "choices": ["retrained", "retrained_unlearned", "same_budget", "unlearned"],
        },
    )
    delta: float = field(default=1e-5, metadata={"help": "The delta in the definition of epsilon."})


@dataclass
class ComparisonArguments:
    """Which references `hf-unlearn run` and `hf-unlearn evaluate` compare with."""

    _argument_group_name = "references"

    references: str | None = field(
        default=None,
        metadata={
            "help": "The folder `references` that `hf-unlearn references` made. Their spread goes into the report, "
            "and with two retrained ones also the attacks LiRA and RMIA. A run finds those in its output_dir itself."
        },
    )


@dataclass
class EvaluateArguments:
    """What `hf-unlearn evaluate` compares the model with."""

    _argument_group_name = "models to compare with"

    original_model: str | None = field(default=None, metadata={"help": "The model before unlearning."})
    retrained_model: str | None = field(
        default=None, metadata={"help": "A model trained on the retained records alone."}
    )


@dataclass
class HarnessArguments:
    """What else is measured."""

    _argument_group_name = "other abilities"

    lm_eval_tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tasks of lm-evaluation-harness for the models, by name or as YAML files of that name. Needs the "
            "extra lm-eval."
        },
    )


@dataclass
class AttackArguments:
    """How hard `hf-unlearn attack` tries."""

    _argument_group_name = "attacks"

    attack_steps: int = field(
        default=30,
        metadata={
            "help": "Optimiser steps of further training, at --learning_rate and --per_device_train_batch_size."
        },
    )
    attack_samples: int = field(
        default=8,
        metadata={
            "help": "Texts that a language model writes for each of up to 50 records of S and of H. With 200 the "
            "curve goes up to leak@128; the time grows with it."
        },
    )
    attack_temperature: float = field(default=1.0, metadata={"help": "The temperature of these texts."})
    entailment_model: str | None = field(
        default=None,
        metadata={
            "help": "A classifier of pairs of texts with a class 'entailment', such as one trained on MNLI. It says "
            "whether a record follows from a text. None: only words are compared."
        },
    )
    translation_model: str | None = field(
        default=None,
        metadata={
            "help": "An encoder-decoder with safetensors that translates the prompts into another language. The "
            "answers stay as they are. None: no prompt is translated."
        },
    )
    public_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Texts that have nothing to do with the records to forget, to train a LoRA adapter on at ten "
            "times --learning_rate (as for --dataset_name, with a column 'text'). None: this attack is left out."
        },
    )


COMMON = (ModelArguments, DataArguments, RequestArguments)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "run": (*COMMON, RunArguments, ComparisonArguments, HarnessArguments, UnlearningConfig),
    "train": (*COMMON, TrainArguments, UnlearningConfig),
    "split": (*COMMON, UnlearningConfig),
    "alternates": (*COMMON, AlternatesArguments, UnlearningConfig),
    "references": (*COMMON, ReferencesArguments, UnlearningConfig),
    "evaluate": (*COMMON, EvaluateArguments, ComparisonArguments, HarnessArguments, UnlearningConfig),
    "attack": (*COMMON, EvaluateArguments, AttackArguments, UnlearningConfig),
}

# What a command reads of UnlearningConfig where it does not unlearn, so that its other settings mean nothing there.
_RECORDS = {
    "dataset_text_field", "dataset_label_field", "prompt_template", "completion_template", "max_length",
    "mlm_probability", "group_column",
}  # fmt: skip
_MACHINE = {"output_dir", "seed", "use_cpu", "ddp_backend", "ddp_timeout", "tf32", "per_device_eval_batch_size"}
_MEASURING = {
    "auc_margin", "utility_margin", "measure", "corrected_label_column", "paraphrase_column", "gradient_norm_attack",
    "generate_records", "base_model_name_or_path", "base_model_revision",
}  # fmt: skip
_TRAINING = {f.name for f in dataclasses.fields(TrainingArguments)}
_READ = {
    "train": _RECORDS | _TRAINING | {"train_last_layers", "merge_adapter", "stop_when_useful"},
    "split": _RECORDS | _MACHINE | {"auc_margin", "gradient_norm_attack", "paraphrase_column", "stop_when_forgotten"}
    | {"method", "corrected_label_column"},
    "alternates": _RECORDS | _MACHINE | {"alternates_file", "bf16", "fp16"}
    | {"base_model_name_or_path", "base_model_revision"},
    "evaluate": _RECORDS | _MACHINE | _MEASURING,
    "attack": _RECORDS | _MACHINE | _MEASURING | {"learning_rate", "per_device_train_batch_size"},
}  # fmt: skip
_LORA = {"lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"}
_NOT_READ = {
    "split": _LORA
    | {"dtype", "attn_implementation", "use_peft", "load_in_4bit", "load_in_8bit", "dataset_test_split"},
    "alternates": _LORA | {"dataset_test_split"},
    "evaluate": _LORA | {"use_peft"},
}


def settings_of(command: str) -> set[str]:
    """The names of the settings that a command uses."""
    names = {f.name for kind in SETTINGS[command] for f in dataclasses.fields(kind) if f.init}
    if command in _READ:
        names -= {f.name for f in dataclasses.fields(UnlearningConfig)} - _READ[command]
    return names - _NOT_READ.get(command, set())


T = TypeVar("T")


def build(kind: type[T], values: dict[str, Any]) -> T:
    """Fill a dataclass with the settings that belong to it."""
    names = {f.name for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in values.items() if name in names})
