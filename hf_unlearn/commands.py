"""The commands that take a folder or a repository and need no recipe: their flags, and what each starts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError

# What a command starts is imported when it runs: --help and errors in flags need no torch.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message}.")


# card


def _card_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-unlearn card", description="Write a finished run's model card again, from its report.")
    parser.add_argument("folder", type=Path, help="the run's output folder")
    return parser


def _card(folder: Path) -> None:
    from . import jobs

    jobs.card(folder)


# push


def _push_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-unlearn push", description="Publish a finished run in one commit.")
    parser.add_argument("folder", type=Path, help="the run's output folder")
    parser.add_argument("--hub_model_id", required=True, help="the repository, owner/name; created when missing")
    parser.add_argument(
        "--hub_private_repo", dest="private", action="store_true", default=None, help="make it private"
    )
    parser.add_argument("--hub_revision", dest="revision", help="the branch")
    parser.add_argument("--push_anyway", action="store_true", help="also when not_forgotten or over_forgotten")
    parser.add_argument("--push_to_existing", action="store_true", help="also to a repository that has files already")
    parser.add_argument(
        "--tell_users_to_move", action="store_true", help="ask users of the original, in the card, to move to this one"
    )
    return parser


def _push(folder: Path, hub_model_id: str, **options: Any) -> None:
    from . import jobs

    jobs.push(folder, hub_model_id, **options)


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


# derived


def _derived_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-unlearn derived",
        description="List what was derived from a model on the Hub, over all generations; nothing is posted.",
    )
    parser.add_argument("model", help="the model, owner/name; it need not be there any more")
    parser.add_argument(
        "--unlearned",
        help="the unlearned model, owner/name or its output folder, whose report says what was unlearned and when; by "
        "default the model itself where it has such a report",
    )
    parser.add_argument("--output", type=Path, help="write the list there, as JSON")
    parser.add_argument("--message", type=Path, help="write a text for each owner there, as Markdown")
    parser.add_argument("--max_models", type=int, default=1000, help="find so many at most; 1000 by default")
    return parser


def _derived(model: str, **options: Any) -> None:
    from . import derived

    derived.derived(model, **options)


# audit


def _audit_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-unlearn audit",
        description="Write one HTML page for an auditor: the request, what was done, the evidence, and what is left.",
    )
    parser.add_argument("place", metavar="REPO|FOLDER", help="the run's output folder, or the repository on the Hub")
    parser.add_argument("--output", type=Path, default=Path("audit.html"), help="the file; audit.html by default")
    parser.add_argument("--revision", help="a branch, tag or commit of the repository")
    return parser


def _audit(place: str, **options: Any) -> None:
    from . import audit_page

    audit_page.audit(place, **options)


COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[..., None]]] = {
    "card": (_card_parser, _card),
    "push": (_push_parser, _push),
    "plan": (_plan_parser, _plan),
    "derived": (_derived_parser, _derived),
    "audit": (_audit_parser, _audit),
}
