"""Erasing that is refused, interrupted or watched: nothing is half done for good, and no token is told."""

import json
import logging
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.lifecycle.erase import erase
from hf_unlearn.lifecycle.erase_plan import plan_erasure
from hf_unlearn.lifecycle.erase_report import ERASURE_FILE, Answer, ErasureReport, OldCommit, OldObject, OldRef
from hf_unlearn.lifecycle.hub_repository import HubRepo
from hf_unlearn.publishing.ledger import LEDGER_FILE, Ledger

from ..conftest import OTHER_TOKEN, READ_TOKEN, TOKEN
from ..support.erasing import (
    NOT_FORGOTTEN,
    ORIGINAL,
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

CHANGES = "(POST|DELETE) /api/(models|datasets)/[^/]+/[^/]+/(commit|branch|tag|super-squash|lfs-files)"


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
    refuses(repo, "still has files of the old model", capsys, hub)
    assert main(["erase", repo]) == 0
    told = capsys.readouterr().out.split("still has files of the old model (")[1].split(")")[0]
    assert told == "checkpoint-5/model.safetensors, checkpoint-5/trainer_state.json, optimizer.pt"
    push(api, repo, {}, "optimizer.pt", "checkpoint-5/")
    assert erased(repo).still_answers == []


def test_a_hub_that_does_not_list_what_main_uses(
    api: HfApi, hub: HubServer, repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    used = [info for info in api.list_lfs_files(repo) if info.size == len(UNLEARNED["model.safetensors"])]
    api.permanently_delete_lfs_files(repo, used, rewrite_history=False)
    refuses(repo, "does not list 1 of the large files", capsys, hub)


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
    refuses(repo, "guild, where your role is contributor; it needs the role write", capsys, hub)
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
    with pytest.raises(InputError, match="Somebody else has changed"):
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


def test_a_record_does_not_make_what_main_uses_old(api: HfApi, repo: str) -> None:
    plan = plan_erasure(HubRepo(repo, "model", TOKEN))
    wrong = replace(plan.report, objects=[*plan.report.objects, *plan.staying])
    push(api, repo, {ERASURE_FILE: wrong.text.encode()})
    assert erased(repo).counts["objects"] == 5
    assert downloads("main", "model.safetensors", repo)


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
