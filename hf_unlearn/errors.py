"""The exceptions that end a command with a sentence, and how it is shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """What the user asked for cannot be done; the message is one sentence that names the value and the cure.

    The command line prints it without a traceback and exits with code 2. Its text never holds a record or an id.
    """


class AlreadyForgotten(InputError):
    """All that was asked to be forgotten was forgotten before; there is nothing to do.

    The command line prints it as a result and exits with code 0.
    """


def in_one_line(text: object) -> str:
    """Text as a terminal can show it: line ends and control characters, as names may hold, are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


@contextmanager
def guarded(told: str | Callable[[], str]) -> Iterator[None]:
    """Run other people's code, such as a template or a collator, whose own errors may quote the records.

    ``told`` says in words what went wrong, and what to do. Raises InputError with them and the kind of the error; what
    the machine is to blame for goes on.
    """
    try:
        yield
    except (InputError, MemoryError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:
        words = told if isinstance(told, str) else told()
        raise InputError(f"{words} ({type(error).__name__}).") from None
