"""The command line: ``hf-unlearn run --config recipe.yaml``.

Under several processes: ``accelerate launch --config_file … -m hf_unlearn.cli run --config recipe.yaml``.
"""

import os
import signal
import sys
import threading

from .. import __version__
from ..errors import AlreadyHonoured, InputError, in_one_line
from .commands import COMMANDS

USAGE = f"""hf-unlearn {__version__}: make a fine-tuned model forget records, and measure whether it did.

  hf-unlearn run        --config recipe.yaml   split, unlearn, measure, report, card (and publish: --push)
  hf-unlearn split      --config recipe.yaml   show what the request would do; nothing is trained
  hf-unlearn train      --config recipe.yaml   train the original model, with the record that later runs read
  hf-unlearn alternates --config recipe.yaml   let a model make up other answers to the records, for the method altpo
  hf-unlearn references --config recipe.yaml   train models that never saw the records, to compare a run with
  hf-unlearn evaluate   --config recipe.yaml   measure a model that another tool unlearned
  hf-unlearn attack     --config recipe.yaml   try to bring the records back: by training, rounding and asking
  hf-unlearn card       FOLDER                 write a finished run's model card again
  hf-unlearn push       FOLDER --hub_model_id owner/name   publish a finished run in one commit
  hf-unlearn ledger     show FOLDER|REPO       show what a model was made to forget so far; also verify and prove
  hf-unlearn erase      REPO                   take the old weights away, on the Hub or (--cache) on this machine
  hf-unlearn derived    owner/name             list what was derived from a model on the Hub, with texts for the owners
  hf-unlearn audit      REPO|FOLDER            write one HTML page about a finished run for an auditor
  hf-unlearn plan       --epsilon 2            say how many models the proof of an epsilon needs, and their price

Each command has --help. The shortest run, for a customer who asks to be forgotten:

  hf-unlearn run --model_name_or_path acme/router --dataset_name acme/messages \\
    --forget_id_column customer_id --forget_ids ids.txt --output_dir router-unlearned
"""
CONFIGURED = ("run", "split", "train", "alternates", "references", "evaluate", "attack")


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its name and flags; those of the process when None.

    Returns:
        The exit code: 0, 1 for a finding that is not as asked (``ledger prove``), 2 for input that cannot be used, 130
        after Ctrl-C or SIGTERM.
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
        return _dispatch(command, flags)
    except AlreadyHonoured as honoured:
        if os.environ.get("RANK", "0") == "0":
            print(in_one_line(honoured))
        return 0
    except InputError as error:
        # All processes of a launch meet the same error; one of them says so.
        if os.environ.get("RANK", "0") == "0":
            print(f"hf-unlearn {in_one_line(command)}: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            rest = "goes on from the last checkpoint" if command in ("run", "train", "references") else "starts again"
            if command in ("erase", "alternates"):
                rest = "goes on from there"
            print(
                f"hf-unlearn {command}: interrupted{f', {error}' if str(error) else ''}. The same command {rest}.",
                file=sys.stderr,
            )
        return 130
    except Exception as error:
        from ..machine_faults import explain

        sentence = explain(error)
        if sentence is None:
            raise
        print(f"hf-unlearn {command}: {sentence}", file=sys.stderr)
        return 2
    finally:
        if alone:
            signal.signal(signal.SIGTERM, previous)


def _dispatch(command: str, flags: list[str]) -> int:
    if command in CONFIGURED:
        from ..hub_access import hub_errors
        from ..jobs import (
            alternates,
            attacking,
            evaluating,
            preparation,
            reference_models,
            training_runs,
            unlearning,
        )
        from . import recipes

        values = recipes.parse(command, flags)
        # Streamed records come while they are used, so the Hub can fail anywhere.
        with hub_errors(f"The data set {values.get('dataset_name')!r}"):
            {
                "run": unlearning.run,
                "split": preparation.split,
                "train": training_runs.train,
                "alternates": alternates.alternates,
                "references": reference_models.references,
                "evaluate": evaluating.evaluate,
                "attack": attacking.attack,
            }[command](values)
        return 0
    if command in COMMANDS:
        parser, run = COMMANDS[command]
        return run(**vars(parser().parse_args(flags))) or 0
    raise InputError(f"there is no such command; the commands are {', '.join((*CONFIGURED, *COMMANDS))}.")
