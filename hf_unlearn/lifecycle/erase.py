"""Erasing the old weights on the Hub: what goes is recorded, deleted, and then looked for."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

from huggingface_hub.errors import HfHubHTTPError

from ..errors import InputError
from ..publishing.ledger import LEDGER_FILE, Erased, digest_of
from .erase_plan import ErasurePlan, present_files
from .erase_report import ERASURE_FILE, Answer, ErasureReport, Gives, OldRef
from .hub_repository import MAIN, HubRepo, short_name


def erase(repo: HubRepo, plan: ErasurePlan) -> ErasureReport:
    """Carry out a plan that was made just before, and try what is left.

    The record of what goes is committed first. Whatever then happens, a new plan holds what this one held. It comes to
    the same end: main with its files in one commit, and after it a commit that records the erasure.

    Returns what was erased, and what still answers. It is committed, with a line in the ledger where there is one.
    Raises InputError when the plan must not be carried out, or somebody else changes the repository.
    """
    if plan.refusals:
        raise InputError(plan.refusals[0])
    if not plan.finished:
        _require_unmoved(repo, plan)
        if not plan.begun:
            repo.commit({ERASURE_FILE: plan.report.text}, "Begin to erase what was here before", plan.head)
        _take_away(repo, plan)
    head = repo.head()
    _require_unchanged(repo, plan, head)
    answers = still_answering(repo, plan.report)
    if plan.finished and answers == plan.report.still_answers:
        return plan.report
    report = replace(plan.report, finished=_now(), still_answers=answers)
    files = {ERASURE_FILE: report.text}
    if plan.ledger is not None:
        event = Erased(_now(), repo.id, digest_of(report.text), report.counts)
        files[LEDGER_FILE] = plan.ledger.with_event(event).text
    repo.commit(files, f"Erase what was here before: {_summary(report)}", head)
    return report


def _take_away(repo: HubRepo, plan: ErasurePlan) -> None:
    """Delete refs, then history, then the large files that nothing uses any more."""
    gone: set[str] = set()
    for ref, fate in plan.fates.items():
        if fate == "deleted":
            _require_unmoved(repo, plan, gone)
            repo.delete_ref(ref)
            gone.add(ref)
    for ref, fate in plan.fates.items():
        if fate == "squashed":
            _require_unmoved(repo, plan, gone)
            repo.squash(short_name(ref), "All of it, without what was here before")
            gone.add(ref)
    _require_unmoved(repo, plan, gone)
    going = {stored.sha256 for stored in plan.report.objects}
    repo.delete_objects([info for info in repo.objects() if info.file_oid in going])


def _require_unmoved(repo: HubRepo, plan: ErasurePlan, done: Collection[str] = ()) -> None:
    """Raise InputError where somebody else has changed what the plan was made for: the repository, or a ref in it.

    The refs in ``done`` have been dealt with, and main is known by its files. The Hub makes conversions by itself, and
    pull requests stay.
    """
    now = repo.targets()
    _require_unchanged(repo, plan, now[MAIN])
    ours = {ref for ref in plan.fates if ref.startswith(("refs/heads/", "refs/tags/"))} - {MAIN, *done}
    new = {ref for ref in now if ref.startswith(("refs/heads/", "refs/tags/"))} - set(plan.fates)
    if repo.identity() != plan.identity or new or any(now.get(ref) != plan.targets[ref] for ref in ours):
        raise _changed(repo)


def _changed(repo: HubRepo) -> InputError:
    return InputError(
        f"Somebody else has changed {repo.id} meanwhile, so nothing more is erased; look at what is there, and "
        "run the same command again."
    )


def _require_unchanged(repo: HubRepo, plan: ErasurePlan, head: str) -> None:
    """Raise InputError where main's commit has other files than the plan was made for."""
    if present_files(repo.tree(head)) != plan.files:
        raise _changed(repo)


def still_answering(repo: HubRepo, report: ErasureReport) -> list[Answer]:
    """Try to download every old revision and every old large file; returns what the Hub still gives."""
    answers = []
    going = {stored.sha256 for stored in report.objects}
    live = {ref.ref for ref in repo.refs()}
    files = {commit.id: commit.file for commit in report.commits}
    for ref in report.refs:
        if ref.fate in ("deleted", "out_of_reach"):
            gives = _given(repo, short_name(ref.name), files.get(ref.commit), going)
            if gives == "small_files" and ref.name in live and _is_newer(repo, ref, report):
                gives = None
            if gives is not None:
                answers.append(Answer("ref", ref.name, gives))
    for commit, file in files.items():
        gives = _given(repo, commit, file, going)
        if gives is not None:
            answers.append(Answer("commit", commit, gives))
    listed = {info.file_oid for info in repo.objects()} & going
    given = repo.downloadable_objects({old.sha256: old.size for old in report.objects})
    answers += [Answer("object", sha256, "large_files") for sha256 in sorted(given)]
    return answers + [Answer("object", sha256, "listed") for sha256 in sorted(listed - given)]


def _given(repo: HubRepo, revision: str, file: str | None, going: set[str]) -> Gives | None:
    """What a revision still gives, None when the Hub knows nothing of it."""
    try:
        listed = repo.tree_if_any(revision)
        old = [file] if file else []
        if listed is not None:
            old = [path for path, entry in listed.items() if entry.sha256 in going]
        if any(repo.can_be_downloaded(revision, path) for path in old):
            return "large_files"
        return None if listed is None else "small_files"
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 429):
            raise
        return "unknown"


def _is_newer(repo: HubRepo, ref: OldRef, report: ErasureReport) -> bool:
    """Whether a ref was made again from what is left, as the Hub does with its conversions."""
    finished = datetime.fromisoformat(report.finished) if report.finished else datetime.now(UTC)
    return ref.fate == "deleted" and all(time > finished for time in repo.commits(short_name(ref.name)).values())


def _summary(report: ErasureReport) -> str:
    counts = report.counts
    return f"{counts['commits']:,} commits, {counts['refs_deleted']:,} refs, {counts['objects']:,} large files" + (
        f"; {counts['still_answering']:,} still answer" if report.still_answers else ""
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
