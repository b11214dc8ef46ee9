"""Templates of cards, pages and messages, in which nothing from outside becomes markup."""

import json
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..errors import in_one_line
from ..evaluation.wording import show

MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~&$"})


@cache
def environment() -> Environment:
    """Where templates are rendered, with filters that show text from outside and let it do nothing."""
    made = Environment(
        loader=PackageLoader("hf_unlearn.publishing"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "md": _escape,
        "code": _in_code,
        "python": _in_python,
        "show": show,
        "number": lambda value: f"{value:,}",
    }
    return made


def _in_python(text: str) -> str:
    """Text as a literal of Python, on one line."""
    return json.dumps(text, ensure_ascii=False)


def _in_code(text: str) -> str:
    """Text from outside as Markdown's code, also in a table."""
    return "`" + in_one_line(text).replace("`", "'").replace("|", "\\|") + "`"


def _escape(text: str) -> str:
    """Text from outside, with nothing in it that Markdown or HTML would act on."""
    return in_one_line(" ".join(str(text).split())).translate(MARKUP)
