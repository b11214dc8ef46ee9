"""Templates of cards, pages and messages, in which nothing from outside becomes markup."""

import json
import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..errors import in_one_line
from ..evaluation.statistics import Estimate
from ..evaluation.wording import show
from ..hub_access import is_repository_name

MARKUP = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#~&$"})
COMMIT = re.compile("[0-9a-f]{40}")


@cache
def environment(*, html: bool = False) -> Environment:
    """Where templates are rendered, in Markdown or in HTML, with filters that keep text from outside harmless."""
    made = Environment(
        loader=PackageLoader("hf_unlearn.publishing"),
        autoescape=html,
        undefined=StrictUndefined,
        finalize=_shown if html else None,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": lambda value: f"{value:,}", "count": _count}
    made.filters |= (
        {"cell": _cell, "link": _link, "commit": _commit, "date": _date}
        if html
        else {"md": _escape, "code": _in_code, "python": _in_python, "show": show}
    )
    return made


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


# Markdown


def _in_python(text: str) -> str:
    """Text as a literal of Python, on one line."""
    return json.dumps(text, ensure_ascii=False)


def _in_code(text: str) -> str:
    """Text from outside as Markdown's code, also in a table."""
    return "`" + in_one_line(text).replace("`", "'").replace("|", "\\|") + "`"


def _escape(text: str) -> str:
    """Text from outside, with nothing in it that Markdown or HTML would act on."""
    return in_one_line(" ".join(str(text).split())).translate(MARKUP)


# HTML


def _shown(value: Any) -> Any:
    """A value from outside with nothing in it that turns or hides the text around it; jinja escapes the rest."""
    if value is None:
        raise TypeError("What is unknown has to be said in words.")
    return value if isinstance(value, Markup) else in_one_line(value)


def _cell(estimate: Estimate | None, digits: int = 3) -> Markup:
    """A number with its interval, for a table."""
    text = show(estimate, digits)
    if not text:
        return Markup('<span class="unknown">not measured</span>')
    value, _, interval = text.partition(" ")
    return Markup('{} <span class="interval">{}</span>').format(value, interval)


def _date(iso: str) -> str:
    """A time as people write it; as it is where it is not in ISO 8601."""
    try:
        time = datetime.fromisoformat(iso).astimezone(UTC)
    except ValueError:
        return iso
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def _link(name: str, on_hub: bool = True, kind: str = "") -> Markup:
    """The name of a model, or with the kind ``datasets/`` of a data set, as a link where it is one on the Hub."""
    shown = Markup("<bdi>{}</bdi>").format(in_one_line(name))
    if not (on_hub and is_repository_name(name)):
        return shown
    return Markup('<a href="https://huggingface.co/{}{}">{}</a>').format(kind, name, shown)


def _commit(sha: str | None, repo_id: str, kind: str = "") -> Markup:
    """A commit, as a link where repository and commit are possible ones."""
    if sha is None:
        return Markup('<span class="unknown">not known</span>')
    shown = Markup("<code>{}</code>").format(in_one_line(sha))
    if not (is_repository_name(repo_id) and COMMIT.fullmatch(sha)):
        return shown
    return Markup('<a href="https://huggingface.co/{}{}/tree/{}">{}</a>').format(kind, repo_id, sha, shown)
