"""The page for an auditor: one HTML file with all that is known about a finished run and what came after it."""

import base64
import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..errors import in_one_line
from ..evaluation.plots import PICTURES, TITLES
from ..evaluation.report import REPORT_FILE
from ..evaluation.statistics import Estimate
from ..evaluation.verdict import ATTACKS
from ..evaluation.wording import OUTSIDE_ATTACKS, REFERENCE_NAMES, SET_NAMES, generation_rows, show
from ..models.tasks import TASKS
from ..models.training_record import software_versions
from ..publishing.card import method_of, reproducing_flags, shown_settings
from ..publishing.ledger import Erased, Event
from . import audit_words
from .audit_facts import Audited
from .derived_models import SHOWN_MODELS
from .erase_report import GIVES

COMMIT = re.compile("[0-9a-f]{40}")


# What is shown


def render_page(audited: Audited) -> str:
    """Render the page; it holds nothing that a browser would fetch or run."""
    report = audited.report
    return (
        _environment()
        .get_template("audit.html")
        .render(
            audited=audited,
            report=report,
            report_file=REPORT_FILE,
            words=audit_words,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            version=software_versions()["hf_unlearn"],
            arms=[arm for arm in TITLES if arm in report.arms],
            arm_names=TITLES,
            sets=[name for name in SET_NAMES if name in report.arms["unlearned"].sets],
            set_names=SET_NAMES,
            attack_names=ATTACKS | OUTSIDE_ATTACKS,
            reference_names=REFERENCE_NAMES,
            generation_rows=generation_rows(report),
            facts=TASKS[report.task],
            strength=row.strength if (row := method_of(report)) else "",
            ours=row.ours if row else "",
            erased=[event.report for event in _events(audited) if isinstance(event, Erased)],
            gives=GIVES,
            most_lines=SHOWN_MODELS,
            settings=shown_settings(report),
            flags=reproducing_flags(report),
            pictures={PICTURES[name]: _data_uri(content) for name, content in audited.pictures.items()},
            missing_pictures=[text for name, text in PICTURES.items() if name not in audited.pictures],
        )
    )


def _events(audited: Audited) -> tuple[Event, ...]:
    return audited.ledger.ledger.events if audited.ledger.ledger is not None else ()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hf_unlearn.publishing"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": _cell,
        "link": _link,
        "commit": _commit,
        "date": _date,
        "number": lambda value: f"{value:,}",
    }
    return environment


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
    """A name, as a link where it is one of a repository on the Hub.

    Args:
        name: of a model or data set.
        on_hub: whether it is known to be there.
        kind: ``datasets/`` for a data set.
    """
    shown = Markup("<bdi>{}</bdi>").format(in_one_line(name))
    if not (on_hub and is_repo_id(name)):
        return shown
    return Markup('<a href="https://huggingface.co/{}{}">{}</a>').format(kind, name, shown)


def _commit(sha: str | None, repo_id: str, kind: str = "") -> Markup:
    """A commit, as a link where repository and commit are possible ones."""
    if sha is None:
        return Markup('<span class="unknown">not known</span>')
    shown = Markup("<code>{}</code>").format(in_one_line(sha))
    if not (is_repo_id(repo_id) and COMMIT.fullmatch(sha)):
        return shown
    return Markup('<a href="https://huggingface.co/{}{}/tree/{}">{}</a>').format(kind, repo_id, sha, shown)


def is_repo_id(name: str) -> bool:
    """Whether a name is a possible one of a repository on the Hub, so that it can stand in an address."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.isascii()


def _data_uri(png: bytes) -> Markup:
    return Markup("data:image/png;base64,{}").format(base64.b64encode(png).decode())
