"""Erasing what a repository was before: what goes, what stays, and that nothing old answers, whatever happens."""

import io
import json
import logging
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session
from transformers import AutoModelForCausalLM

from hf_unlearn import InputError, publish
from hf_unlearn.cli import main
from hf_unlearn.erase import erase
from hf_unlearn.erase_plan import plan_erasure
from hf_unlearn.erase_report import ERASURE_FILE, Answer, ErasureReport, OldCommit, OldObject, OldRef
from hf_unlearn.hub_repo import HubRepo
from hf_unlearn.ledger import LEDGER_FILE, Ledger, LedgerData, LedgerModel, Unlearned, digest_of

from .conftest import OTHER_TOKEN, READ_TOKEN, TOKEN
from .hub_server import HubServer

REPORTS = Path(__file__).parents[1] / "model_cards"
EXACT = (REPORTS / "sms-spam-minilm-base" / "unlearning_report.json").read_bytes()
NOT_FORGOTTEN = (REPORTS / "tofu-forget10-tinystories-fine_tune" / "unlearning_report.json").read_bytes()
CHANGES = "(POST|DELETE) /api/(models|datasets)/[^/]+/[^/]+/(commit|branch|tag|super-squash|lfs-files)"


def weights(version: str) -> bytes:
    return f"the weights of {version}".encode()


ORIGINAL = {
    "model.safetensors": weights("the original"),
    "optimizer.pt": weights("the optimizer"),
    "checkpoint-5/model.safetensors": weights("a checkpoint"),
    "checkpoint-5/trainer_state.json": b"{}",
    "eval_results.json": b'{"eval_loss": 1.5}',
    "config.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n# The original\n",
}
UNLEARNED = {
    "model.safetensors": weights("the unlearned model"),
    "unlearning_report.json": EXACT,
    "README.md": b"---\nlicense: mit\n---\n# The unlearned model\n",
}


@pytest.fixture
def api(owner: HfApi, hub: HubServer) -> Iterator[HfApi]:
    hub.requests.clear()
    hub.store_requests.clear()
    yield owner
    hub.faults.clear()
    hub.keeps_unreachable = False
    assert not any(authorised for _, _, authorised in hub.store_requests), "the store is another host"


def push(api: HfApi, repo: str, files: dict[str, bytes], *deleted: str, message: str = "Push", **options: str) -> str:
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in deleted]
    commit = api.create_commit(repo, operations, commit_message=message, **options)
    return commit.pr_revision if options.get("create_pr") else commit.oid


@pytest.fixture(scope="module")
def template(hub: HubServer) -> str:
    """A model that was trained, fine-tuned on and unlearned in one repository, with refs of all kinds."""
    api, repo = HfApi(token=TOKEN), "owner/template"
    api.create_repo(repo)
    first = push(api, repo, ORIGINAL)
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="old")
    push(api, repo, {"notes.txt": b"on the original", "model.gguf": weights("a pull request")}, create_pr=True)
    push(api, repo, {"model.safetensors": weights("a later one")})
    push(api, repo, UNLEARNED, "optimizer.pt", "checkpoint-5/", "eval_results.json")
    api.create_branch(repo, branch="stable")
    git = ["git", "--git-dir", str(hub.git_dir(repo))]
    subprocess.run([*git, "update-ref", "refs/convert/parquet", first], check=True)
    return repo


@pytest.fixture
def repo(api: HfApi, hub: HubServer, template: str) -> str:
    return hub.duplicate(template, f"owner/erase-{secrets.token_hex(4)}")


def downloads(revision: str, path: str, repo: str, repo_type: str = "model") -> bool:
    """Whether somebody with a token gets the file, by a request of their own."""
    url = hf_hub_url(repo, path, revision=revision, repo_type=repo_type)
    response = get_session().get(url, headers=build_hf_headers(token=TOKEN))
    assert response.status_code in (200, 404), response.text
    return response.status_code == 200


