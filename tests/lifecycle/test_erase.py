"""Erasing what a repository was before: what goes, what stays, what is shown, and what still answers."""

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RevisionNotFoundError
from transformers import AutoModelForCausalLM

from hf_unlearn import InputError, publish
from hf_unlearn.cli import main
from hf_unlearn.data.request.row_filter import FILTER_FILE
from hf_unlearn.lifecycle.erase import erase
from hf_unlearn.lifecycle.erase_plan import plan_erasure
from hf_unlearn.lifecycle.erase_report import ERASURE_FILE, Answer, ErasureReport
from hf_unlearn.lifecycle.hub_repository import HubRepo
from hf_unlearn.publishing.ledger import LEDGER_FILE, Ledger, digest_of

from ..conftest import TOKEN
from ..support.erasing import (
    EXACT,
    UNLEARNED,
    all_refs,
    downloads,
    erased,
    history,
    push,
    unlearned_event,
    weights,
)
from ..support.hub_server import HubServer

# What goes


def test_old_weights_are_gone_from_every_revision_and_from_the_store(api: HfApi, hub: HubServer, repo: str) -> None:
    _, later, first, initial = history(api, repo)
    old = [(first, path) for path in ("model.safetensors", "optimizer.pt", "checkpoint-5/model.safetensors")]
    old += [(later, "model.safetensors"), ("v1", "model.safetensors"), ("old", "model.safetensors")]
    old += [("refs/convert/parquet", "model.safetensors"), ("refs/pr/1", "model.gguf")]
    assert all(downloads(*place, repo) for place in old)
    files = {path: HubRepo(repo, "model").read("main", path) for path in (*UNLEARNED, "config.json")}
    assert len(list(hub.lfs_dir(repo).iterdir())) == 7

    report = erased(repo)

    assert not any(downloads(*place, repo) for place in old)
    assert {path.read_bytes() for path in hub.lfs_dir(repo).iterdir()} == {UNLEARNED["model.safetensors"], EXACT}
    assert all_refs(api, repo) == {"refs/heads/main", "refs/heads/stable", "refs/pr/1"}
    assert {path: HubRepo(repo, "model").read("main", path) for path in files} == files
    assert HubRepo(repo, "model").read("stable", "model.safetensors") == UNLEARNED["model.safetensors"]
    assert len(history(api, repo)) == 2
    assert report.counts == {
        "refs_deleted": 3,
        "refs_out_of_reach": 1,
        "commits": 3,
        "objects": 5,
        "bytes": sum(len(weights(name)) for name in ("the original", "the optimizer", "a checkpoint", "a later one"))
        + len(weights("a pull request")),
        "still_answering": 2,
    }
    # The pull request still has what git itself stored of the original, down to the first commit.
    assert report.still_answers == [
        Answer("ref", "refs/pr/1", "small_files"),
        Answer("commit", initial, "small_files"),
    ]
    git = ["git", "--git-dir", str(hub.git_dir(repo))]
    assert subprocess.run([*git, "fsck", "--strict"], capture_output=True).returncode == 0


def test_a_pull_request_whose_ref_its_owner_deletes(api: HfApi, hub: HubServer, repo: str) -> None:
    assert erased(repo).still_answers
    subprocess.run(["git", "--git-dir", str(hub.git_dir(repo)), "update-ref", "-d", "refs/pr/1"], check=True)
    api.create_branch(repo, branch="brief")
    api.delete_branch(repo, branch="brief")  # the Hub collects what nothing reaches
    before = history(api, repo)
    assert erased(repo).still_answers == []
    assert len(history(api, repo)) == len(before) + 1, "the better end is recorded"
    again = erased(repo)
    assert again.still_answers == []
    assert len(history(api, repo)) == len(before) + 1, "and nothing is committed when nothing has changed"


