"""Erasing old copies on this machine, and nothing else on it."""

import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download, snapshot_download

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.lifecycle.local_copies import erase_local, note_tables, plan_local

from ..conftest import TOKEN, secrets_rows, write_rows
from ..support.hub_server import HubServer

EXACT = Path(__file__).parents[1] / "support" / "cards" / "sms-spam-minilm-base" / "unlearning_report.json"
OLD, NEW = b"the weights of the original", b"the weights of the unlearned model"


@dataclass
class Caches:
    """Caches of their own, and beside them something that is nobody's business."""

    hub: Path
    datasets: Path
    precious: Path

    def blobs(self, repo: str, kind: str = "models") -> set[bytes]:
        folder = self.hub / f"{kind}--{repo.replace('/', '--')}" / "blobs"
        return {path.read_bytes() for path in folder.glob("*")}


@pytest.fixture
def caches(owner: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caches]:
    made = Caches(tmp_path / "hub", tmp_path / "datasets", tmp_path / "precious")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(made.hub))
    monkeypatch.setattr(constants, "HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", made.datasets)
    made.precious.mkdir()
    (made.precious / "file").write_bytes(b"precious")
    yield made
    assert (made.precious / "file").read_bytes() == b"precious"


@pytest.fixture
def repo(owner: HfApi, hub: HubServer, caches: Caches) -> str:
    """A repository with an old and an unlearned revision, both in the cache."""
    name = f"owner/local-{secrets.token_hex(4)}"
    owner.create_repo(name)
    unlearned = {"model.safetensors": NEW, "unlearning_report.json": EXACT.read_bytes()}
    for files in ({"model.safetensors": OLD, "config.json": b"{}"}, unlearned):
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        commit = owner.create_commit(name, operations, commit_message="Push").oid
        snapshot_download(name, revision=commit, cache_dir=caches.hub)
        if "config.json" in files:
            owner.create_tag(name, tag="v1")
    for revision in ("v1", "main"):
        snapshot_download(name, revision=revision, cache_dir=caches.hub)
    return name


