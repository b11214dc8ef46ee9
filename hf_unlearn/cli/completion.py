"""``hf-unlearn --print-completion SHELL``: a script by which a shell completes commands, flags, choices and files."""

import argparse
from collections.abc import Iterable
from pathlib import Path

import shtab

from ..jobs.settings import SETTINGS
from .commands import COMMANDS, CONFIGURED
from .flags import fill
from .recipes import PLACES, _Parser

PLACES_AS = ("FILE", "FOLDER", "DATA", "MODEL", "DATASET")


def script(shell: str) -> str:
    """The script for ``bash`` or ``zsh``."""
    parser = argparse.ArgumentParser(prog="hf-unlearn")
    parser.add_argument("--version", action="store_true", help="show the version")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.summary)
        if name in CONFIGURED:
            settings = _Parser(SETTINGS[name], name)
            for action in settings._actions:
                if action.dest in settings.taken:
                    # Of two spellings the one that help shows.
                    action.option_strings = action.option_strings[:1]
                    own._add_action(action)
        else:
            fill(own, command)
        # Where a shell shows a description, it has one line for it.
        own.description = command.summary
        _tell_files(own._actions)
    return shtab.complete(parser, shell)


def _tell_files(actions: Iterable[argparse.Action]) -> None:
    """Let the shell complete the names of files where a flag takes one, and keep descriptions short."""
    for action in actions:
        metavar = str(action.metavar or "")
        if action.choices is None and (
            action.dest in (*PLACES, "config") or action.type is Path or any(one in metavar for one in PLACES_AS)
        ):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        if action.help not in (None, argparse.SUPPRESS):
            action.help = " ".join(str(action.help).split()).partition(". ")[0].replace("%", "%%")
