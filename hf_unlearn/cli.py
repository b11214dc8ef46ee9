"""The command line: ``hf-unlearn run --config recipe.yaml``.

Under several processes: ``accelerate launch --config_file … -m hf_unlearn.cli run --config recipe.yaml``.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from . import __version__
from .errors import InputError, in_one_line

USAGE = f"""hf-unlearn {__version__}: make a fine-tuned model forget records, and measure whether it did.

  hf-unlearn run        --config recipe.yaml   split, unlearn, measure, report, card (and publish: --push)
  hf-unlearn split      --config recipe.yaml   show what the request would do; nothing is trained
  hf-unlearn train      --config recipe.yaml   train the original model, with the record that later runs read
  hf-unlearn references --config recipe.yaml   train models that never saw the records, to compare a run with
  hf-unlearn evaluate   --config recipe.yaml   measure a model that another tool unlearned
  hf-unlearn attack     --config recipe.yaml   try to bring the records back: by training, rounding and asking
  hf-unlearn card       FOLDER                 write a finished run's model card again
  hf-unlearn push       FOLDER --hub_model_id owner/name   publish a finished run in one commit
  hf-unlearn plan       --epsilon 2            say how many models the proof of an epsilon needs, and their price

Each command has --help. The shortest run, for a customer who asks to be forgotten:

  hf-unlearn run --model_name_or_path acme/router --dataset_name acme/messages \\
    --forget_id_column customer_id --forget_ids ids.txt --output_dir router-unlearned
"""
CONFIGURED = ("run", "split", "train", "references", "evaluate", "attack")


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its name and flags; those of the process when None.

    Returns:
        The exit code: 0, 2 for input that cannot be used, 130 after Ctrl-C or SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    command, flags = argv[0], argv[1:]
    alone = os.environ.get("WORLD_SIZE", "1") == "1" and threading.current_thread() is threading.main_thread()
    if alone:
        # What schedulers send means the same as Ctrl-C. Under a launcher it ends a process that waits for a dead one.
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _dispatch(command, flags)
    except InputError as error:
        # All processes of a launch meet the same error; one of them says so.
        if os.environ.get("RANK", "0") == "0":
            print(f"hf-unlearn {in_one_line(command)}: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            rest = "goes on from the last checkpoint" if command in ("run", "train", "references") else "starts again"
            print(
                f"hf-unlearn {command}: interrupted{f', {error}' if str(error) else ''}. The same command {rest}.",
                file=sys.stderr,
            )
        return 130
    except Exception as error:
        from .faults import explain

        sentence = explain(error)
        if sentence is None:
            raise
        print(f"hf-unlearn {command}: {sentence}", file=sys.stderr)
        return 2
    finally:
        if alone:
            signal.signal(signal.SIGTERM, previous)
    return 0


def _dispatch(command: str, flags: list[str]) -> None:
    if command in CONFIGURED:
        from . import arguments, jobs
        from .hub_errors import hub_errors

        values = arguments.parse(command, flags)
        # Streamed records come while they are used, so the Hub can fail anywhere.
        with hub_errors(f"The data set {values.get('dataset_name')!r}"):
            {
                "run": jobs.run,
                "split": jobs.split,
                "train": jobs.train,
                "references": jobs.references,
                "evaluate": jobs.evaluate,
                "attack": jobs.attack,
            }[command](values)
    elif command == "card":
        folder = _card_parser().parse_args(flags).folder
        from . import jobs

        jobs.card(folder)
    elif command == "push":
        options = vars(_push_parser().parse_args(flags))
        from . import jobs

        jobs.push(options.pop("folder"), options.pop("hub_model_id"), **options)
    elif command == "plan":
        options = vars(_plan_parser().parse_args(flags))
        from . import plan

        plan.plan(options.pop("epsilon"), **options)
    else:
        raise InputError(
            f"there is no such command; the commands are {', '.join((*CONFIGURED, 'card', 'push', 'plan'))}."
        )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message}.")


def _card_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-unlearn card", description="Write a finished run's model card again, from its report.")
    parser.add_argument("folder", type=Path, help="the run's output folder")
    return parser


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
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
