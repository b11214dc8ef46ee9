"""The command line: ``hf-unlearn run --config recipe.yaml``.

Under several processes: ``accelerate launch --config_file … -m hf_unlearn.cli run --config recipe.yaml``.
"""

import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from .. import __version__
from ..errors import AlreadyForgotten, InputError, in_one_line
from . import help_pages
from .commands import COMMANDS, CONFIGURED
from .flags import parse

# EX_SOFTWARE of sysexits.h.
UNFORESEEN = 70

NEWCOMER = """\
`hf-unlearn init` asks for a model, data and ids, and writes a recipe. The shortest run without one:

  hf-unlearn run --model_name_or_path acme/router --dataset_name acme/messages \\
    --forget_id_column customer_id --forget_ids ids.txt --output_dir unlearned

A recipe is a YAML file with the same names as the flags; flags win over it. `hf-unlearn COMMAND --help` explains a
command. With --debug an error comes with its details, which may show records. With --verbose the libraries may log and
warn, too. --print-completion bash (or zsh) prints a script for your shell, which completes commands and flags."""

COMPLETION = "--print-completion"

LONG_WORD, SHOWN_OF_LONG = re.compile(r"\S{250,}"), 80


def usage() -> str:
    """The text of ``hf-unlearn --help``."""
    shown = {f"{name} {command.usage}": command.summary for name, command in COMMANDS.items()}
    lines = "\n".join(f"  hf-unlearn {call:<39} {summary}" for call, summary in shown.items())
    title = f"hf-unlearn {__version__}: make a fine-tuned model forget records, and measure whether it did."
    return f"{title}\n\n{lines}\n\n{NEWCOMER}"


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its name and flags; those of the process when None.

    Returns:
        The exit code: 0, 1 for a finding that is not as asked (``ledger prove``), 2 for input that cannot be used, 70
        for an error that nobody foresaw, 130 after Ctrl-C or SIGTERM, 141 where nobody reads the output any more.
    """
    try:
        try:
            return _run(argv)
        finally:
            # Help leaves by SystemExit, and at its own exit Python would say that a pipe is broken.
            sys.stdout.flush()
    except BrokenPipeError:
        # As https://docs.python.org/3/library/signal.html#note-on-sigpipe says. Its code 1 would be a finding here.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 128 + signal.SIGPIPE


def _run(argv: list[str] | None) -> int:
    """As :func:`main`; raises BrokenPipeError where nobody reads the output any more."""
    if argv is None:
        # What trackers record of a process is its words, and ids may be among them.
        argv, sys.argv = sys.argv[1:], sys.argv[:2]
        if "--verbose" not in argv:
            _quieten_libraries()
    argv, debug = _without_debug([word for word in argv if word != "--verbose"])
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
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
    except AlreadyForgotten as finding:
        if os.environ.get("RANK", "0") == "0":
            print(in_one_line(finding))
        return 0
    except InputError as error:
        # All processes of a launch meet the same error; one of them says so.
        if os.environ.get("RANK", "0") == "0":
            _tell(command, str(error), error if debug else None)
        return 2
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            why = f", {error}" if str(error) else ""
            again = COMMANDS[command].resumes if command in COMMANDS else "starts again"
            print(f"hf-unlearn {command}: interrupted{why}. The same command {again}.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        from ..machine_faults import explain

        sentence = explain(error)
        code = 2 if sentence is not None else UNFORESEEN
        if sentence is None:
            # Its own words may be those of a record.
            place = traceback.extract_tb(error.__traceback__)[-1]
            sentence = (
                f"an error that was not foreseen, {type(error).__name__} in {os.path.basename(place.filename)}, line "
                f"{place.lineno}. With --debug the same command shows its details, which may hold records."
            )
        _tell(command, sentence, error if debug else None)
        return code
    finally:
        if alone:
            signal.signal(signal.SIGTERM, previous)


def _shown(text: object) -> str:
    """A sentence on one line, in which no value from outside is so long that it hides the rest."""
    return LONG_WORD.sub(lambda word: f"{word[0][:SHOWN_OF_LONG]}…", in_one_line(text))


def _quieten_libraries() -> None:
    """Show of what libraries say errors alone, also in child processes, unless the environment asks for more."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _without_debug(argv: list[str]) -> tuple[list[str], bool]:
    """The words without ``--debug``, and whether it was among them; before a value it is a flag of transformers."""
    alone = [
        i for i, word in enumerate(argv) if word == "--debug" and (i + 1 == len(argv) or argv[i + 1].startswith("--"))
    ]
    return [word for i, word in enumerate(argv) if i not in alone], bool(alone)


def _tell(command: str, sentence: str, shown: BaseException | None) -> None:
    """Say what went wrong in one sentence, and before it all about the errors that it came from, if they are shown."""
    while shown is not None:
        lines = "".join(traceback.format_exception(shown, chain=False)).splitlines()
        print("\n".join(map(in_one_line, lines)), end="\n\n", file=sys.stderr)
        shown = shown.__cause__ or shown.__context__
    print(f"hf-unlearn {_shown(command)}: {_sentence(sentence)}", file=sys.stderr)


def _sentence(error: object) -> str:
    """An error as a sentence, also where it ends in what a library said."""
    shown = _shown(error).rstrip()
    return shown if shown.endswith((".", "?", "!", "…")) else f"{shown}."


def _dispatch(command: str, flags: list[str]) -> int:
    if command == COMPLETION:
        if flags not in (["bash"], ["zsh"]):
            raise InputError("it takes the name of a shell: bash or zsh.")
        from .completion import script

        print(script(flags[0]))
        return 0
    if command not in COMMANDS:
        raise InputError(f"there is no such command; the commands are {', '.join(COMMANDS)}.")
    if command not in CONFIGURED:
        name, values = parse(command, flags)
        return job(name)(**values) or 0
    if {"-h", "--help"} & set(flags) and "all" not in flags:
        # Without the settings, whose parser takes torch.
        print(help_pages.help_page(command), end="")
        raise SystemExit(0)
    with _loading(command):
        from ..hub_access import hub_errors
        from ..jobs.helping.live import live
        from . import recipes

        values = recipes.parse(command, flags)
        do = job(COMMANDS[command].job)
    # Streamed records come while they are used, so the Hub can fail anywhere.
    with hub_errors(f"The data set {values.get('dataset_name')!r}"), live():
        do(values)
    return 0


@contextmanager
def _loading(command: str) -> Iterator[None]:
    """Say on a terminal that the libraries load, which takes seconds; the line goes when they have."""
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield
        return
    print(f"hf-unlearn {command}: loading torch and transformers ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def job(name: str) -> Callable[..., Any]:
    """The function that a command names in the table."""
    module, _, function = name.rpartition(".")
    return vars(import_module(f"..jobs.{module}", __package__))[function]