def history(api: HfApi, repo: str) -> list[str]:
    return [commit.commit_id for commit in api.list_repo_commits(repo)]


def all_refs(api: HfApi, repo: str) -> set[str]:
    refs = api.list_repo_refs(repo, include_pull_requests=True)
    return {ref.ref for ref in (*refs.branches, *refs.tags, *refs.converts, *(refs.pull_requests or []))}


def erased(repo: str, **options: bool) -> ErasureReport:
    hub_repo = HubRepo(repo, "model", TOKEN)
    return erase(hub_repo, plan_erasure(hub_repo, **options))


def end_state(api: HfApi, hub: HubServer, repo: str) -> dict[str, object]:
    """All that an erasure decides, without what differs by the time of day."""
    report = ErasureReport.read(HubRepo(repo, "model", TOKEN).read("main", ERASURE_FILE))
    return {
        "refs": all_refs(api, repo),
        "files": {entry.path for entry in api.list_repo_tree(repo, recursive=True)},
        "commits": len(history(api, repo)),
        "stored": {path.name for path in hub.lfs_dir(repo).iterdir()},
        "counts": report.counts,
        "recorded": (report.refs, report.commits, report.objects),
        "finished": report.finished is not None,
    }


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
    assert "make sure that main holds what stays" in capsys.readouterr().out
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


def unlearned_event(weights: dict[str, str]) -> Unlearned:
    return Unlearned(
        time="2026-11-28T12:00:00+00:00",
        method="base",
        road="exact",
        verdict="exact",
        rows=1,
        ids=1,
        ids_found=1,
        forgotten=[],
        requests=[],
        dataset=LedgerData("owner/data", None, "train", None, None),
        parent=LedgerModel("owner/original", None, {}),
        weights=weights,
        report=digest_of(EXACT),
        key_check="0" * 64,
        software="0.1.0",
    )


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
    assert "The same command with --yes does it, and nothing brings it back." in out
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
        (["--yes", "--dry_run"], io.StringIO(), "not allowed with argument"),
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


# What is refused


SOUND = ErasureReport(
    repo="owner/x",
    repo_type="model",
    verdict="exact",
    started="2026-11-28T12:00:00+00:00",
    finished=None,
    refs=[OldRef("refs/tags/v1", "0" * 40, 1, "deleted")],
    commits=[OldCommit("0" * 40, "model.safetensors")],
    objects=[OldObject("0" * 64, 1, "model.safetensors")],
    still_answers=[Answer("commit", "0" * 40, "small_files")],
    software={},
)


@pytest.mark.parametrize(
    "changed",
    [
        {"refs": [OldRef("refs/../../other/repo", "0" * 40, 1, "deleted")]},
        {"refs": [OldRef("refs/tags/v1", "0" * 40, 1, "eaten")]},  # type: ignore[arg-type]
        {"commits": [OldCommit("..", "model.safetensors")]},
        {"commits": [OldCommit("0" * 40, "../../../other/repo/resolve/main/model.safetensors")]},
        {"objects": [OldObject("../../other", 1, "model.safetensors")]},
        {"objects": [OldObject("0" * 64, "many", "model.safetensors")]},  # type: ignore[arg-type]
        {"still_answers": [Answer("commit", "0" * 40, "everything")]},  # type: ignore[arg-type]
        {"finished": "yesterday"},
        {"refs": None},
    ],
)
def test_a_record_that_somebody_else_wrote(changed: dict) -> None:
    assert ErasureReport.read(SOUND.text) == SOUND
    with pytest.raises(InputError, match="erasure_report.json cannot be read"):
        ErasureReport.read(json.dumps({**asdict(SOUND), **changed}, default=asdict))


