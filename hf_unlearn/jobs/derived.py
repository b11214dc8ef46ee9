"""``hf-unlearn derived``: list what was made from a model on the Hub, and write what its owners could be told."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..errors import InputError
from ..files import require_ours, save_json, write_text
from ..lifecycle.derived_models import (
    SHOWN_MODELS,
    DerivedReport,
    _unlearning,
    derived_models,
    messages,
    unlearning_date,
)
from ..publishing.card import new_version
from ..publishing.sections import BEFORE_AND_AFTER
from .console import plain, table, terminal


def print_derived(console: Console, found: DerivedReport) -> None:
    """Show what was derived from a model, and what is left to do."""
    name = plain(found.model)
    if not found.is_visible:
        console.print(f"{name} cannot be looked into: it is private, disabled or deleted.")
    if found.models:
        console.print(_derived_table(found))
        if len(found.models) > SHOWN_MODELS:
            console.print(f"The first {SHOWN_MODELS} of {len(found.models):,}; --output writes them all.")
    else:
        console.print(f"No model that is shown to you names {name} as its base.")
    others = [model for model in found.models if not model.is_unlearned]
    if others and found.unlearned_on:
        old = sum(model.before_unlearning is True for model in others)
        console.print(f"{old:,} of {len(others):,} had no commit since the unlearning of {found.unlearned_on[:10]}.")
        console.print("A newer commit does not prove that a model was made again from the new weights.")
    for base in found.unseen:
        console.print(
            f"{plain(base.name)} cannot be looked into; {plain(', '.join(base.named_by))} name it as a base too."
        )
    direct = sum(model.generation == 1 for model in found.models)
    if found.counted is not None and found.counted > direct and found.missing is None:
        console.print(
            f"By the Hub's count {found.counted:,} name it, and {direct:,} are shown: others may be private."
        )
    if found.missing is not None:
        console.print(f"[bold red]This is not all:[/] {plain(found.missing)}")
    if found.unlearned is not None and found.unlearned != found.model:
        console.print(BEFORE_AND_AFTER)
        console.print(f"So that the page of {name} leads to the new model, add to the metadata on top of its card:")
        console.print(f"  {plain(new_version(found.unlearned))}")


def _derived_table(found: DerivedReport) -> Table:
    columns = {
        "model": "text", "gen.": "number", "relation": "word", "made from": "text", "created": "word",
        "last commit": "word", "downloads": "number", "": "word",
    }  # fmt: skip
    shown = table(f"Derived from {plain(found.model)}", columns)
    for model in found.models[:SHOWN_MODELS]:
        notes: list[str] = [] if model.access == "public" else [model.access]
        if model.is_unlearned:
            notes.append("the unlearned model")
        elif model.before_unlearning is not None:
            notes.append("[red]before the unlearning[/]" if model.before_unlearning else "since the unlearning")
        shown.add_row(
            plain(model.name),
            str(model.generation),
            plain(model.relation or ""),
            plain(", ".join(model.bases)),
            plain((model.created or "")[:10]),
            plain((model.last_commit or "")[:10]),
            "" if model.downloads is None else f"{model.downloads:,}",
            ", ".join(notes),
        )
    return shown


def derived(model: str, *, unlearned: str | None, output: Path | None, message: Path | None, max_models: int) -> None:
    """Show what was derived from a model on the Hub, and write what its owners could be told. Nothing is posted.

    The report is that of the ``unlearned`` model, a repository or an output folder; else it may lie beside the model.
    """
    if max_models < 1:
        raise InputError(f"--max_models {max_models} is not possible; it must be 1 or more.")
    if output is not None:
        require_ours(output, "--output", '"is_visible"')
    if message is not None:
        require_ours(message, "--message", "# Texts for the owners of models derived from ")
    name, report = _unlearning(model, unlearned)
    if message is not None and report is None:
        raise InputError("--message needs the report of the unlearning; name the unlearned model with --unlearned.")
    out = terminal()
    with out.status("Asking the Hub …") as status:
        found = derived_models(
            model,
            unlearned=name,
            unlearned_on=None if report is None else unlearning_date(report),
            max_models=max_models,
            watch=lambda looked, known: status.update(f"Looked at {looked:,} models; {known:,} are derived."),
        )
    print_derived(out, found)
    try:
        if output is not None:
            save_json(found, output)
            out.print(f"Wrote {plain(output)}.")
        if message is not None and report is not None:
            write_text(message, messages(found, report))
            out.print(f"Wrote {plain(message)}.")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}.") from None
