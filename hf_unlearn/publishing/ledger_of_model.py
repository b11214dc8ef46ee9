"""The ledger beside a model, checked against the report and the weights beside it."""

from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from ..data.request.digest_selector import recognised
from ..data.request.digests import ForgottenDigests, key_check, key_path, load_digest_key
from ..data.request.forgotten_digests import Forgotten
from ..data.request.records import Records
from ..errors import InputError, in_one_line
from ..evaluation.report import REPORT_FILE, LedgerNote, UnlearningReport
from ..hub_access import hub_errors, hub_status, hub_trouble
from ..models.location import (
    INDEX,
    LEDGER_MARK,
    WEIGHT_FILES,
    ModelSource,
    adapter_base,
    file_beside,
    indexed_weights,
    loaded_weights,
)
from .ledger import (
    LEDGER_FILE,
    Ledger,
    LedgerData,
    LedgerModel,
    Unlearned,
    file_digest,
    ledger_text,
    load_ledger,
)
from .loaded_files import SHARDING, loaded_files, mark, marked_in


def ledger_of(source: ModelSource) -> Ledger | None:
    """The ledger beside a model, None where none was kept; weights on the Hub are checked without a download.

    Raises InputError when it was changed, shortened or removed, or is not about the report and the weights beside it.
    """
    path, report = file_beside(source, LEDGER_FILE), report_beside(source)
    noted = report.ledger if report is not None else None
    place = f"beside {source.public_name!r}"
    if path is None:
        if noted is not None:
            raise InputError(
                f"{LEDGER_FILE} is missing {place}, and its report says that there is one; restore it, or finish the "
                "run with the same command."
            )
        if (marked := marked_in(source)) is not None:
            raise InputError(
                f"A ledger belongs to {source.public_name!r}, as its {marked} says, and {LEDGER_FILE} is missing; "
                "restore it with its report, or records that had to be forgotten would be trained on again. If they "
                f"may be, take {LEDGER_MARK!r} out of {marked}."
            )
        return None
    ledger = Ledger.read(ledger_text(path), place)
    if not ledger.runs:
        return ledger
    last = ledger.runs[-1]
    report_path = file_beside(source, REPORT_FILE)
    names_it = noted is not None and (noted.lines, noted.statement) == (ledger.events.index(last), last.statement)
    if report_path is None or not names_it or file_digest(report_path) != last.report:
        raise InputError(
            f"{LEDGER_FILE} {place} was changed or shortened, or {REPORT_FILE} was: its last run is not that of the "
            "report; restore both from their history."
        )
    if weights_of(source) != last.weights:
        raise InputError(
            f"The weights of {source.public_name!r} are not those that {LEDGER_FILE} {place} names last; restore "
            "the file or the weights from their history."
        )
    now = loaded_files(source, path.parent) if last.files is not None else {}
    # Lines from before this one was noted say nothing of it.
    if last.files is not None and SHARDING not in last.files:
        now.pop(SHARDING, None)
    if last.files is not None and now != last.files:
        changed = sorted(name for name in now.keys() | last.files.keys() if now.get(name) != last.files.get(name))
        raise InputError(
            f"{', '.join(map(in_one_line, changed))} of {source.public_name!r}, which are loaded with the weights, "
            f"are not those that {LEDGER_FILE} {place} names last; restore them from their history."
        )
    return ledger


def check_base(source: ModelSource) -> bool:
    """Whether an adapter lies on a model whose weights were noted; raises InputError where they are others now."""
    report = report_beside(source)
    noted = report.measured.base if source.adapter and report is not None and report.measured is not None else None
    if noted is None:
        return False
    base = adapter_base(source)
    if weights_of(base) != noted:
        raise InputError(
            f"The weights of {base.public_name!r}, which the adapter lies on, are not those that its report was made "
            "with; restore them."
        )
    return True


def report_beside(source: ModelSource) -> UnlearningReport | None:
    """The report that lies beside a model, or None when there is none."""
    path = file_beside(source, REPORT_FILE)
    return None if path is None else UnlearningReport.load(path)


def weights_of(source: ModelSource) -> dict[str, str]:
    """SHA-256 of each safetensors file that a model is loaded from, by name."""
    if source.is_local:
        return _digests(Path(source.name))
    return dict(_published_weights(source.name, source.revision))


def _digests(folder: Path) -> dict[str, str]:
    patterns = [pattern for pattern in WEIGHT_FILES if pattern.endswith(".safetensors")]
    found = {path.relative_to(folder).as_posix(): path for pattern in patterns for path in folder.glob(pattern)}
    if (folder / INDEX).is_file() and not (folder / "model.safetensors").is_file():
        found |= {name: folder / name for name in indexed_weights(folder / INDEX) if (folder / name).is_file()}
    return {name: _digest(path, path.stat().st_size, path.stat().st_mtime_ns) for name, path in sorted(found.items())}


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """That of a file, which is read again only when it has changed: it may be large."""
    return file_digest(path)


