"""The commands that take a folder or a repository and need no recipe: their flags, and what each starts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError

# What a command starts is imported when it runs: --help and errors in flags need no torch.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        told, colon, words = message.partition("unrecognized arguments: ")
        if colon:
            # A word that is no flag may be an id.
            flags = [word.partition("=")[0] for word in words.split() if word.startswith("--")]
            message = f"{told}{colon}{' '.join(flags) or 'a word that is no flag'}"
        raise InputError(f"{message}.")


# card


def _card_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-unlearn card", description="Write a finished run's model card again, from its report.")
    parser.add_argument("folder", type=Path, help="the run's output folder")
    return parser


def _card(folder: Path) -> None:
    from . import finishing

    finishing.card(folder)


# push


def _push_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-unlearn push", description="Publish a finished run in one commit, or its data set L.")
    parser.add_argument("folder", type=Path, help="the run's output folder")
    parser.add_argument("--hub_model_id", help="the model's repository, owner/name; created when missing")
    parser.add_argument(
        "--retained_dataset",
        help="publish, as this data set, D without all that the ledger says was to be forgotten; new ones are private "
        "unless D is public",
    )
    parser.add_argument("--dataset_name", help="D for it, where the run did not read it from the Hub")
    parser.add_argument("--digest_key_file", help="the key that the ledger was written with")
    parser.add_argument(
        "--hub_private_repo", dest="private", action="store_true", default=None, help="make it private"
    )
    parser.add_argument("--hub_revision", dest="revision", help="the branch")
    parser.add_argument("--push_anyway", action="store_true", help="also when not_forgotten or over_forgotten")
    parser.add_argument("--push_to_existing", action="store_true", help="also to a repository that has files already")
    return parser


def _push(**options: Any) -> None:
    from . import finishing

    finishing.push(**options)


# plan


def _plan_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-unlearn plan", description="Say how many models the proof of an epsilon needs, and what they cost."
    )
    parser.add_argument("--epsilon", type=float, required=True, help="the epsilon to prove more than")
    parser.add_argument("--delta", type=float, default=1e-5, help="delta of the definition; 1e-05 by default")
    parser.add_argument("--model_name_or_path", help="the original, whose training record says what a training costs")
    parser.add_argument("--model_revision", help="its branch, tag or commit on the Hub")
    parser.add_argument("--budget", type=float, help="what unlearning costs, as a fraction of a training")
    return parser


def _plan(epsilon: float, **options: Any) -> None:
    from . import plan

    plan.plan(epsilon, **options)


# ledger


def _ledger_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-unlearn ledger", description="What a model was made to forget so far.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="verify|show|prove")
    about = {
        "verify": "check the chain, and the report and the weights beside it",
        "show": "show each line",
        "prove": "say whether an id was forgotten, and by which run; exit code 1 where the ledger does not have it",
    }
    for action, told in about.items():
        one = actions.add_parser(action, help=told, description=f"{told[0].upper()}{told[1:]}.")
        one.add_argument("place", help="the model: a folder or Hub id")
        one.add_argument("--model_revision", dest="revision", help="its branch, tag or commit on the Hub")
        if action == "prove":
            one.add_argument("--id", dest="value", required=True, help="the id; it is not repeated")
            one.add_argument("--column", required=True, help="the column of the data set that held it")
            one.add_argument("--digest_key_file", help="the key that the ledger was written with")
    return parser


def _ledger(action: str, **options: Any) -> int | None:
    from . import ledger_commands

    actions: dict[str, Callable[..., int | None]] = {
        "verify": ledger_commands.verify,
        "show": ledger_commands.show,
        "prove": ledger_commands.prove,
    }
    return actions[action](**options)


COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[..., int | None]]] = {
    "card": (_card_parser, _card),
    "push": (_push_parser, _push),
    "ledger": (_ledger_parser, _ledger),
    "plan": (_plan_parser, _plan),
}
