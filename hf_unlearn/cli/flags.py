"""Flags of the commands that take no recipe, and how help looks."""

import argparse
import textwrap
from typing import Any, NoReturn

from ..errors import InputError
from .commands import COMMANDS, Command


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
        before, colon, words = message.partition("unrecognized arguments: ")
        if colon:
            # A word that is no flag may be an id.
            flags = [word.partition("=")[0] for word in words.split() if word.startswith("--")]
            message = f"{before}{colon}{' '.join(flags) or 'a word that is no flag'}"
        raise InputError(f"{message}.")


def parse(name: str, flags: list[str]) -> tuple[str, dict[str, Any]]:
    """Read the flags of a command without a recipe; gives its job and what the job is called with."""
    command = COMMANDS[name]
    parser = CommandParser(prog=f"hf-unlearn {name}", formatter_class=HelpFormatter)
    _fill(parser, command)
    if command.actions:
        actions = parser.add_subparsers(required=True, metavar="|".join(command.actions))
        for word, action in command.actions.items():
            _fill(actions.add_parser(word, help=action.summary, formatter_class=HelpFormatter), action)
    values = vars(parser.parse_args(flags))
    return values.pop("job"), values


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.description = command.about or f"{command.summary[0].upper()}{command.summary[1:]}."
    parser.set_defaults(job=command.job)
    for names, options in command.arguments:
        parser.add_argument(*names, **options)
