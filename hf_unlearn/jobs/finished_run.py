"""The commands on a finished run: write its card again, publish it, and write the page for an auditor."""

from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from ..errors import InputError
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..files import require_ours, write_text
from ..lifecycle.audit_facts import look
from ..lifecycle.audit_page import render_page
from ..lifecycle.retained_dataset import publish_retained, retained_data
from ..output_folder import alone_in
from ..publishing.card import CARD_FILE, write_card
from ..publishing.publish import publish
from .console import print_published, terminal


def card(folder: Path) -> None:
    """Write the card of a finished run again, from its report."""
    report = UnlearningReport.load(folder / REPORT_FILE)
    with alone_in(folder):
        write_card(folder, report)
    print(f"Wrote {folder / CARD_FILE}.")


def push(
    folder: Path,
    hub_model_id: str | None,
    retained_dataset: str | None,
    *,
    dataset_name: str | None,
    digest_key_file: str | None,
    private: bool | None,
    push_to_existing: bool,
    **options: Any,
) -> None:
    """Publish a finished run, its data set without what was forgotten, or both.

    The model goes to ``hub_model_id`` with the ``options`` of :func:`~hf_unlearn.publishing.publish.publish`.
    """
    if hub_model_id is None and retained_dataset is None:
        raise InputError(
            "Where to? Name a repository with --hub_model_id for the model, or --retained_dataset for the data set."
        )
    if hub_model_id is None and any(options.values()):
        raise InputError("--hub_revision, --push_anyway and --tell_users_to_move are for the model; leave them out.")
    data = retained_data(folder, dataset_name, digest_key_file) if retained_dataset is not None else None
    if hub_model_id is not None:
        commit = publish(folder, hub_model_id, private=private, push_to_existing=push_to_existing, **options)
        print_published(terminal(), commit, UnlearningReport.load(folder / REPORT_FILE))
    if data is not None and retained_dataset is not None:
        done = publish_retained(
            data, retained_dataset, folder, private=bool(private), push_to_existing=push_to_existing
        )
        print(done)


def audit(place: str, output: Path, revision: str | None = None) -> None:
    """Write the HTML page about a finished run, from its output folder or from the repository on the Hub."""
    require_ours(output, "--output", "<title>Audit page: ")
    audited = look(place, revision)
    try:
        page = render_page(audited)
    except (LookupError, TypeError, ValueError, UndefinedError) as error:
        # Reading a report checks the types of its fields, not that they fit together.
        raise InputError(f"The report of {place} is incomplete: {error}") from error
    write_text(output, page)
    print(f"Wrote {output}.")
