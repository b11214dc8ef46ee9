"""The commands that finish a run later: card and push."""

from pathlib import Path
from typing import Any

from jinja2 import UndefinedError
from rich.console import Console

from ..errors import InputError
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..files import write_text
from ..lifecycle.audit_facts import look
from ..lifecycle.audit_page import render_page
from ..lifecycle.retained_dataset import publish_retained, retained_data
from ..publishing.card import CARD_FILE, write_card
from ..publishing.publish import publish
from .console import print_published


def card(folder: Path) -> None:
    """Write the card of a finished run again, from its report."""
    write_card(folder, UnlearningReport.load(folder / REPORT_FILE))
    print(f"Wrote {folder / CARD_FILE}.")


def push(
    folder: Path,
    hub_model_id: str | None,
    retained_dataset: str | None,
    *,
    dataset_name: str | None = None,
    digest_key_file: str | None = None,
    private: bool | None = None,
    push_to_existing: bool = False,
    **options: Any,
) -> None:
    """Publish a finished run, its data set without what was forgotten, or both.

    Args:
        folder: of the run.
        hub_model_id: where the model goes (see :func:`~hf_unlearn.publishing.publish.publish`, also for ``options``).
        retained_dataset: where L goes; see :func:`~hf_unlearn.lifecycle.retained_dataset.publish_retained`.
        dataset_name, digest_key_file: see :func:`~hf_unlearn.lifecycle.retained_dataset.retained_data`.
        private: whether new repositories are private.
        push_to_existing: publish to repositories that have files already.
    """
    if hub_model_id is None and retained_dataset is None:
        raise InputError("Where to? Name a repository with --hub_model_id for the model or --retained_dataset for L.")
    if hub_model_id is None and any(options.values()):
        raise InputError("--hub_revision, --push_anyway and --tell_users_to_move are for the model; leave them out.")
    data = retained_data(folder, dataset_name, digest_key_file) if retained_dataset is not None else None
    if hub_model_id is not None:
        commit = publish(folder, hub_model_id, private=private, push_to_existing=push_to_existing, **options)
        print_published(Console(soft_wrap=True), commit, UnlearningReport.load(folder / REPORT_FILE))
    if data is not None and retained_dataset is not None:
        there = push_to_existing
        print(publish_retained(data, retained_dataset, folder, private=bool(private), push_to_existing=there))


def audit(place: str, output: Path, revision: str | None = None) -> None:
    """Write the page about a finished run.

    Args:
        place: the run's output folder, or the repository it was published to.
        output: the HTML file to write.
        revision: a branch, tag or commit of the repository.

    Raises:
        InputError: there is no report there, or the Hub cannot be reached.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise InputError(f"--output {output} is a folder, or in one that does not exist; name a file to write.")
    audited = look(place, revision)
    try:
        page = render_page(audited)
    except (LookupError, TypeError, ValueError, UndefinedError) as error:
        # A report is read with the types of its fields checked, and not that they fit together.
        raise InputError(f"The report of {place} says one thing without what belongs to it: {error}") from error
    write_text(output, page)
    print(f"Wrote {output}.")