def refuses(repo: str, message: str, capsys: pytest.CaptureFixture[str], hub: HubServer) -> None:
    hub.requests.clear()
    assert main(["erase", repo, "--yes", "--confirm", repo]) == 2
    assert message in capsys.readouterr().err
    assert {method for method, _, _ in hub.requests} <= {"GET", "HEAD"}, "nothing was changed"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"unlearning_report.json": NOT_FORGOTTEN}, "The verdict on the model in owner/.* is not_forgotten"),
        ({"unlearning_report.json": b"{}"}, "The unlearning_report.json on the main branch of .* cannot be read"),
        ({LEDGER_FILE: b"{}\n"}, "Line 1 of unlearning_ledger.jsonl in .* was changed"),
        (
            {LEDGER_FILE: Ledger().with_event(unlearned_event({"model.safetensors": "0" * 64})).text.encode()},
            "are not those that its ledger names last",
        ),
        ({ERASURE_FILE: b"[]"}, "erasure_report.json cannot be read"),
    ],
)
def test_models_that_are_not_what_is_to_stay(
    api: HfApi, hub: HubServer, repo: str, files: dict[str, bytes], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    push(api, repo, files)
    hub.requests.clear()
    assert main(["erase", repo, "--yes", "--confirm", repo]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert {method for method, _, _ in hub.requests} <= {"GET", "HEAD"}, "nothing was changed"


def test_a_model_without_a_report_and_whatever_the_verdict(
    api: HfApi, hub: HubServer, repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    push(api, repo, {}, "unlearning_report.json")
    assert main(["erase", repo]) == 0
    assert "It will be refused:" in capsys.readouterr().out
    refuses(repo, "nothing says that its model has forgotten", capsys, hub)
    report = erased(repo, whatever_the_verdict=True)
    assert report.verdict is None
    assert report.counts["objects"] == 6


def test_files_of_the_old_model_on_main(
    api: HfApi, hub: HubServer, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = "owner/leftovers"
    api.create_repo(repo)
    push(api, repo, ORIGINAL)
    push(api, repo, UNLEARNED)
    refuses(repo, "still has files of the model from before", capsys, hub)
    assert main(["erase", repo]) == 0
    told = capsys.readouterr().out.split("still has files of the model from before (")[1].split(")")[0]
    assert told == "checkpoint-5/model.safetensors, checkpoint-5/trainer_state.json, optimizer.pt"
    push(api, repo, {}, "optimizer.pt", "checkpoint-5/")
    assert erased(repo).still_answers == []


def test_repositories_of_others(
    api: HfApi, hub: HubServer, repo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    refuses(repo, f"{repo} is not yours: the token belongs to other", capsys, hub)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    refuses(repo, "the token may not write there", capsys, hub)
    monkeypatch.setenv("HF_TOKEN", "hf_nonsense")
    refuses(repo, "the token is not valid or has expired", capsys, hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    refuses("owner/nowhere", "it is not there, or the token may not see it", capsys, hub)
    refuses("owner/a b", "is not a possible name", capsys, hub)
    refuses("nameless", "nameless is not yours", capsys, hub)


def test_organizations(api: HfApi, hub: HubServer, template: str, capsys: pytest.CaptureFixture[str]) -> None:
    repo = hub.duplicate(template, "guild/model")
    hub.add_organization("guild", owner="contributor")
    refuses(repo, "guild, where your role is contributor; it takes write", capsys, hub)
    hub.add_organization("guild", owner="write")
    assert erased(repo).counts["objects"] == 5


def test_a_repository_that_was_renamed(
    api: HfApi, hub: HubServer, repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.rename(repo, f"{repo}-2")
    refuses(repo, f"{repo} is called {repo}-2 on the Hub; give it that name", capsys, hub)


def test_somebody_who_pushes_meanwhile(api: HfApi, hub: HubServer, repo: str) -> None:
    hub_repo = HubRepo(repo, "model", TOKEN)
    plan = plan_erasure(hub_repo)
    push(api, repo, {"model.safetensors": weights("somebody else")})
    with pytest.raises(Exception, match="412"):
        erase(hub_repo, plan)
    plan = plan_erasure(HubRepo(repo, "model", TOKEN))
    hub_repo.commit({ERASURE_FILE: plan.report.text}, "Begin", plan.head)
    push(api, repo, {"model.safetensors": weights("a third one")})
    with pytest.raises(InputError, match="Somebody else has changed"):
        erase(hub_repo, replace(plan, begun=True))
    stored = {path.read_bytes() for path in hub.lfs_dir(repo).iterdir()}
    assert {weights("somebody else"), weights("a third one"), weights("the original")} <= stored


# Interruptions


@pytest.fixture(scope="module")
def uninterrupted(hub: HubServer, template: str) -> dict[str, object]:
    """How an erasure ends that nothing disturbs, and how many requests change something on the way."""
    repo = hub.duplicate(template, "owner/undisturbed")
    hub.requests.clear()
    erased(repo)
    asked = [f"{method} {path}" for method, path, _ in hub.requests]
    return {
        "end": end_state(HfApi(token=TOKEN), hub, repo),
        "changes": sum(re.match(CHANGES, request) is not None for request in asked),
        "requests": len(asked),
    }


def test_interrupted_at_any_change_it_comes_to_the_same_end(
    api: HfApi, hub: HubServer, template: str, uninterrupted: dict
) -> None:
    changes = uninterrupted["changes"]
    assert changes == 8
    # An answer that is lost leaves what the refusal of the next change leaves, but for the last change.
    for number, lost in [*((number, False) for number in range(changes)), (changes - 1, True)]:
        repo = hub.duplicate(template, f"owner/cut-{number}-{lost}")
        fault = hub.fail(CHANGES, None if lost else 500, lose_reply=lost, skip=number)
        with pytest.raises(Exception, match="500|disconnected|reset"):
            erased(repo)
        assert fault.times == 0
        hub.faults.clear()
        erased(repo)
        assert end_state(api, hub, repo) == uninterrupted["end"], (number, lost)


@pytest.mark.slow
def test_interrupted_at_any_request_it_comes_to_the_same_end(
    api: HfApi, hub: HubServer, template: str, uninterrupted: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    for number in range(uninterrupted["requests"]):
        repo = hub.duplicate(template, f"owner/dead-{number}")
        hub.fail("/api/|/resolve/|/info/lfs/", 500, times=-1, skip=number)
        with pytest.raises(Exception, match="500"):
            erased(repo)
        hub.faults.clear()
        erased(repo)
        assert end_state(api, hub, repo) == uninterrupted["end"], number


def test_limits_are_waited_for(api: HfApi, hub: HubServer, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for pattern in ("GET .*/refs", "super-squash", "lfs-files/batch", "DELETE .*/tag/", "info/lfs/objects/batch"):
        hub.fail(pattern, 429, headers={"Retry-After": "300"})
    # While it is tried what still answers.
    hub.fail("GET .*/resolve/[0-9a-f]{40}/(?!unlearning_report)", 429, headers={"Retry-After": "300"})
    assert erased(repo).counts["objects"] == 5
    assert waited == [300] * 6


# Tokens


def test_the_token_is_nowhere(
    api: HfApi,
    hub: HubServer,
    repo: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "hf_TheTokenThatErases0123456789"
    hub.add_token(secret, "owner")
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setattr("time.sleep", lambda _: None)
    caplog.set_level(logging.DEBUG)
    command = ["erase", repo, "--yes", "--confirm", repo, "--output", str(tmp_path / "report.json")]
    for place in ("whoami", "/refs", "commit/", "super-squash", "lfs-files", "info/lfs"):
        for status in (403, 500):
            hub.fail(place, status, times=-1)
            main(command)
            hub.faults.clear()
    main(command)
    said = capfd.readouterr()
    assert secret not in said.out + said.err + caplog.text
    files = [*tmp_path.rglob("*"), *hub.git_dir(repo).rglob("*")]
    assert not any(secret.encode() in path.read_bytes() for path in files if path.is_file())
    assert json.loads((tmp_path / "report.json").read_text())["finished"]
