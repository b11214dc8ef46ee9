"""Recipe and flags to settings. A recipe is flags written down; flags win."""

import argparse
import dataclasses
import difflib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..errors import InputError
from ..files import check_aliases, require_file
from ..jobs.settings import SETTINGS, DataArguments, RequestArguments, settings_of
from .command import hidden_words
from .commands import COMMANDS, RECIPE
from .flags import HelpFormatter, check_place, check_words, is_unicode, without_values

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
PLACES = (
    "model_name_or_path",
    "base_model_name_or_path",
    "rewind_checkpoint",
    "alternates_file",
    "generator",
    "original_model",
    "retrained_model",
    "references",
    "dataset_name",
    "forget_requests",
    "forget_dataset",
    "forget_mentions",
    "mentions_review",
    "holdout_dataset",
    "public_dataset",
    "digest_key_file",
    "near_duplicates_review",
    "near_duplicates_encoder",
    "output_dir",
)
WITH_IDS = {"forget_values", "holdout_values"}
MAY_BE_EMPTY = ("prompt_template", "completion_template")
INHERITED = {f.name for f in dataclasses.fields(TrainingArguments)}


def parse(command: str, argv: list[str]) -> dict[str, Any]:
    """Read the recipe named by ``--config`` and the flags.

    Args:
        command: one of :data:`SETTINGS`.
        argv: the flags.

    Returns:
        The settings that were given, by name; what was not given is not among them.

    Raises:
        InputError: the key or flag is unknown, or its value has the wrong type.
        SystemExit: after ``--help``.
    """
    parser = _Parser(SETTINGS[command], command)
    if {"-h", "--help", "--help_all"} & set(argv):
        parser.show_help()
        raise SystemExit(0)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    check_words(argv)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0]
        place = f"word {argv.index(word) + 1} after the command" if word in argv else "a word"
        name = word.split("=")[0].lstrip("-") if word.startswith("--") else ""
        told = _not_used(command, name) if _users_of(name) else _unknown(name, parser.names, "flag", place)
        raise InputError(told)
    values = vars(given)
    for name in values:
        if name not in parser.taken:
            raise InputError(_not_used(command, name))
    for name in WITH_IDS & values.keys():
        values[name] = [line for word in values[name] for line in hidden_words(f"--{name}", word)]
    recipe = values.pop("config", None)
    if recipe is not None:
        values = {**_read_recipe(Path(recipe), command, parser), **values}
    for name, value in values.items():
        # To pathlib the empty text is the folder one is in.
        if value == "" and name not in MAY_BE_EMPTY and (name not in INHERITED or name == "output_dir"):
            raise InputError(f"{name} is empty; give it a value or leave it out.")
        if name in PLACES:
            check_place(name, value)
    return values


def _users_of(setting: str) -> list[str]:
    """The commands that use a setting."""
    return [command for command in SETTINGS if setting in settings_of(command)]


def _not_used(command: str, name: str) -> str:
    return f"`hf-unlearn {command}` does not use --{name}; leave it out. It is for: {', '.join(_users_of(name))}."


class _Parser(HfArgumentParser):
    """A parser of all settings, whose help shows those that the command uses and whose errors are sentences."""

    def __init__(self, kinds: tuple[Any, ...], command: str):
        super().__init__(
            kinds, prog=f"hf-unlearn {command}", formatter_class=HelpFormatter, add_help=False, allow_abbrev=False
        )
        self.add_argument("--config", help="A recipe: a YAML file of these settings. Flags win over it.")
        self.names = {action.dest for action in self._actions} | {ORIGINAL}
        self.taken = settings_of(command) | {"config"}
        self.command = command

    def show_help(self) -> None:
        if "method" in self.taken:
            self.set_defaults(method="auto")
        for action in self._actions:
            if action.dest not in self.taken:
                action.help = argparse.SUPPRESS
        self.usage = f"hf-unlearn {self.command} {RECIPE} [--flag value ...]"
        self.description = COMMANDS[self.command].about
        options = self._action_groups.pop(1)
        options.title = "training, unlearning and measuring"
        self._action_groups.append(options)
        self.print_help()

    def error(self, message: str) -> Any:
        # argparse quotes a value that it cannot read, and here that may be an id.
        if flag := re.match(r"argument (--(?:forget|holdout)_rows)", message):
            raise InputError(f"{flag[1]} must be row numbers, counted from 0.")
        raise InputError(f"{message[0].upper()}{without_values(message[1:])}.")


