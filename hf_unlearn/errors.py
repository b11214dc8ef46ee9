"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """What the user asked for cannot be done; the message is one sentence that names the value and the cure.

    The command line prints it without a traceback and exits with code 2. Its text never holds a record or an id.
    """
