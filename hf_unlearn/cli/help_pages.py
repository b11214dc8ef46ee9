"""What ``hf-unlearn COMMAND --help`` shows of a command that takes a recipe: the options people use, in groups.

The parser of all options reads the settings, which takes torch and seconds. This page needs neither, so it has short
texts of its own. A test compares its defaults with the settings.
"""

import argparse
from typing import NamedTuple

from .commands import COMMANDS, RECIPE
from .flags import HelpFormatter


class Option(NamedTuple):
    """An option as the page shows it.

    Attributes:
        metavar: what stands for its value; empty for a switch.
        text: what it says.
        default: what holds without it, in words or as a value.
    """

    metavar: str
    text: str
    default: str


OPTIONS = {
    # The model
    "model_name_or_path": Option("MODEL", "the model: a folder or Hub id", "none"),
    "base_model_name_or_path": Option("MODEL", "the base it was fine-tuned from", "as its record or card says"),
    "task": Option("TASK", "its task", "by its architecture"),
    "use_peft": Option("", "train a LoRA adapter, not the weights", "no"),
    # The data
    "dataset_name": Option("DATA", "a Hub id, a folder or a file", "none"),
    "dataset_train_split": Option("SPLIT", "the split it was trained on", "train"),
    "dataset_test_split": Option("SPLIT", "a split for the report that no model saw", "none"),
    # The records to forget
    "forget_id_column": Option("COLUMN", "the column of the ids", "none"),
    "forget_ids": Option("FILE", "a file of ids, one a line", "none"),
    "forget_requests": Option("FOLDER", "a folder of such files", "none"),
    "forget_values": Option("COL=VALUE", "all rows with this value", "none"),
    "forget_mentions": Option("FILE", "rows with these names, e-mails or numbers", "none"),
    "mentions_review": Option("FILE", "where you confirm these rows; private", "none"),
    "near_duplicates": Option("DO", "what to do with near copies: report, forget, error or ignore", "report"),
    # The held-out records
    "holdout_split": Option("SPLIT", "records like those that no model saw: a split", "none"),
    "holdout_dataset": Option("DATA", "or another data set", "none"),
    "holdout_ids": Option("FILE", "or rows of the data, by ids", "none"),
    # The training
    "method": Option("NAME", "see `hf-unlearn methods`", "auto"),
    "budget": Option("SHARE", "the most to train, as a share of a retraining", "by the method"),
    "learning_rate": Option("RATE", "its peak", "as the training record says, or 5e-05"),
    "num_train_epochs": Option("N", "epochs", "3"),
    "per_device_train_batch_size": Option("N", "records a step", "8"),
    "max_length": Option("N", "tokens of a record", "the model's, to 1024"),
    "seed": Option("N", "the seed of all draws", "42"),
    "bf16": Option("", "calculate in 16 bits", "no"),
    "train_on": Option("all|retained", "all records, or those that stay", "all"),
    "shards": Option("N", "deal the owners into N adapters", "none"),
    "shard_column": Option("COLUMN", "the column of the owners", "none"),
    "slices": Option("K", "slices of a shard, each with a checkpoint", "1"),
    "shard_processes": Option("N", "processes that train shards", "1"),
    # The measuring
    "auc_margin": Option("N", "AUCs so near 0.5 are chance", "0.1"),
    "group_column": Option("COLUMN", "whose record it is", "the ids' column"),
    "with_retrained": Option("", "also train a model without S", "no"),
    "retrained_model": Option("MODEL", "a model that never saw S", "none"),
    "original_model": Option("MODEL", "the model before unlearning", "none"),
    "references": Option("FOLDER", "of `hf-unlearn references`", "none"),
    "generate_records": Option("N", "records for models to continue", "0"),
    "lm_eval_tasks": Option("TASK", "tasks of lm-evaluation-harness", "none"),
    "per_device_eval_batch_size": Option("N", "records at once", "8"),
    "seeds": Option("N", "models of each kind", "8"),
    "arms": Option(
        "{retrained,retrained_unlearned,same_budget,unlearned}",
        "the kinds; unlearned is this run's own, of one original, and epsilon is conditional on it",
        "retrained",
    ),
    "delta": Option("N", "of a lower bound of epsilon, which three models of each kind give", "1e-05"),
    "attack_steps": Option("N", "steps of further training", "30"),
    "attack_samples": Option("N", "texts to write for a record", "8"),
    "entailment_model": Option("MODEL", "says what follows from a text", "none"),
    "translation_model": Option("MODEL", "translates the prompts", "none"),
    "public_dataset": Option("DATA", "other texts to train on", "none"),
    "paraphrase_column": Option("COLUMN", "the prompts in other words", "none"),
    # Other answers
    "alternates_file": Option("FILE", "the private file to write", "none"),
    "alternates_per_record": Option("N", "answers to each record", "5"),
    "alternates_prompt": Option("TEXT", "what the model reads", "three examples"),
    "generator": Option("MODEL", "the model that writes them", "the original"),
    # The result
    "output_dir": Option("FOLDER", "where the result goes", ""),
    "push": Option("", "publish it after the verdict", "no"),
    "hub_model_id": Option("REPO", "where to, owner/name", "none"),
    "near_duplicates_review": Option("FILE", "write them to this file", "none"),
    "allow_unmatched": Option("", "go on when an id is not in the data", "no"),
}
OUTPUT_DIRS = {"run": "unlearned", "train": "original", "evaluate": "evaluation", "attack": "attacks"}

