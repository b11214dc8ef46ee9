"""What a command of ``hf-unlearn`` is."""

from dataclasses import dataclass, field
from typing import Any

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


DIGEST_KEY = argument("--digest_key_file", metavar="FILE", help="The key that the ledger was written with.")
