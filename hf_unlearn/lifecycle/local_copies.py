"""Erasing on this machine: old revisions in the Hub's cache, tables of D in that of datasets, checkpoints of a run."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import CachedRepoInfo, CachedRevisionInfo, DeleteCacheStrategy, HFCacheInfo

from ..data.arrow_tables import AnyDataset
from ..data.loading import local_cache_folder
from ..errors import InputError
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..evaluation.score_cache import tables_folder
from ..files import write_text
from ..hub_access import is_repository_name
from ..output_folder import REFERENCES_FOLDER, SETTINGS_FILE, TRIALS_FOLDER
from .erase_plan import ERASABLE, stated_verdict
from .hub_repository import RepoType

# Where the tables of a run's data are, in the cache of datasets.
TABLES_FILE = "data_tables.json"

BEFORE_THE_VERDICT = (
    "checkpoint-*",
    TRIALS_FOLDER,
    REFERENCES_FOLDER,
    "optimizer*.pt",
    "optimizer*.bin",
    "scheduler.pt",
    "rng_state*.pth",
)


@dataclass(frozen=True)
class LocalCopy:
    """Something old on this machine: a folder or a file, what it is in words, and its size in bytes."""

    what: str
    path: Path
    size: int


@dataclass
class LocalPlan:
    """What goes and what stays.

    Attributes:
        going: shown to the user, each of them in ``strategies`` or in ``paths``.
        staying: what was found and is left, and why.
        strategies: of the Hub's own cleaning, one a repository.
        paths: to be deleted, each with the folder that it must lie in.
    """

    going: list[LocalCopy] = field(default_factory=list)
    staying: list[tuple[Path, str]] = field(default_factory=list)
    strategies: list[DeleteCacheStrategy] = field(default_factory=list)
    paths: list[tuple[Path, Path]] = field(default_factory=list)

    def add(self, what: str, path: Path, root: Path) -> None:
        """Let a folder or a file go, unless a link leads from the root to somewhere else."""
        if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
            self.staying.append((path, "it is a link to another place; delete its target yourself"))
        else:
            self.going.append(LocalCopy(what, path, _size(path)))
            self.paths.append((path, root))


def plan_local(repos: list[str], repo_type: RepoType, output_dir: Path | None) -> LocalPlan:
    """Find old copies on this machine without changing anything.

    The revisions of the repositories go from the Hub's cache, except the newest unlearned one; of a data set no
    revision stays, and its tables go too. So do the original model, the data set and the checkpoints of a finished run
    in ``output_dir``. Raises InputError when that holds no finished run, or a repository cannot have its name.
    """
    for repo in repos:
        if not is_repository_name(repo):
            raise InputError(f"{repo!r} is not the name of a repository; write it as owner/name.")
    plan = LocalPlan()
    named: list[tuple[str, RepoType]] = [(repo, repo_type) for repo in repos]
    files: list[str] = []
    settings: dict[str, Any] = {}
    if output_dir is not None:
        report = UnlearningReport.load(output_dir / REPORT_FILE)
        settings = _settings(output_dir)
        if report.original is not None and report.original.on_hub:
            named.append((report.original.name, "model"))
        for name in (settings.get("dataset_name", report.dataset.name), settings.get("forget_dataset")):
            if name is not None and Path(name).exists():
                files.append(name)
            elif name is not None and "/" in name and is_repository_name(name):
                named.append((name, "dataset"))
        _plan_folder(plan, output_dir, report, settings)
    cache = _hub_cache()
    for name, kind in dict.fromkeys(named):
        _plan_revisions(plan, cache, name, kind)
        tables = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
        if kind == "dataset" and name in _PACKAGED_DATASETS_MODULES:
            plan.staying.append((tables, "tables of all files of this kind; those of a run go with its --output_dir"))
        elif kind == "dataset" and tables.exists():
            plan.add(f"tables of {name}", tables, tables.parent)
    invented = settings.get("alternates_file")
    if invented is not None and Path(invented).exists():
        plan.staying.append((Path(invented), "invented answers to forgotten records; delete it once no run needs it"))
    for name in sorted(files):
        plan.staying.append((Path(name), "the data set itself; delete the records in it yourself"))
    if output_dir is not None:
        _plan_tables(plan, files, settings, output_dir)
    _note_the_rest(plan)
    return plan


def erase_local(plan: LocalPlan) -> None:
    """Delete what a plan names; interrupted, a new plan names the rest."""
    for strategy in plan.strategies:
        # A ref to a snapshot that is gone would make the cache look damaged, so refs go first.
        for ref in strategy.refs:
            ref.unlink(missing_ok=True)
        replace(strategy, refs=frozenset()).execute()
    for path, root in plan.paths:
        if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
            raise InputError(f"{path} has become a link to another place; it was not deleted.")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


# The Hub's cache


def _hub_cache() -> HFCacheInfo | None:
    try:
        return scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return None


def _plan_revisions(plan: LocalPlan, cache: HFCacheInfo | None, name: str, kind: RepoType) -> None:
    """Let the revisions of a repository go that are not the newest unlearned one."""
    root = Path(constants.HF_HUB_CACHE)
    folder = root / repo_folder_name(repo_id=name, repo_type=kind)
    if cache is None or not os.path.lexists(folder):
        return
    repo = next((repo for repo in cache.repos if (repo.repo_id, repo.repo_type) == (name, kind)), None)
    if repo is None or folder.is_symlink():
        # What the Hub's cleaning cannot read holds weights all the same.
        plan.add(f"{name}, which looks damaged", folder, root)
        return
    kept, verdict = _newest_unlearned(repo) if kind == "model" else (None, "")
    old = sorted(repo.revisions - {kept}, key=lambda revision: revision.commit_hash)
    if kept is not None:
        plan.staying.append((kept.snapshot_path, f"the newest unlearned revision, {verdict}"))
        _plan_leftovers(plan, repo, root)
    if not old:
        return
    strategy = cache.delete_revisions(*(revision.commit_hash for revision in old))
    places = {*strategy.blobs, *strategy.refs, *strategy.repos, *strategy.snapshots}
    if any(not _lies_in(place, folder) for place in places):
        plan.staying.append((folder, "it has links to other places; delete it yourself"))
        return
    plan.strategies.append(strategy)
    plan.going += [
        LocalCopy(f"revision {revision.commit_hash[:12]} of {name}", revision.snapshot_path, revision.size_on_disk)
        for revision in old
    ]


def _newest_unlearned(repo: CachedRepoInfo) -> tuple[CachedRevisionInfo | None, str]:
    """The revision whose own report says that it forgot, the newest if there are several, and its verdict."""
    created, verdicts = {}, {}
    for revision in repo.revisions:
        try:
            report = json.loads((revision.snapshot_path / REPORT_FILE).read_text(encoding="utf-8"))
            word, beside = stated_verdict(report)
            if word in ERASABLE:
                verdicts[revision], created[revision] = word + beside, str(report["created"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    kept = max(created, key=lambda revision: created[revision], default=None)
    return kept, verdicts[kept] if kept is not None else ""


def _plan_leftovers(plan: LocalPlan, repo: CachedRepoInfo, root: Path) -> None:
    """Let the files go that no revision uses, as broken downloads leave them behind."""
    used = {file.blob_path for revision in repo.revisions for file in revision.files}
    for path in sorted((repo.repo_path / "blobs").glob("*")):
        if path not in used:
            plan.add(f"what a broken download left of {repo.repo_id}", path, root)


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a path, itself possibly a link, lies in a folder."""
    return path == folder.resolve() or path.parent.resolve().is_relative_to(folder.resolve())


