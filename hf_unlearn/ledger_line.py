"""The line that a run adds to the ledger, made from its split and its report: the same whenever it is made."""

from dataclasses import replace
from pathlib import Path

from .data.request.forgotten_digests import Forgotten
from .evaluation.report import REPORT_FILE, LedgerNote, UnlearningReport
from .ledger import Ledger, LedgerData, LedgerModel, Unlearned, file_digest, load_ledger
from .ledger_check import weights_of
from .models.location import ModelSource


def with_note(report: UnlearningReport, ledger: Ledger, forgotten: Forgotten, source: ModelSource) -> UnlearningReport:
    """A report that names the line of the ledger that is about the same run.

    Args:
        report: of the run, otherwise finished.
        ledger: of the original.
        forgotten: what the request made the model forget.
        source: the original.
    """
    line = _line(report, ledger, forgotten, source)
    return replace(report, ledger=LedgerNote(len(ledger.events), line.statement))


def write_line(
    folder: Path, report: UnlearningReport, ledger: Ledger, forgotten: Forgotten, source: ModelSource
) -> None:
    """Put the ledger of a finished run beside its model: that of the original, and the run's own line.

    Args:
        folder: of the run.
        report: the one that lies there.
        ledger, forgotten, source: as for :func:`with_note`.
    """
    line = _line(report, ledger, forgotten, source)
    weights, digest = weights_of(ModelSource(str(folder))), file_digest(folder / REPORT_FILE)
    ledger = ledger.with_event(replace(line, weights=weights, report=digest))
    present = load_ledger(folder) or Ledger()
    # Something may have been erased since, which its own lines tell.
    for event in present.events[len(ledger.events) :]:
        ledger = ledger.with_event(event)
    if ledger != present:
        ledger.save(folder)


def _line(report: UnlearningReport, ledger: Ledger, forgotten: Forgotten, source: ModelSource) -> Unlearned:
    """The run's line, in its place in the chain, without the digests of weights and report."""
    assert report.audit is not None
    assert report.original is not None
    data = report.dataset
    line = Unlearned(
        time=report.created,
        method=report.method.name,
        road=report.road.taken,
        verdict=report.verdict.word,
        rows=report.audit.forget_rows,
        ids=report.audit.ids_requested,
        ids_found=report.audit.ids_matched,
        forgotten=forgotten.digests,
        requests=sorted(file.digest for file in forgotten.files if file.pending),
        dataset=LedgerData(data.name, data.config, data.split, data.revision, data.fingerprint),
        parent=LedgerModel(report.original.name, report.original.revision, weights_of(source)),
        weights={},
        report="",
        key_check=forgotten.key_check,
        software=report.software["hf_unlearn"],
    )
    placed = ledger.with_event(line).events[-1]
    assert isinstance(placed, Unlearned)
    return placed