def test_what_was_made_of_the_present_model_is_left_alone(api: HfApi, hub: HubServer, repo: str) -> None:
    report = erased(repo)
    push(api, repo, {"model.gguf": weights("a conversion of the unlearned model")}, create_pr=True)
    push(api, repo, {"README.md": b"---\nlicense: mit\n---\n# A better card\n"})
    api.create_tag(repo, tag="v2")
    api.create_branch(repo, branch="work")
    push(api, repo, {"model.bin": weights("on the way to a better model")}, revision="work")
    assert erased(repo) == report
    assert downloads("refs/pr/2", "model.gguf", repo)
    assert downloads("v2", "model.safetensors", repo)
    assert downloads("work", "model.bin", repo)
    # Another model in main's place is another matter.
    push(api, repo, {"model.safetensors": weights("a better one"), "unlearning_report.json": EXACT + b"\n"})
    fates = {ref.name: ref.fate for ref in erased(repo).refs}
    assert fates["refs/pr/2"] == "out_of_reach"
    assert fates["refs/tags/v2"] == fates["refs/heads/work"] == "deleted"
    assert not downloads("refs/pr/2", "model.gguf", repo)
    stored = {path.read_bytes() for path in hub.lfs_dir(repo).iterdir()}
    assert stored == {weights("a better one"), EXACT + b"\n"}


