"""What there is to know about a finished run beside its report: its files, the ledger, and what became of the rest."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import resolve_revision, snapshot_download

from .derived import DerivedModel, DerivedReport, derived_models, unlearning_date
from .errors import InputError
from .evaluation.plots import PICTURES
from .evaluation.report import REPORT_FILE, UnlearningReport
from .hub_errors import hub_errors
from .ledger import LEDGER_FILE, Ledger, file_digest
from .lineage import ledger_of, weights_of
from .models import ModelSource

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class LedgerCheck:
    """What came of checking a ledger against the report and the weights beside it.

    Attributes:
        ledger: None where none was kept, or where it does not hold.
        trouble: why it does not hold, in a sentence.
    """

    ledger: Ledger | None
    trouble: str | None = None


@dataclass(frozen=True)
class DerivedCheck:
    """What came of looking for models that were made from the one before.

    Attributes:
        model: the one whose descendants were asked for; None where no repository of it is known.
        found: None where nobody could look.
        trouble: why nobody could, in a sentence.
    """

    model: str | None = None
    found: DerivedReport | None = None
    trouble: str | None = None

    @property
    def old(self) -> list[DerivedModel]:
        """Those that are not known to be younger than the unlearning."""
        models = self.found.models if self.found is not None else []
        return [model for model in models if not model.is_unlearned and model.before_unlearning is not False]


@dataclass(frozen=True)
class Audited:
    """What a page is about.

    Attributes:
        name: its Hub id, or the name of its folder.
        revision: its commit on the Hub; None for a folder.
        report: of the run.
        report_digest: SHA-256 of the file that it was read from.
        pictures: the PNGs beside it that can be shown, by name.
        weights: SHA-256 of each of the model's safetensors files, by name.
        ledger: the requests so far.
        derived: what was made from the model before.
    """

    name: str
    revision: str | None
    report: UnlearningReport
    report_digest: str
    pictures: dict[str, bytes]
    weights: dict[str, str]
    ledger: LedgerCheck
    derived: DerivedCheck


def look(place: str, revision: str | None = None) -> Audited:
    """Look at a finished run.

    Args:
        place: its output folder, or the repository it was published to.
        revision: a branch, tag or commit of the repository.

    Raises:
        InputError: there is no report there, or the Hub cannot be reached.
    """
    if Path(place).is_dir():
        source, folder = ModelSource(place), Path(place)
    else:
        with hub_errors(f"The model {place!r}"):
            source = ModelSource(place, resolve_revision(place, revision=revision).resolved)
            files = [REPORT_FILE, LEDGER_FILE, *PICTURES]
            folder = Path(snapshot_download(place, revision=source.revision, allow_patterns=files))
    report = UnlearningReport.load(folder / REPORT_FILE)
    if "unlearned" not in report.arms:
        raise InputError(f"The report of {place} holds nothing about the unlearned model.")
    contents = {name: (folder / name).read_bytes() for name in PICTURES if (folder / name).is_file()}
    return Audited(
        name=source.public_name,
        revision=source.revision,
        report=report,
        report_digest=file_digest(folder / REPORT_FILE),
        pictures={name: content for name, content in contents.items() if content.startswith(PNG)},
        weights=weights_of(source),
        ledger=_checked(source),
        derived=_derived(report, source),
    )


def _checked(source: ModelSource) -> LedgerCheck:
    try:
        return LedgerCheck(ledger_of(source))
    except InputError as error:
        return LedgerCheck(None, str(error))


def _derived(report: UnlearningReport, source: ModelSource) -> DerivedCheck:
    unlearned = None if source.is_local else source.name
    model = report.original.name if report.original is not None and report.original.on_hub else unlearned
    if model is None:
        return DerivedCheck()
    try:
        date = unlearning_date(report)
        return DerivedCheck(model, derived_models(model, unlearned=unlearned, unlearned_on=date))
    except InputError as error:
        return DerivedCheck(model, trouble=str(error))
