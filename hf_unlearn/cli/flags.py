"""Flags of the commands that take no recipe, and how help looks."""

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError
from .command import Command
from .commands import COMMANDS

# What argparse quotes of the command line, and what is said in its place.
QUOTING = (
    (r"invalid choice: .* \(choose from (.*)\)$", r"it must be one of \1"),
    (r"invalid choice: .* \(maybe you meant: .*$", r"there is no such choice"),
    (r"invalid int value: .*", "the value is no whole number"),
    (r"invalid float value: .*", "the value is no number"),
    (r"invalid (\w+) value: .*", r"the value is no \1"),
    (r"Truthy value expected: .*", "it takes true or false"),
    (r"ignored explicit argument .*", "it takes no value"),
    (r"ambiguous option: .*", "a flag is cut short, and several begin so; write it out"),
    (r"unrecognized arguments: .*", "there are words too many, or flags that this command does not know"),
)


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs, keeps indented examples as they are, and shows a flag under one spelling."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in paragraphs)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        if action.const is True:
            return action.option_strings[0]
        many = action.choices is not None and len(list(action.choices)) > 8
        metavar = "NAME" if many else self._get_default_metavar_for_optional(action)
        return f"{action.option_strings[0]} {metavar if many else self._format_args(action, metavar)}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS) or not action.option_strings:
            return action.help
        return f"{action.help} (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are sentences that quote no id."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{without_values(message)}.")


def without_values(message: str) -> str:
    """What argparse says, without the word that it cannot read, which may be an id."""
    for found, told in QUOTING:
        message = re.sub(found, told, message, flags=re.DOTALL)
    return message


def is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8 and name a file: half a surrogate pair and NUL cannot."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def check_words(argv: list[str]) -> None:
    """Raise InputError for bytes of a file name that are not UTF-8, which neither a report nor a card could hold."""
    for number, word in enumerate(argv, start=1):
        # The word itself may be an id.
        if not is_unicode(word):
            raise InputError(f"Word {number} of the command line is not valid UTF-8 text; rename what it stands for.")


def check_place(name: str, value: str | Path) -> None:
    """Raise InputError for a value by which no file could be named, as it is too long."""
    try:
        Path(value).exists()
    except OSError as error:
        raise InputError(f"{name} {str(value)[:80]!r} cannot be looked for: {error.strerror}.") from None


def parse(name: str, flags: list[str]) -> tuple[str, dict[str, Any]]:
    """Read the flags of a command without a recipe; gives its job and what the job is called with."""
    command = COMMANDS[name]
    check_words(flags)
    parser = CommandParser(prog=f"hf-unlearn {name}", formatter_class=HelpFormatter)
    fill(parser, command)
    values = vars(parser.parse_args(flags))
    for flag, value in values.items():
        # An id and its column are no places.
        if isinstance(value, str | Path) and flag not in ("job", "value", "column"):
            check_place(flag, value)
    return values.pop("job"), values


def fill(parser: argparse.ArgumentParser, command: Command) -> None:
    """Give a parser what a command takes, and a parser to each of its actions."""
    parser.description = command.about or f"{command.summary[0].upper()}{command.summary[1:]}."
    parser.set_defaults(job=command.job)
    for names, options in command.arguments:
        parser.add_argument(*names, **options)
    if command.actions:
        actions = parser.add_subparsers(required=True, metavar="|".join(command.actions))
        for word, action in command.actions.items():
            fill(actions.add_parser(word, help=action.summary, formatter_class=HelpFormatter), action)