def erase(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What the plan says, which changes nothing, and then is carried out."""
    assert main(["erase", "--cache", *flags]) == 0
    planned = capsys.readouterr().out
    assert main(["erase", "--cache", *flags, "--yes"]) == 0
    return planned


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# The Hub's cache


def test_old_revisions_go_and_the_newest_unlearned_one_stays(
    caches: Caches, repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (caches.hub / f"models--{repo.replace('/', '--')}" / "blobs" / "broken.incomplete").write_bytes(OLD[:10])
    before = everything(caches.hub)
    assert main(["erase", "--cache", repo]) == 0
    out = capsys.readouterr().out
    assert everything(caches.hub) == before
    assert out.count("  revision ") == 1
    assert "the newest unlearned revision, exact" in out
    assert f"what a broken download left of {repo}" in out
    assert "Nothing has been changed." in out
    assert main(["erase", "--cache", repo, "--yes"]) == 0
    assert OLD not in caches.blobs(repo)
    assert NEW in caches.blobs(repo)
    assert OLD[:10] not in caches.blobs(repo)
    assert Path(hf_hub_download(repo, "model.safetensors", local_files_only=True)).read_bytes() == NEW
    # Once more finds nothing.
    capsys.readouterr()
    assert main(["erase", "--cache", repo, "--yes"]) == 0
    assert "No old copies were found." in capsys.readouterr().out


def test_a_repository_that_never_forgot_goes_whole(
    owner: HfApi, caches: Caches, repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{repo}-original"
    owner.create_repo(name)
    owner.create_commit(name, [CommitOperationAdd("model.safetensors", OLD)], commit_message="Push")
    hf_hub_download(name, "model.safetensors", cache_dir=caches.hub)
    erase(capsys, name)
    assert not caches.blobs(name)
    assert caches.blobs(repo) >= {OLD, NEW}, "another repository is none of its business"


def test_a_damaged_cache_goes_whole(caches: Caches, repo: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = caches.hub / f"models--{repo.replace('/', '--')}"
    (folder / "refs" / "main").write_text("0" * 40)
    assert "which looks damaged" in erase(capsys, repo)
    assert not folder.exists()


def test_links_to_other_places(caches: Caches, repo: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = caches.hub / f"models--{repo.replace('/', '--')}"
    old = next(path for path in (folder / "snapshots").iterdir() if not (path / "unlearning_report.json").exists())
    (old / "escape").symlink_to(caches.precious / "file")
    assert "it has links to other places; delete it yourself" in erase(capsys, repo)
    assert OLD in caches.blobs(repo)
    moved = caches.hub.parent / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    assert "it is a link to another place" in erase(capsys, repo)
    assert everything(moved)


def test_interrupted_it_comes_to_the_same_end(caches: Caches, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = os.remove
    for survived in range(3):
        left = survived

        def remove(path: str) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            removed(path)

        plan = plan_local([repo], "model", None)
        with monkeypatch.context() as patch:
            patch.setattr(os, "remove", remove)
            try:
                erase_local(plan)
            except KeyboardInterrupt:
                continue
    erase_local(plan_local([repo], "model", None))
    assert OLD not in caches.blobs(repo)
    assert NEW in caches.blobs(repo)


# The cache of datasets


def test_tables_of_the_data_set_go(caches: Caches, owner: HfApi, capsys: pytest.CaptureFixture[str]) -> None:
    name = "owner/local-data"
    datasets.Dataset.from_list(secrets_rows()).push_to_hub(name, token=TOKEN)
    data = datasets.load_dataset(name, split="train")
    kept = data.filter(lambda row: row["id"] != "p-001")
    assert all(Path(file["filename"]).exists() for file in kept.cache_files)
    erase(capsys, name, "--repo_type", "dataset")
    assert not list(caches.datasets.rglob("*.arrow"))
    assert not caches.blobs(name, "datasets")


@pytest.mark.parametrize("name", ["json", "csv", "parquet", "text"])
def test_the_tables_of_all_files_of_a_kind_stay(name: str, caches: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    tables = caches.datasets / name / "default-0123" / "0.0.0"
    tables.mkdir(parents=True)
    (tables / "rows.arrow").write_bytes(b"somebody else's")
    planned = erase(capsys, name, "--repo_type", "dataset")
    assert (tables / "rows.arrow").exists()
    assert "tables of all files of this kind; those of a run go with its --output_dir" in planned


# A run's folder


@pytest.fixture
def run(tmp_path: Path, repo: str) -> Path:
    """A finished run on a data set in a file, with what it wrote on the way."""
    folder = tmp_path / "out"
    write_rows(tmp_path / "rows.jsonl", secrets_rows())
    report = json.loads(EXACT.read_text()) | {"original": {"name": repo, "revision": None, "on_hub": True}}
    for name in ("checkpoint-5/optimizer.pt", "trials/cost.json", "references/one/model.safetensors", "optimizer.pt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"from before")
    (folder / "model.safetensors").write_bytes(NEW)
    settings = {"dataset_name": str(tmp_path / "rows.jsonl"), "model_name_or_path": repo}
    (folder / "run.json").write_text(json.dumps(settings))
    report["created"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    (folder / "unlearning_report.json").write_text(json.dumps(report))
    return folder


def test_what_a_run_wrote_before_its_verdict_goes(
    caches: Caches, repo: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets.load_dataset("json", data_files=str(run.parent / "rows.jsonl"), split="train")
    datasets.load_dataset("json", data_files=str(write_rows(run.parent / "others.jsonl", secrets_rows(5))))
    later = run / "checkpoint-9"
    later.mkdir()
    os.utime(later, (time.time() + 100, time.time() + 100))
    (run / "checkpoint-7").symlink_to(caches.precious)
    planned = erase(capsys, "--output_dir", str(run))
    assert {path.name for path in run.iterdir()} == {
        "checkpoint-7",
        "checkpoint-9",
        "model.safetensors",
        "run.json",
        "unlearning_report.json",
    }
    assert "checkpoint-9: it is newer than the verdict" in planned
    assert "checkpoint-7: it is a link to another place" in planned
    assert "the data set itself; delete the records in it yourself" in planned
    assert len(list(caches.datasets.rglob("*.arrow"))) == 1, "another file's tables stay"
    assert OLD not in caches.blobs(repo), "the original was named by the report"
    assert NEW in caches.blobs(repo)


@pytest.mark.parametrize("then", ["as it was", "changed", "gone"])
def test_tables_that_a_run_noted_go_whatever_became_of_its_file(
    then: str, caches: Caches, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, others = run.parent / "rows.jsonl", write_rows(run.parent / "others.jsonl", secrets_rows(5))
    data = datasets.load_dataset("json", data_files=str(rows), split="train")
    datasets.load_dataset("json", data_files=str(others), split="train")
    note_tables(run, [data.select(range(3)), data.to_iterable_dataset(), None])
    if then == "changed":
        write_rows(rows, secrets_rows(7))
    elif then == "gone":
        rows.unlink()
    erase(capsys, "--output_dir", str(run))
    assert not Path(data.cache_files[0]["filename"]).exists()
    assert len(list(caches.datasets.rglob("*.arrow"))) == 1, "another file's tables stay"


@pytest.mark.parametrize("names", [["../precious"], ["/", ".", ""], {"a": 1}, [1], ["nowhere"]])
def test_noted_tables_lie_in_the_cache(
    names: Any, caches: Caches, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (caches.datasets / "json").mkdir(parents=True)
    (run / "data_tables.json").write_text(json.dumps(names))
    erase(capsys, "--output_dir", str(run))
    assert (caches.datasets / "json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Whose copies? Name repositories after --cache"),
        (["--output_dir", "nowhere"], "There is no readable report at nowhere"),
        (["owner/x", "--confirm", "owner/x"], "are for the Hub, not for --cache"),
    ],
)
def test_what_cannot_be_used(
    caches: Caches, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["erase", "--cache", *flags]) == 2
    assert message in capsys.readouterr().err


def test_nothing_in_the_caches(caches: Caches, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["erase", "--cache", "owner/never-seen", "--yes"]) == 0
    assert "No old copies were found." in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "a/b/c", "/", " ", "owner/"])
def test_a_name_that_no_repository_has_erases_nothing(name: str, kind: Any) -> None:
    with pytest.raises(InputError, match="is not the name of a repository; write it as owner/name"):
        plan_local([name], kind, None)
