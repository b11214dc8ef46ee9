"""The Hub: loading from it and publishing to it, over its real protocol."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import HfApi, ModelCard, constants, hf_api
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn import InputError, UnlearningReport, publish
from hf_unlearn.cli import main
from hf_unlearn.data.request.row_filter import FILTER_FILE
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.models.location import LEDGER_MARK, locate
from hf_unlearn.publishing.ledger import LEDGER_FILE
from hf_unlearn.publishing.sections import BEFORE_AND_AFTER

from ..conftest import OTHER_TOKEN, READ_TOKEN, TOKEN
from ..support.hub_server import HubServer


def run(recipe: Any, capsys: pytest.CaptureFixture[str], *flags: str, **settings: Any) -> tuple[int, str, str]:
    code = main(["run", "--config", str(recipe(**settings)), *flags])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_from_the_hub_and_back_in_one_commit(
    hub: HubServer,
    owner: HfApi,
    hub_settings: dict[str, Any],
    recipe: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(
        recipe, capsys, "--push", **hub_settings, output_dir=str(tmp_path / "out"), hub_model_id="owner/unlearned"
    )
    assert code == 0, err
    assert "exact" in out

    # one commit, in a real repository
    git_dir = hub.git_dir("owner/unlearned")
    git = ["git", "--git-dir", str(git_dir)]
    log = subprocess.run([*git, "log", "--format=%s"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert log[0] == "Unlearn 10 records with base: exact"
    assert len(log) == 2, "the first is the Hub's own"
    assert subprocess.run([*git, "fsck", "--strict"], capture_output=True).returncode == 0
    assert set(owner.list_repo_files("owner/unlearned")) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "forgetting_curve.png",
        "generation_config.json",
        "loss_histograms.png",
        "model.safetensors",
        "roc.png",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_filter.json",
        "training_record.json",
        "unlearning_ledger.jsonl",
        "unlearning_report.json",
    }
    assert not any(authorised for _, _, authorised in hub.store_requests)

    # plain Auto classes load it, bit for bit
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained("owner/unlearned")
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained("owner/unlearned")("a b") == AutoTokenizer.from_pretrained(tmp_path / "out")(
        "a b"
    )

    # the card knows where everything came from
    card = ModelCard.load("owner/unlearned")
    data = card.data.to_dict()
    assert data["license"] == "mit"
    assert data["base_model"] == "owner/base"
    assert data["datasets"] == ["owner/secrets"]
    assert f"revision `{owner.dataset_info('owner/secrets').sha}`" in card.content
    assert f"commit `{owner.model_info('owner/original').sha}`" in card.content
    assert 'model="owner/unlearned"' in card.content
    assert str(tmp_path) not in card.content
    report = UnlearningReport.load(tmp_path / "out" / REPORT_FILE)
    assert report.original is not None
    assert report.original.revision == owner.model_info("owner/original").sha

    # the same command again finds it published
    before = owner.model_info("owner/unlearned").sha
    code, out, err = run(
        recipe, capsys, "--push", **hub_settings, output_dir=str(tmp_path / "out"), hub_model_id="owner/unlearned"
    )
    assert code == 0, err
    assert "holds this run, finished" in out
    assert f"/owner/unlearned/commit/{before}" in out
    assert owner.model_info("owner/unlearned").sha == before


def test_a_model_that_did_not_forget_is_not_published(
    owner: HfApi, hub_settings: dict[str, Any], recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**hub_settings, "method": "fine_tune", "learning_rate": 1e-5, "output_dir": str(tmp_path / "out")}
    code, _, err = run(recipe, capsys, "--push", **settings, hub_model_id="owner/remembers")
    assert code == 2
    assert "The verdict is not_forgotten (margin ±0.10 in AUC; attacks: loss, " in err
    assert "so the model is not published" in err
    assert not owner.repo_exists("owner/remembers")
    code, out, _ = run(recipe, capsys, "--push", "--push_anyway", **settings, hub_model_id="owner/remembers")
    assert code == 0
    assert "holds this run, finished" in out
    body = ModelCard.load("owner/remembers").text.strip()
    assert body.startswith("> **This model still knows the records it was asked to forget.**")


def without_ledger(folder: Path) -> None:
    """Make a finished run one from before there were ledgers."""
    (folder / LEDGER_FILE).unlink()
    config = json.loads((folder / "config.json").read_text())
    del config[LEDGER_MARK]
    (folder / "config.json").write_text(json.dumps(config))


def test_a_model_that_lost_its_utility_is_not_published(
    owner: HfApi, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = UnlearningReport.load(finished / REPORT_FILE)
    assert report.utility is not None
    lost = replace(report, utility=replace(report.utility, word="lost"), ledger=None)
    lost.save(finished / REPORT_FILE)
    without_ledger(finished)
    assert main(["card", str(finished)]) == 0
    push = ["push", str(finished), "--hub_model_id", "owner/useless"]
    assert main(push) == 2
    assert "The utility is lost" in capsys.readouterr().err
    assert not owner.repo_exists("owner/useless")
    assert main([*push, "--push_anyway"]) == 0
    assert ModelCard.load("owner/useless").text.strip().startswith("> **This model does its task worse than the")


def test_publishing_later_and_elsewhere(
    owner: HfApi, finished: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["push", str(finished), "--hub_model_id", "owner/later", "--hub_private_repo"]) == 0
    assert owner.model_info("owner/later").private
    # elsewhere, the card calls it by that name
    assert main(["push", str(finished), "--hub_model_id", "elsewhere"]) == 0
    elsewhere = ModelCard.load("owner/elsewhere").content
    assert 'model="owner/elsewhere"' in elsewhere
    assert "owner/later" not in elsewhere
    # a card that somebody has edited is left alone
    card = finished / "README.md"
    card.write_text(card.read_text() + "\nEdited by hand.\n")
    assert main(["push", str(finished), "--hub_model_id", "owner/later"]) == 2
    assert "has files already; choose a new name, or add --push_to_existing" in capsys.readouterr().err
    assert main(["push", str(finished), "--hub_model_id", "owner/later", "--push_to_existing"]) == 0
    assert "The old weights of owner/later stay readable in its history" in caplog.text
    assert "Edited by hand." in ModelCard.load("owner/later").content
    # a filter of the rows of the model from before does not stay beside the new one
    assert owner.file_exists("owner/later", FILTER_FILE)
    (finished / FILTER_FILE).unlink()
    assert main(["push", str(finished), "--hub_model_id", "owner/later", "--push_to_existing"]) == 0
    assert not owner.file_exists("owner/later", FILTER_FILE)


def test_the_model_from_before_beside_it(
    hub: HubServer,
    owner: HfApi,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    push = ["push", str(finished), "--hub_model_id"]
    assert main([*push, "owner/beside-private"]) == 0
    out = capsys.readouterr().out
    assert BEFORE_AND_AFTER in out
    assert "the card of owner/original:\n  new_version: owner/beside-private\n" in out
    assert "public" not in caplog.text
    assert "Here both can be had" not in ModelCard.load("owner/beside-private").text

    report = UnlearningReport.load(finished / REPORT_FILE)
    assert report.original is not None
    # As of a run from before there were ledgers, which would not bear this change.
    replace(report, original=replace(report.original, name="owner/open"), ledger=None).save(finished / REPORT_FILE)
    without_ledger(finished)
    assert main(["card", str(finished)]) == 0
    owner.create_repo("owner/open")
    assert main([*push, "owner/beside-public", "--tell_users_to_move"]) == 0
    assert "owner/open, the original model, is public beside this one." in caplog.text
    card = ModelCard.load("owner/beside-public").text
    assert "**Both can be had: owner/open is public.**" in card
    assert "**If you use owner/open, please move to this model:**" in card
    # The same again is what is there.
    assert main([*push, "owner/beside-public", "--tell_users_to_move"]) == 0
    # What an earlier publishing wrote into the card is renewed; a Hub that does not tell stops nothing.
    fault = hub.fail("GET /api/models/owner/open$", 500)
    assert main([*push, "owner/beside-unknown"]) == 0
    assert fault.times == 0
    assert "owner/open is public" not in ModelCard.load("owner/beside-unknown").text
    assert "please move" not in ModelCard.load("owner/beside-unknown").text
    hub.gate("owner/open")
    assert main([*push, "owner/beside-gated"]) == 0
    assert "owner/open is public" not in ModelCard.load("owner/beside-gated").text
    (finished / "README.md").write_text("---\nlicense: mit\n---\nWritten by hand.\n")
    assert main([*push, "owner/beside-edited", "--tell_users_to_move"]) == 0
    assert "The card has been edited and stays as it is: ask users" in caplog.text
    assert ModelCard.load("owner/beside-edited").text.strip() == "Written by hand."


def test_nobody_is_asked_to_move_to_what_is_not_better(owner: HfApi, finished: Path, tmp_path: Path) -> None:
    report = UnlearningReport.load(finished / REPORT_FILE)
    assert report.original is not None
    remembers = replace(report, verdict=replace(report.verdict, word="not_forgotten"))
    local = replace(report, original=replace(report.original, on_hub=False))
    for told, message in (
        (remembers, r"The verdict is not_forgotten \(margin ±0\.10 in AUC; .*\), so nobody"),
        (local, "is not on the Hub"),
    ):
        told.save(finished / REPORT_FILE)
        with pytest.raises(InputError, match=message):
            publish(finished, "owner/nobody-moves", token=TOKEN, push_anyway=True, tell_users_to_move=True)
    assert not owner.repo_exists("owner/nobody-moves")


def test_the_users_of_a_folder_are_not_asked_to_move(
    recipe: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {key: value for key, value in lm_settings.items() if key != "original"}
    code, _, err = run(recipe, capsys, "--tell_users_to_move", **settings, output_dir=str(tmp_path / "out"))
    assert code == 2
    assert "The original is a folder and has no users on the Hub" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (READ_TOKEN, "owner/new", "may not write there"),
        (OTHER_TOKEN, "owner/new", "may not write there"),
        ("hf_nonsense", "owner/new", "the token is not valid"),
        (TOKEN, "owner/a b", "is not a possible name"),
    ],
)
def test_publishing_that_the_hub_refuses(
    owner: HfApi, finished: Path, token: str, repo: str, message: str, tmp_path: Path
) -> None:
    before = sorted(path.name for path in finished.iterdir())
    with pytest.raises(InputError, match=message) as raised:
        publish(finished, repo, token=token)
    assert token not in str(raised.value)
    assert sorted(path.name for path in finished.iterdir()) == before


def test_an_unfinished_run_is_not_published(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no readable report"):
        publish(tmp_path / "nothing", "owner/x", token=TOKEN)
    (finished / "README.md").rename(finished / "away")
    with pytest.raises(InputError, match="There is no card in .*; write it with `hf-unlearn card"):
        publish(finished, "owner/x", token=TOKEN)
    (finished / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        publish(finished, "owner/x", token=TOKEN)


def test_folders_of_this_machine_are_not_published(owner: HfApi, finished: Path, lm_base: Path) -> None:
    record = json.loads((finished / "training_record.json").read_text())
    (finished / "training_record.json").write_text(json.dumps({**record, "base_model": str(lm_base)}))
    publish(finished, "owner/local", token=TOKEN)
    assert "training_record.json" not in owner.list_repo_files("owner/local")


def test_private_models_and_data_need_the_right_token(
    hub: HubServer,
    hub_settings: dict[str, Any],
    recipe: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Any,
) -> None:
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with pytest.raises(InputError, match="nor a repository on the Hub that you may read"):
        locate("owner/original", "main")
    folder = tmp_path / "out"
    code, _, err = run(recipe, capsys, **{**hub_settings, "output_dir": str(folder)})
    assert code == 2
    assert "you may read" in err
    assert not folder.exists()


def test_a_hub_that_is_gone(
    recipe: Any, hub_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr(hf_api.api, "endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    code, _, err = run(recipe, capsys, **hub_settings)
    assert code == 2
    assert re.fullmatch(
        r"hf-unlearn run: The model 'owner/original' is not on this machine and the Hub cannot be reached\.\n", err
    )


def test_data_from_the_hub_and_streamed(
    hub: HubServer, owner: HfApi, hub_settings: dict[str, Any], recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(load_dataset("owner/secrets", split="train")) == 60
    for streaming in ("false", "true"):
        assert main(["split", "--config", str(recipe(**hub_settings)), "--dataset_streaming", streaming]) == 0
        out = capsys.readouterr().out
        assert re.search(r"rows to forget \(S\)\s+10\n", out)
        assert re.search(r"rows retained \(L\)\s+40\n", out)
    assert main(["split", "--config", str(recipe(**hub_settings)), "--dataset_revision", "nope"]) == 2
    assert "has no such revision" in capsys.readouterr().err