# A run's folder


def _settings(output_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((output_dir / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _plan_folder(plan: LocalPlan, folder: Path, report: UnlearningReport, settings: dict[str, Any]) -> None:
    """Let go what a run wrote before its verdict: checkpoints with their optimizer states, trials, references."""
    # It is written in whole seconds.
    decided = datetime.fromisoformat(report.created) + timedelta(seconds=1)
    for path in sorted({path for pattern in BEFORE_THE_VERDICT for path in folder.glob(pattern)}):
        if not path.is_symlink() and _written(path) > decided:
            plan.staying.append((path, "it is newer than the verdict"))
        else:
            plan.add("written before the verdict", path, folder)
    original = settings.get("model_name_or_path")
    if original is not None and Path(original).is_dir():
        plan.staying.append(
            (Path(original), "the original model lies outside the folder; delete it yourself, with its checkpoints")
        )


def _plan_tables(plan: LocalPlan, files: list[str], settings: dict[str, Any], output_dir: Path) -> None:
    """Let the tables of a run's data go: those that it noted, and those that its files have now."""
    root = Path(datasets.config.HF_DATASETS_CACHE)
    noted = {root / name: "the run's data" for name in _noted_tables(output_dir)}
    for name in sorted(files):
        found = local_cache_folder(name, settings.get("dataset_config"))
        noted |= {found: name} if found is not None else {}
    gone = {path for path, _ in plan.paths}
    for folder, name in noted.items():
        if folder.exists() and not gone & {folder, *folder.parents}:
            plan.add(f"tables of {name}", folder, root)


def note_tables(output_dir: Path, parts: Iterable[AnyDataset | None]) -> None:
    """Note in a run's folder where datasets keeps the tables of its data, which change their place with the files."""
    root = Path(datasets.config.HF_DATASETS_CACHE).resolve()
    tables = [Path(file["filename"]).resolve() for part in parts for file in _cache_files(part)]
    inside = {path.parent.relative_to(root).as_posix() for path in tables if path.is_relative_to(root)}
    write_text(output_dir / TABLES_FILE, json.dumps(sorted(inside - {"."}), indent=2) + "\n")


def _cache_files(part: AnyDataset | None) -> list[dict[str, str]]:
    return part.cache_files if isinstance(part, datasets.Dataset) else []


def _noted_tables(output_dir: Path) -> list[str]:
    try:
        names = json.loads((output_dir / TABLES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    # A folder of one part holds the tables of everybody.
    parts = {name: PurePosixPath(name).parts for name in found}
    return [name for name in found if len(parts[name]) > 1 and not {"..", "/"} & set(parts[name])]


def _written(path: Path) -> datetime:
    """When something in it was last written."""
    times = [file.lstat().st_mtime for file in _files(path)] or [path.lstat().st_mtime]
    return datetime.fromtimestamp(max(times), UTC)


def _note_the_rest(plan: LocalPlan) -> None:
    """Name the caches in which nobody can tell what belongs to whom."""
    rest = {
        Path(constants.HF_XET_CACHE): "chunks of downloads of all repositories; delete the folder to be sure",
        tables_folder(): "scores of all models, numbers only; delete the folder to be sure",
    }
    plan.staying += [(path, why) for path, why in rest.items() if path.is_dir() and any(path.iterdir())]


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    """The files of a folder, or the file itself, without following links."""
    if not path.is_dir() or path.is_symlink():
        yield path
        return
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names)