class _RecipeLoader(yaml.SafeLoader):
    """YAML in which a key may stand once in a mapping: PyYAML would drop all but the last; and no bombs."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            check_aliases(node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice in one mapping", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_recipe(path: Path, command: str, parser: _Parser) -> dict[str, Any]:
    require_file(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _RecipeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"Cannot read the recipe {path}: {reason}.") from None
    except yaml.MarkedYAMLError as error:
        # Its own text quotes the lines around it, which may hold ids.
        place = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = str(error.problem)
        # Of an alias, an anchor or a tag it quotes the name.
        problem = problem if "character" in problem else problem.partition("'")[0].strip()
        raise InputError(f"The recipe {path} is not YAML{place}: {problem}.") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"The recipe {path} is not YAML.") from None
    if not isinstance(content, dict):
        raise InputError(f"The recipe {path} must be a mapping of settings to values.")
    original = content.pop(ORIGINAL, None) or {}
    if not isinstance(original, dict):
        raise InputError(f"{path}: the section {ORIGINAL!r} must be a mapping of settings to values.")
    everything = {f.name for kinds in SETTINGS.values() for kind in kinds for f in dataclasses.fields(kind)}
    for section in (content, original):
        for number, key in enumerate(section, start=1):
            if key not in everything:
                raise InputError(f"{path}: {_unknown(str(key), everything, 'key', f'key {number} of a section')}")
    if command == "train":
        content = {key: value for key, value in content.items() if key in SHARED_WITH_ORIGINAL} | original
    # One recipe serves all the commands; each takes the settings that concern it.
    actions = {action.dest: action for action in parser._actions if action.dest in parser.taken}
    given: dict[str, Any] = {}
    for key, value in content.items():
        if key in actions and value is not None:
            given |= _parsed(parser, actions[key], value, path)
    return given


def _parsed(parser: _Parser, action: argparse.Action, value: Any, path: Path) -> dict[str, Any]:
    """A value of a recipe read as its flag would be, under the setting's name."""
    if isinstance(value, bool) and action.nargs == "?" and action.type is str:
        # Of a flag that may stand alone and takes text too, such as --fsdp.
        return {action.dest: value}
    items = value if isinstance(value, list) else [value]
    several = action.nargs == "+"
    if not items or (len(items) > 1 and not several):
        raise InputError(f"{path}: {action.dest} takes {'one value or more' if several else 'one value'}.")
    found = [vars(parser.parse_known_args([_as_flag(action, item, path)])[0])[action.dest] for item in items]
    return {action.dest: [one for part in found for one in part] if several else found[0]}


def _as_flag(action: argparse.Action, value: Any, path: Path) -> str:
    if isinstance(value, dict):
        try:
            value = json.dumps(value)
        except (TypeError, ValueError):
            raise InputError(f"{path}: {action.dest} holds what is not JSON.") from None
    if value is None or isinstance(value, list | dict | bytes):
        raise InputError(f"{path}: {action.dest} holds something that is neither text nor a number.")
    if value is False and "no" in (action.choices or ()):
        # YAML reads an unquoted no as false.
        value = "no"
    if not is_unicode(str(value)):
        raise InputError(f"{path}: {action.dest} is not valid Unicode text.")
    return f"--{action.dest}={value}"


def _unknown(key: str, names: set[str], kind: str, place: str) -> str:
    """What to say of a name that is none; it is quoted where it is nearly one, for it may be an id."""
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.75)
    return f"there is no {kind} {key!r}; did you mean {nearest[0]!r}?" if nearest else f"{place} is no {kind}."
