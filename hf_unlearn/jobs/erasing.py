"""``hf-unlearn erase``: show what an erasure would delete, ask, erase, and show what still answers."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from ..errors import InputError
from ..files import require_ours, write_text
from ..hub_access import erasing_errors
from ..lifecycle.erase import erase
from ..lifecycle.erase_plan import ErasurePlan, plan_erasure
from ..lifecycle.erase_report import GIVES, ErasureReport, OldObject
from ..lifecycle.hub_repository import HubRepo, RepoType
from ..lifecycle.local_copies import LocalPlan, erase_local, plan_local
from ..publishing.sections import BEFORE_AND_AFTER
from .console import plain, table, terminal

WHY = f"{BEFORE_AND_AFTER} So the old ones go, and with them optimizer states, checkpoints and evaluation files."

FATES = {
    "squashed": "keeps its files, loses its past",
    "deleted": "is deleted",
    "kept": "stays: nothing old is in it",
    "out_of_reach": "cannot be deleted by a program",
}

SHOWN = 20  # lines of one kind


def erase_old(
    repos: list[str], *, cache: bool, dry_run: bool, yes: bool, output_dir: Path | None, **options: Any
) -> None:
    """Run ``hf-unlearn erase``: check which flags go together, and erase on the Hub or on this machine."""
    if yes and dry_run:
        raise InputError("--yes and --dry_run exclude each other; give one of them.")
    if cache:
        repo_type = options.pop("repo_type")
        if any(options.values()):
            raise InputError("--confirm, --whatever_the_verdict and --output are for the Hub, not for --cache.")
        erase_on_this_machine(repos, repo_type, output_dir, yes)
        return
    if len(repos) != 1:
        raise InputError("Which repository? Name one, as in `hf-unlearn erase owner/name`.")
    if output_dir is not None:
        raise InputError("--output_dir is for --cache; a repository on the Hub needs its name only.")
    erase_on_hub(repos[0], yes=yes, **options)


def erase_on_hub(
    repo_id: str,
    *,
    repo_type: RepoType,
    yes: bool,
    confirm: str | None,
    whatever_the_verdict: bool,
    output: Path | None,
) -> None:
    """Show what an erasure would delete, and with ``yes`` do it; ``output`` gets the report.

    Raises:
        InputError: it may not be done, or something old still answers in the end.
    """
    if output is not None:
        require_ours(output, "--output", '"repo_type"')
    if confirm not in (None, repo_id):
        raise InputError(f"--confirm {confirm} is not the repository's name, {repo_id}; nothing is erased.")
    if yes and confirm is None and not sys.stdin.isatty():
        raise InputError(f"Nobody can type the name here: add --confirm {repo_id} to --yes.")
    out = terminal()
    repo = HubRepo(repo_id, repo_type)
    with erasing_errors(repo_id):
        plan = plan_erasure(repo, whatever_the_verdict=whatever_the_verdict)
    _print_plan(out, plan, repo.page)
    report = plan.report
    if yes:
        if plan.refusals:
            raise InputError(plan.refusals[0])
        if confirm is None and not plan.finished and _typed(f"Type {repo_id} to erase all this: ") != repo_id:
            raise InputError("That is not the repository's name; nothing is erased.")
        with erasing_errors(repo_id):
            report = erase(repo, plan)
        _print_result(out, report)
    elif not plan.finished:
        out.print("\nNothing has been changed. The same command with --yes erases it, and nothing brings it back.")
    if output is not None:
        write_text(output, report.text)
    if yes and report.still_answers:
        raise InputError(
            f"{repo_id} is erased, but {len(report.still_answers)} old revisions or files still answer, as listed. "
            "The Hub may take 36 hours; the same command looks again."
        )


def _typed(question: str) -> str:
    try:
        return input(question)
    except EOFError:
        return ""


def _print_plan(out: Console, plan: ErasurePlan, page: str) -> None:
    report = plan.report
    out.print(f"[bold]Erasing what was in {plain(page)} before[/]\n{WHY}\n")
    if plan.finished:
        out.print(f"Nothing old is left since {plain(report.finished)}; --yes checks again what still answers.")
    if plan.begun:
        out.print(f"An erasure began {plain(report.started)} and was interrupted; this one continues it.")
    if report.repo_type == "dataset":
        out.print("A data set has no verdict: make sure that main holds only the rows that stay (L).")
    elif report.verdict is not None:
        out.print(f"The verdict on main: {plain(report.verdict + report.beside_verdict)}.")
    if not plan.finished:
        _print_going(out, plan)
    _print_out_of_reach(out, report, page)
    for refusal in plan.refusals:
        out.print(f"[bold red]It will be refused:[/] {plain(refusal)}")


def _print_going(out: Console, plan: ErasurePlan) -> None:
    report = plan.report
    columns = {"": "text", "commits": "number", "what becomes of it": "word"}
    shown = table("Branches, tags, conversions and pull requests", columns)
    for ref in report.refs:
        shown.add_row(plain(ref.name), f"{ref.commits:,}", FATES[ref.fate])
    out.print(shown)
    out.print(
        f"{len(report.commits):,} commits go; {plan.older_commits:,} of them have large files that main does not have."
    )
    _print_objects(out, "Large files that go, for good", report.objects)
    _print_objects(out, "Large files that stay, because main uses them", plan.staying)
    if plan.old_files:
        out.print("Files of the old model that go with its commits:")
        _print_some(out, plan.old_files)


def _print_objects(out: Console, title: str, objects: list[OldObject]) -> None:
    size = size_of(stored.size for stored in objects)
    shown = table(f"{title}: {size}", {"file": "text", "size": "number", "SHA-256": "word"})
    for stored in sorted(objects, key=lambda stored: (stored.file, stored.sha256)):
        shown.add_row(plain(stored.file) or "(no commit names it)", size_of([stored.size]), plain(stored.sha256[:12]))
    out.print(shown)


def _print_out_of_reach(out: Console, report: ErasureReport, page: str) -> None:
    out.print("What no program can delete:")
    for ref in report.refs:
        if ref.fate == "out_of_reach":
            number = ref.name.rpartition("/")[2]
            out.print(
                f'  {plain(ref.name)}: its large files go, its commits and small files stay. Close it, press "Delete '
                f'ref" at its foot on {plain(page)}/discussions/{plain(number)}, and run this again.'
            )
    for line in report.out_of_reach:
        out.print(f"  {plain(line)}.")


def _print_result(out: Console, report: ErasureReport) -> None:
    counts = report.counts
    out.print(
        f"\nErased: {counts['commits']:,} commits, {counts['refs_deleted']:,} refs, {counts['objects']:,} large files "
        f"({size_of([counts['bytes']])}). Each was then asked for again."
    )
    if not report.still_answers:
        out.print("[green]Nothing old answers any more.[/]")
        return
    out.print("[bold red]Still answering:[/]")
    named = ((a.name if a.kind == "ref" else f"{a.kind} {a.name[:12]}", a.gives) for a in report.still_answers)
    _print_some(out, [f"{name}: {GIVES[gives]}" for name, gives in named])


def _print_some(out: Console, lines: list[str]) -> None:
    """Show the first lines of many, indented."""
    for line in lines[:SHOWN]:
        out.print(f"  {plain(line)}")
    if len(lines) > SHOWN:
        out.print(f"  and {len(lines) - SHOWN:,} more")


def size_of(sizes: Iterable[int]) -> str:
    """The sum of sizes in bytes, as in ``1.5MB``."""
    return tqdm.format_sizeof(sum(sizes), "B")


def erase_on_this_machine(repos: list[str], repo_type: RepoType, output_dir: Path | None, yes: bool) -> None:
    """Show which old copies of repositories or of a finished run are on this machine, and with ``yes`` delete them."""
    if not repos and output_dir is None:
        raise InputError("Whose copies? Name repositories after --cache, or a finished run with --output_dir.")
    out = terminal()
    plan = plan_local(repos, repo_type, output_dir)
    _print_local_plan(out, plan)
    if not plan.going:
        return
    if yes:
        erase_local(plan)
        out.print(f"\nDeleted: {size_of(copy.size for copy in plan.going)}.")
    else:
        out.print("\nNothing has been changed. The same command with --yes deletes what is listed as going.")


def _print_local_plan(out: Console, plan: LocalPlan) -> None:
    out.print("[bold]Old copies on this machine that go[/]" if plan.going else "No old copies were found.")
    for copy in plan.going:
        out.print(f"  {size_of([copy.size]):>7}  {plain(copy.what)}: {plain(copy.path)}")
    if plan.staying:
        out.print("What stays:")
        _print_some(out, [f"{path}: {why}" for path, why in plan.staying])
