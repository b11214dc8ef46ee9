"""The one exception for input that cannot be used, and how its sentence is shown."""


class InputError(ValueError):
    """What the user asked for cannot be done; the message is one sentence that names the value and the cure.

    The command line prints it without a traceback and exits with code 2. Its text never holds a record or an id.
    """


def in_one_line(text: object) -> str:
    """Text as a terminal can show it: line ends and control characters, as names may hold, are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