def test_a_hub_that_keeps_what_nothing_reaches_is_found_out(
    api: HfApi, hub: HubServer, repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.keeps_unreachable = True
    _, later, first, *_ = history(api, repo)
    # Objects that the Hub says are deleted, and are not.
    hub.fail("lfs-files/batch", 200)
    assert main(["erase", repo, "--yes", "--confirm", repo]) == 2
    out, err = capsys.readouterr()
    assert f"commit {first[:12]}: its large files can still be downloaded" in out
    assert f"commit {later[:12]}: its large files can still be downloaded" in out
    assert re.search(r"object [0-9a-f]{12}: its large files can still be downloaded", out)
    assert "old revisions or files still answer, as listed" in err
    report = ErasureReport.read(HubRepo(repo, "model", TOKEN).read("main", ERASURE_FILE))
    assert {answer.kind for answer in report.still_answers if answer.gives == "large_files"} == {
        "ref",
        "commit",
        "object",
    }
    # The same command takes away what it could not before.
    assert main(["erase", repo, "--yes", "--confirm", repo]) == 2
    assert not downloads(first, "model.safetensors", repo)
    assert downloads(first, "config.json", repo)
    assert f"commit {first[:12]}: its small files can still be read" in capsys.readouterr().out


def test_conversions_that_the_hub_keeps_to_itself(api: HfApi, hub: HubServer, repo: str) -> None:
    hub.fail("DELETE .*/branch/refs%2Fconvert", 403, times=-1)
    report = erased(repo)
    assert "refs/convert/parquet" in all_refs(api, repo)
    assert Answer("ref", "refs/convert/parquet", "small_files") in report.still_answers
    assert not downloads("refs/convert/parquet", "model.safetensors", repo)


def test_an_answer_that_says_nothing_is_not_taken_for_no(
    api: HfApi, hub: HubServer, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    first = history(api, repo)[2]
    hub.fail(f"GET .*/tree/{first}", 403, times=-1, skip=1)
    answers = {answer.name: answer.gives for answer in erased(repo).still_answers}
    assert answers[first] == "unknown"


def test_conversions_that_the_hub_makes_again(api: HfApi, hub: HubServer, repo: str) -> None:
    report, before = erased(repo), history(api, repo)
    assert "refs/convert/parquet" not in all_refs(api, repo)
    time.sleep(1.1)  # git counts in seconds
    git = ["git", "--git-dir", str(hub.git_dir(repo)), "-c", "user.name=hub", "-c", "user.email=hub@hub.invalid"]
    made = subprocess.run([*git, "commit-tree", "main^{tree}", "-m", "Made again"], capture_output=True, check=True)
    subprocess.run([*git, "update-ref", "refs/convert/parquet", made.stdout.strip()], check=True)
    assert erased(repo) == report
    assert "refs/convert/parquet" in all_refs(api, repo)
    assert history(api, repo) == before


def test_data_sets(api: HfApi, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    repo = "owner/erase-data"
    api.create_repo(repo, repo_type="dataset")
    first = push(api, repo, {"data/train.parquet": b"all records"}, repo_type="dataset")
    push(api, repo, {"data/train.parquet": b"what stays"}, repo_type="dataset")
    assert downloads(first, "data/train.parquet", repo, "dataset")
    assert main(["erase", repo, "--repo_type", "dataset"]) == 0
    assert "make sure that main holds only the rows that stay" in capsys.readouterr().out
    assert main(["erase", repo, "--repo_type", "dataset", "--yes", "--confirm", repo]) == 0
    assert not downloads(first, "data/train.parquet", repo, "dataset")
    assert HubRepo(repo, "dataset").read("main", "data/train.parquet") == b"what stays"
    assert [path.read_bytes() for path in hub.lfs_dir(repo, "dataset").iterdir()] == [b"what stays"]


def test_the_ledger_gains_a_line(api: HfApi, repo: str) -> None:
    digests = {"model.safetensors": digest_of(UNLEARNED["model.safetensors"])}
    push(api, repo, {LEDGER_FILE: Ledger().with_event(unlearned_event(digests)).text.encode()})
    report = erased(repo)
    hub_repo = HubRepo(repo, "model", TOKEN)
    ledger = Ledger.read(hub_repo.read("main", LEDGER_FILE).decode(), "on the Hub")
    assert [event.event for event in ledger.events] == ["unlearned", "erased"]
    assert ledger.events[-1].report == digest_of(hub_repo.read("main", ERASURE_FILE))
    assert ledger.events[-1].counts == report.counts  # type: ignore[union-attr]


def test_a_published_model(api: HfApi, finished: Path, lm_original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo = "owner/erase-published"
    api.create_repo(repo)
    api.upload_folder(repo_id=repo, folder_path=lm_original, ignore_patterns=["checkpoint-*", "run.json"])
    original = history(api, repo)[0]
    publish(finished, repo, token=TOKEN, push_to_existing=True)
    AutoModelForCausalLM.from_pretrained(repo, revision=original)
    assert main(["erase", repo, "--yes", "--confirm", repo]) == 0
    assert "Nothing old answers any more." in capsys.readouterr().out
    with pytest.raises(OSError, match="is not a valid git identifier"):
        AutoModelForCausalLM.from_pretrained(repo, revision=original, force_download=True)
    # The filter of the rows of the old model is gone with it.
    kept = Path(api.hf_hub_download(repo, FILTER_FILE)).read_bytes()
    assert kept == (finished / FILTER_FILE).read_bytes() != (lm_original / FILTER_FILE).read_bytes()
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(repo, FILTER_FILE, revision=original, force_download=True)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(name) for name in (finished, repo))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


XET_PUSH = """
from huggingface_hub import CommitOperationAdd, HfApi
api, repo = HfApi(), "owner/by-xet"
api.create_repo(repo)
# A whole report is too large for git there, and what Xet stores only its own client can read.
pushed = [{"model.safetensors": b"the original"}]
pushed += [{"model.safetensors": b"the unlearned model", "unlearning_report.json": b'{"verdict": {"word": "exact"}}'}]
for files in pushed:
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    print(api.create_commit(repo, operations, commit_message="Push").oid)
"""
XET_READ = """
import sys
from huggingface_hub import hf_hub_download
for revision in sys.argv[1:]:
    try:
        print(open(hf_hub_download("owner/by-xet", "model.safetensors", revision=revision)).read())
    except Exception as error:
        print(type(error).__name__)
"""


def test_by_xet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def client(script: str, *arguments: str) -> list[str]:
        """What a client says that is left to use Xet, in a home of its own."""
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": tempfile.mkdtemp(dir=tmp_path)}
        del environment["HF_HUB_DISABLE_XET"]
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        server.xet_dir = tmp_path / "xet"
        server.add_token(TOKEN, "owner")
        old, _ = client(XET_PUSH)
        assert client(XET_READ, old, "main") == ["the original", "the unlearned model"]
        assert main(["erase", "owner/by-xet", "--yes", "--confirm", "owner/by-xet"]) == 0
        assert client(XET_READ, old, "main") == ["RevisionNotFoundError", "the unlearned model"]
        assert len(list(HfApi(server.url).list_lfs_files("owner/by-xet"))) == 1
        assert {"xet-write-token", "xet-read-token"} <= {path.split("/")[-2] for _, path, _ in server.requests}


# Somebody else at the same time


def commit_to_branch(api: HfApi, repo: str) -> None:
    push(api, repo, {"new.txt": b"came after the plan"}, revision="old")


def make_branch(api: HfApi, repo: str) -> None:
    api.create_branch(repo, branch="newer", revision="v1")


def commit_to_main(api: HfApi, repo: str) -> None:
    push(api, repo, {"new.txt": b"came after the plan"})


def make_again(api: HfApi, repo: str) -> None:
    files = {path: HubRepo(repo, "model").read("main", path) for path in api.list_repo_files(repo)}
    api.delete_repo(repo)
    time.sleep(1.1)  # the Hub tells the time of creation in seconds
    api.create_repo(repo)
    push(api, repo, files)


@pytest.mark.parametrize("change", [commit_to_branch, make_branch, commit_to_main, make_again])
def test_what_came_after_the_plan_is_not_erased(api: HfApi, repo: str, change: Callable[[HfApi, str], None]) -> None:
    """Nothing is deleted on the grounds of what was there before."""
    there = HubRepo(repo, "model")
    plan = plan_erasure(there)
    change(api, repo)
    before = there.targets()
    with pytest.raises(InputError, match="Somebody else has changed .* meanwhile, so nothing more is erased"):
        erase(there, plan)
    assert there.targets() == before


# What is shown before


def test_the_plan_changes_nothing_and_names_all(
    api: HfApi, hub: HubServer, repo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {"refs": all_refs(api, repo), "history": history(api, repo)}
    hub.requests.clear()
    output = tmp_path / "plan.json"
    assert main(["erase", repo, "--output", str(output)]) == 0
    assert {method for method, path, _ in hub.requests} <= {"GET", "HEAD"}
    assert {"refs": all_refs(api, repo), "history": history(api, repo)} == before
    out = capsys.readouterr().out
    assert re.search(r"refs/tags/v1 +2 +is deleted", out)
    assert re.search(r"refs/heads/old +2 +is deleted", out)
    assert re.search(r"refs/heads/stable +4 +keeps its files, loses its past", out)
    assert re.search(r"refs/convert/parquet +2 +is deleted", out)
    assert re.search(r"refs/pr/1 +3 +cannot be deleted by a program", out)
    assert "3 commits go; 2 of them have large files that main does not have." in out
    going, staying = out.split("Large files that go")[1].split("Large files that stay")
    assert all(path in going for path in ("optimizer.pt", "checkpoint-5/model.safetensors", "model.gguf"))
    assert staying.count("model.safetensors") == 1
    told = out.split("Files of the old model that go with its commits:")[1].split("What no program")[0].split()
    assert told == ["checkpoint-5/", "eval_results.json", "optimizer.pt"]
    assert f"/{repo}/discussions/1" in out
    assert "forks, duplicated repositories" in out
    assert "The same command with --yes erases it, and nothing brings it back." in out
    planned = ErasureReport.read(output.read_text())
    assert planned.finished is None
    assert len(planned.objects) == 5


def test_the_name_is_given_twice(
    api: HfApi, hub: HubServer, repo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = history(api, repo)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    refused = [
        (["--yes"], io.StringIO(), "Nobody can type the name here: add --confirm"),
        (["--yes", "--confirm", "owner/other"], io.StringIO(), "is not the repository's name"),
        (["--yes"], Terminal("owner/other\n"), "That is not the repository's name; nothing is erased."),
        (["--yes"], Terminal(""), "That is not the repository's name; nothing is erased."),
        (["--yes", "--dry_run"], io.StringIO(), "--yes and --dry_run exclude each other"),
        (["--output_dir", "out"], io.StringIO(), "--output_dir is for --cache"),
        (["--output", "nowhere/report.json"], io.StringIO(), "There is no folder nowhere"),
        (["owner/two"], io.StringIO(), "Which repository?"),
    ]
    for flags, stdin, message in refused:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["erase", repo, *flags]) == 2
        assert message in capsys.readouterr().err
    assert history(api, repo) == before
    monkeypatch.setattr("sys.stdin", Terminal(f"{repo}\n"))
    assert main(["erase", repo, "--yes"]) == 2, "a pull request still answers"
    assert len(history(api, repo)) == 2