MODEL = "model_name_or_path task"
DATA = "dataset_name dataset_train_split"
FORGET = "forget_id_column forget_ids forget_requests forget_values forget_mentions mentions_review"
HOLDOUT = "holdout_split holdout_dataset holdout_ids"
PAGES: dict[str, dict[str, str]] = {
    "run": {
        "model": "model_name_or_path base_model_name_or_path task use_peft",
        "data set": f"{DATA} dataset_test_split",
        "records to forget (S)": f"{FORGET} near_duplicates",
        "held-out records (H)": HOLDOUT,
        "training": "method budget learning_rate per_device_train_batch_size seed",
        "result": "with_retrained output_dir push hub_model_id",
    },
    "split": {
        "model": MODEL,
        "data set": DATA,
        "records to forget (S)": f"{FORGET} near_duplicates near_duplicates_review allow_unmatched",
        "held-out records (H)": f"{HOLDOUT} group_column",
        "measuring": "method auc_margin",
    },
    "train": {
        "model": f"{MODEL} use_peft",
        "data set": f"{DATA} dataset_test_split train_on",
        "records to leave out": f"forget_id_column forget_ids {HOLDOUT.split()[-1]}",
        "shards": "shards slices shard_column shard_processes",
        "training": "num_train_epochs learning_rate per_device_train_batch_size max_length seed bf16",
        "result": "output_dir",
    },
    "alternates": {
        "model": MODEL,
        "data set": DATA,
        "records to forget (S)": FORGET,
        "answers": "alternates_file alternates_per_record alternates_prompt generator seed per_device_eval_batch_size",
    },
    "references": {
        "model": "model_name_or_path base_model_name_or_path task use_peft",
        "data set": DATA,
        "records to forget (S)": FORGET,
        "held-out records (H)": HOLDOUT,
        "training": "seeds arms delta method budget seed",
        "result": "output_dir",
    },
    "evaluate": {
        "models": f"{MODEL} original_model retrained_model references",
        "data set": f"{DATA} dataset_test_split",
        "records to forget (S)": FORGET,
        "held-out records (H)": f"{HOLDOUT} group_column",
        "measuring": "auc_margin generate_records lm_eval_tasks per_device_eval_batch_size seed",
        "result": "output_dir",
    },
    "attack": {
        "models": f"{MODEL} original_model retrained_model",
        "data set": DATA,
        "records to forget (S)": FORGET,
        "held-out records (H)": HOLDOUT,
        "attacks": "attack_steps learning_rate per_device_train_batch_size attack_samples entailment_model "
        "public_dataset paraphrase_column translation_model seed",
        "result": "output_dir",
    },
}


class _Page(HelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)


def help_page(name: str) -> str:
    """The text of ``hf-unlearn COMMAND --help`` for a command that takes a recipe."""
    command = COMMANDS[name]
    first, *_, example = command.about.split("\n\n")
    page = argparse.ArgumentParser(
        prog=f"hf-unlearn {name}",
        usage=f"hf-unlearn {name} {RECIPE} [--flag value ...]",
        description=f"{first}\n\n{example}",
        formatter_class=_Page,
        add_help=False,
        epilog=f"--config takes a recipe, a YAML file of options. `hf-unlearn {name} --help all` lists all options.",
    )
    for title, names in PAGES[name].items():
        group = page.add_argument_group(title)
        for option in names.split():
            metavar, text, default = OPTIONS[option]
            told = f"{text} (default: {default or OUTPUT_DIRS.get(name, 'unlearned')})"
            if metavar:
                group.add_argument(f"--{option}", metavar=metavar, help=told)
            else:
                group.add_argument(f"--{option}", action="store_true", help=told, default=argparse.SUPPRESS)
    return page.format_help()
