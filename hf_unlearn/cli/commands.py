"""The commands that take a folder or a repository and need no recipe: their flags, and what each starts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError

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
    from ..jobs import finished_run

    finished_run.card(folder)


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
    parser.add_argument(
        "--tell_users_to_move", action="store_true", help="ask users of the original, in the card, to move to this one"
    )
    return parser


def _push(**options: Any) -> None:
    from ..jobs import finished_run

    finished_run.push(**options)


# erase


def _erase_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-unlearn erase",
        usage="hf-unlearn erase [REPO] [--yes], or hf-unlearn erase --cache [REPO ...] [--output_dir FOLDER] [--yes]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Erase what a repository on the Hub was before its model forgot: every older commit, branch and tag, and the large files
that main does not use. Only the files of main stay, in one commit.

  hf-unlearn erase acme/router
      shows what would go, what would stay, and what no program can delete
  hf-unlearn erase acme/router --yes
      does it, once you have typed the repository's name, and then tries to download each old revision and file; what
      still answers is listed, and erasure_report.json is committed, with a line in the ledger where there is one
  hf-unlearn erase --cache acme/router --output_dir out
      shows the old copies on this machine: revisions in the Hub's cache other than the newest unlearned one, tables of
      the data set, and what the run in that folder wrote before its verdict; --yes deletes them

It cannot be undone. Interrupted, the same command goes on from where it was. The verdict on main must be exact,
certified or not_distinguished, and the repository must be yours. A data set has no verdict: make sure that its main
branch holds what stays. Tags are deleted, and so are branches whose files are not those of main.""",
    )
    parser.add_argument("repos", nargs="*", metavar="REPO", help="owner/name")
    parser.add_argument("--repo_type", choices=("model", "dataset"), default="model", help="what it holds; model")
    act = parser.add_mutually_exclusive_group()
    act.add_argument("--dry_run", action="store_true", help="show what would go, and change nothing; the default")
    act.add_argument("--yes", action="store_true", help="do it")
    parser.add_argument("--confirm", metavar="REPO", help="its name once more, where nobody can type it")
    parser.add_argument("--whatever_the_verdict", action="store_true", help="also when it did not forget, or unknown")
    parser.add_argument("--output", type=Path, metavar="FILE", help="keep the report here too")
    parser.add_argument("--cache", action="store_true", help="on this machine, not on the Hub")
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER", help="with --cache: a finished run's folder")
    return parser


def _erase(repos: list[str], cache: bool, dry_run: bool, output_dir: Path | None, **options: Any) -> None:
    if cache:
        from ..jobs import erasing

        yes, repo_type = options.pop("yes"), options.pop("repo_type")
        if any(options.values()):
            raise InputError("--confirm, --whatever_the_verdict and --output are for the Hub, not for --cache.")
        erasing.erase_on_this_machine(repos, repo_type=repo_type, output_dir=output_dir, yes=yes)
        return
    if len(repos) != 1:
        raise InputError("Which repository? Name one, as in `hf-unlearn erase owner/name`.")
    if output_dir is not None:
        raise InputError("--output_dir is for --cache; a repository on the Hub needs its name only.")
    from ..jobs import erasing

    erasing.erase_on_hub(repos[0], **options)


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
    from ..jobs import epsilon_plan

    epsilon_plan.plan(epsilon, **options)


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
    from ..jobs import ledger

    actions: dict[str, Callable[..., int | None]] = {
        "verify": ledger.verify,
        "show": ledger.show,
        "prove": ledger.prove,
    }
    return actions[action](**options)


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
    from ..jobs import derived

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
    from ..jobs import finished_run

    finished_run.audit(place, **options)


COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[..., int | None]]] = {
    "card": (_card_parser, _card),
    "push": (_push_parser, _push),
    "ledger": (_ledger_parser, _ledger),
    "erase": (_erase_parser, _erase),
    "plan": (_plan_parser, _plan),
    "derived": (_derived_parser, _derived),
    "audit": (_audit_parser, _audit),
}
