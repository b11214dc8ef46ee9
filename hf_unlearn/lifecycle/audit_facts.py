"""All that the page says of a finished run beside its report: files, ledger, old weights, derived models."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, resolve_revision, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import InputError
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..evaluation.wording import PICTURES
from ..hub_access import hub_errors
from ..models.location import ModelSource
from ..output_folder import known_settings
from ..publishing.ledger import LEDGER_FILE, Ledger, file_digest
from ..publishing.ledger_of_model import ledger_of, weights_of
from .derived_models import DerivedModel, DerivedReport, derived_models, unlearning_date
from .erase_report import ERASURE_FILE, ErasureReport

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class LedgerCheck:
    """A ledger, checked against the report and the weights beside it.

    Attributes:
        ledger: None where none was kept, or where it does not hold.
        trouble: why it does not hold, in a sentence.
    """

    ledger: Ledger | None
    trouble: str | None = None


@dataclass(frozen=True)
class Erasure:
    """The record of an erasure, and the SHA-256 of its file, by which the ledger names it."""

    report: ErasureReport
    digest: str


@dataclass(frozen=True)
class OldWeights:
    """What became of the old weights.

    Attributes:
        repo: the repository that has or had them; None where none is known.
        still_shown: whether the Hub still shows the commit of the original model; None where nobody could ask.
        erasures: those that are recorded beside the model and in that repository.
        trouble: why not all of this could be looked at, in a sentence.
    """

    repo: str | None = None
    still_shown: bool | None = None
    erasures: tuple[Erasure, ...] = ()
    trouble: str | None = None

    @property
    def gone(self) -> bool:
        """Whether an erasure in that repository came to its end, and nothing that it looked for answered."""
        done = [e.report for e in self.erasures if e.report.repo == self.repo and e.report.finished is not None]
        return not self.still_shown and any(not report.still_answers for report in done)


@dataclass(frozen=True)
class DerivedCheck:
    """Models that were made from the original model.

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
        report_digest: SHA-256 of the file that the report was read from.
        pictures: the PNGs beside it that can be shown, by name.
        weights: SHA-256 of each of the model's safetensors files, by name.
        places: the settings of the run with the folders of this machine; empty for a published one.
    """

    name: str
    revision: str | None
    report: UnlearningReport
    report_digest: str
    pictures: dict[str, bytes]
    weights: dict[str, str]
    ledger: LedgerCheck
    old_weights: OldWeights
    derived: DerivedCheck
    places: dict[str, Any] = field(default_factory=dict)


def look(place: str, revision: str | None = None) -> Audited:
    """Look at a finished run, in its output folder or at a revision of the repository that it was published to.

    Raises InputError when there is no report there, or the Hub cannot be reached.
    """
    if Path(place).is_dir():
        source, folder = ModelSource(place), Path(place)
    else:
        with hub_errors(f"The model {place!r}"):
            source = ModelSource(place, resolve_revision(place, revision=revision).resolved)
            files = [REPORT_FILE, LEDGER_FILE, ERASURE_FILE, *PICTURES]
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
        old_weights=_old_weights(report, source, folder / ERASURE_FILE),
        derived=_derived(report, source),
        places=known_settings(folder),
    )


def _checked(source: ModelSource) -> LedgerCheck:
    try:
        return LedgerCheck(ledger_of(source))
    except InputError as error:
        return LedgerCheck(None, str(error))


def _old_weights(report: UnlearningReport, source: ModelSource, record: Path) -> OldWeights:
    old = report.original if report.original is not None and report.original.on_hub else None
    repo = old.name if old is not None else None if source.is_local else source.name
    found, still_shown = [], None
    try:
        if record.is_file():
            found.append(_erasure(record))
        if old is not None:
            with hub_errors(f"The model {old.name!r}"):
                still_shown = None if old.revision is None else _is_shown(old.name, old.revision)
                if old.name != source.name and (path := _published_record(old.name)) is not None:
                    found.append(_erasure(path))
    except InputError as error:
        return OldWeights(repo, still_shown, tuple(found), str(error))
    return OldWeights(repo, still_shown, tuple(found))


def _erasure(path: Path) -> Erasure:
    return Erasure(ErasureReport.read(path.read_bytes()), file_digest(path))


def _is_shown(repo_id: str, commit: str) -> bool:
    try:
        HfApi().model_info(repo_id, revision=commit)
    except GatedRepoError:
        return True
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if error.response.status_code == 401 and "Authorization" in error.response.request.headers:
            # It is the token that the Hub does not accept.
            raise
        return False
    return True


def _published_record(repo_id: str) -> Path | None:
    try:
        return Path(hf_hub_download(repo_id, ERASURE_FILE))
    except (RemoteEntryNotFoundError, RepositoryNotFoundError):
        return None


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