@cache
def _published_weights(name: str, revision: str | None) -> dict[str, str]:
    """As the Hub tells them; where it cannot be reached, those of the files that were downloaded before."""
    with hub_errors(f"The model {name!r}"):
        try:
            info = HfApi().model_info(name, revision=revision, files_metadata=True)
        except Exception as error:
            trouble = hub_trouble(error)
            if trouble is None or hub_status(trouble) is not None:
                raise
            files = list(WEIGHT_FILES)
            return _digests(
                Path(snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=True))
            )
        names = {file.rfilename for file in info.siblings or []}
        indexed = set()
        if INDEX in loaded_weights(names):
            indexed = indexed_weights(Path(hf_hub_download(name, INDEX, revision=revision)))
        loaded = {one for one in names if one in indexed or _is_loaded(one)}
        weights = {file.rfilename: file.lfs for file in info.siblings or [] if file.rfilename in loaded}
        return {
            file: lfs.sha256 if lfs is not None else file_digest(Path(hf_hub_download(name, file, revision=revision)))
            for file, lfs in sorted(weights.items())
        }


def _is_loaded(name: str) -> bool:
    return name.endswith(".safetensors") and any(fnmatch(name, pattern) for pattern in WEIGHT_FILES)


def with_note(report: UnlearningReport, ledger: Ledger, forgotten: Forgotten, source: ModelSource) -> UnlearningReport:
    """The report of a finished run, with the line that the ledger of the original model gets about it."""
    line = _line(report, ledger, forgotten, source)
    return replace(report, ledger=LedgerNote(len(ledger.events), line.statement))


def write_line(
    folder: Path, report: UnlearningReport, ledger: Ledger, forgotten: Forgotten, source: ModelSource
) -> None:
    """Put the ledger of a finished run beside its model: that of the original model, and the run's own line.

    Raises InputError where the line is there, and the model is no longer the one that it was written for.
    """
    line, made = _line(report, ledger, forgotten, source), ModelSource(str(folder))
    present = load_ledger(folder) or Ledger()
    written = [run for run in present.runs if run.statement == line.statement]
    if not written:
        mark(folder)
    weights, digest = weights_of(made), file_digest(folder / REPORT_FILE)
    files = loaded_files(made, folder) if line.files is not None else None
    if written and (weights, files) != (written[0].weights, written[0].files):
        raise InputError(
            f"The model in {folder} is no longer the one that its {LEDGER_FILE} names; restore its weights and the "
            "files beside them, or run again in a new --output_dir."
        )
    ledger = ledger.with_event(replace(line, weights=weights, files=files, report=digest), forgotten.key)
    # Something may have been erased since, which its own lines say.
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
        margin=report.verdict.margin,
        attack=report.verdict.attack,
        attacks=report.verdict.attacks,
        attempts=report.attempts,
        files={},
    )
    placed = ledger.with_event(line).events[-1]
    assert isinstance(placed, Unlearned)
    # A run of an earlier version, whose line said less.
    untyped = [ForgottenDigests(part.columns, part.whole_rows, part.digests) for part in placed.forgotten]
    for less in (
        {"files": None},
        {"forgotten": untyped},
        {"margin": None, "attack": None, "attacks": None, "attempts": None},
    ):
        if report.ledger is not None and placed.statement != report.ledger.statement:
            placed = replace(placed, **less)
    return placed


def forgotten_before(ledger: Ledger, key: bytes) -> Records | None:
    """What the requests of a ledger named, None where it names none."""
    return recognised(key, [part for run in ledger.runs for part in _with_found(run)])


def _with_found(run: Unlearned) -> list[ForgottenDigests]:
    """What a run forgot; lines from before each part was counted have the count of all that D lacked then."""
    lacking = run.ids - run.ids_found
    return [
        part if part.found is not None else replace(part, found=max(len(part.digests) - lacking, 0))
        for part in run.forgotten
    ]


def ledger_key(path: str | None, ledger: Ledger) -> bytes:
    """The owner's key, from its usual file when None, by which the seals are checked.

    Raises InputError where it is not that of the ledger, or a line was not written with it.
    """
    place = key_path(path)
    wanted = f"the key that {LEDGER_FILE} was written with"
    if not place.exists():
        raise InputError(f"The digest key {place} is not there; name {wanted} with --digest_key_file.")
    key = load_digest_key(place)
    if any(run.key_check != key_check(key) for run in ledger.runs):
        raise InputError(f"The digest key {place} is not {wanted}; name that one with --digest_key_file.")
    ledger.check_seals(key)
    return key
