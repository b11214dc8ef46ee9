"""What a command is, and words of the command line that stand for the lines of a file."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import require_file

Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    """A command of ``hf-unlearn``.

    Attributes:
        job: the module of ``hf_unlearn.jobs`` and the function in it. The module is imported when the command runs, so
            that ``--help`` and errors in flags need no torch.
        usage: what follows the name of the command.
        summary: one line for ``hf-unlearn --help``.
        about: the text of ``hf-unlearn COMMAND --help``; the summary where it is empty.
        arguments: none for a command that takes a recipe; its flags are the settings in ``hf_unlearn.jobs.settings``.
        actions: the words of which one follows the name of the command.
        resumes: what the same command does after an interruption.
    """

    job: str
    usage: str
    summary: str
    about: str = ""
    arguments: tuple[Argument, ...] = ()
    actions: dict[str, "Command"] = field(default_factory=dict)
    resumes: str = "starts again"


def argument(*names: str, **options: Any) -> Argument:
    """An argument, as for ``argparse``."""
    return names, options


def hidden_words(flag: str, word: str) -> list[str]:
    """What a word of the command line stands for, which all users of a machine can read in its list of processes.

    ``@FILE`` stands for the lines of a file, and ``-`` for those of standard input; any other word for itself. Raises
    InputError where they cannot be read, or there are none.
    """
    if word != "-" and not word.startswith("@"):
        return [word]
    place = "standard input" if word == "-" else word[1:]
    if word == "-" and os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(f"{flag} - is read by one process alone, and several run; write a file, and name it @FILE.")
    try:
        if word != "-":
            require_file(Path(place))
        text = sys.stdin.read() if word == "-" else Path(place).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        # It may be an id that begins with @.
        raise InputError(
            f"The file that {flag} names after @ cannot be read: {reason}. For an id that begins with @, write the id "
            "into a file."
        ) from None
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise InputError(
            f"{flag} finds nothing in {'standard input' if word == '-' else 'its file'}; write one a line."
        )
    return lines


DIGEST_KEY = argument("--digest_key_file", metavar="FILE", help="The key that the ledger was written with.")
