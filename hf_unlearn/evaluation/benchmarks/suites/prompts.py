"""The words that stand around the questions of a suite: ours, or those of a file.

The authors' own words are theirs, and are not here. Whoever has them can give them in a file.
"""

from collections.abc import Mapping
from pathlib import Path

from ....errors import InputError
from ....files import parse_json, require_file

QUERY = "{query}"
EXAMPLES = "{examples}"


def prompts_of(ours: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """The prompts of a suite.

    Args:
        ours: by the kind of question; each has ``{query}`` in it, and ``{examples}`` where ours has.
        file: a JSON object of some of these kinds with other words; None for ours.

    Raises:
        InputError: the file is no such object, names another kind, or a prompt lacks a field.
    """
    if file is None:
        return dict(ours)
    if not ours:
        raise InputError("The prompts of this suite cannot be changed; leave --prompts out.")
    require_file(file)
    try:
        given = parse_json(dict[str, str], file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"--prompts {file} must hold a JSON object of texts: {error}.") from None
    for kind, text in given.items():
        if kind not in ours:
            raise InputError(f"--prompts {file} names the kind {kind!r}; the kinds are {', '.join(ours)}.")
        for needed in (QUERY, EXAMPLES):
            if needed in ours[kind] and needed not in text:
                raise InputError(f"--prompts {file}: the prompt for {kind!r} must have {needed} in it.")
    return {**ours, **given}


def filled(prompt: str, query: str, examples: str = "") -> str:
    """A prompt with its question, which may itself have braces."""
    before, _, after = prompt.partition(QUERY)
    return before.replace(EXAMPLES, examples) + query + after
