"""The Hub: loading from it and publishing to it, over its real protocol."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn import InputError, UnlearningReport, publish
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.models import locate

from .conftest import OTHER_TOKEN, READ_TOKEN, TOKEN, secrets_rows
from .hub_server import HubServer


@pytest.fixture
def owner(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """Logged in as the owner."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return HfApi(token=TOKEN)


@pytest.fixture(scope="module")
def published(hub: HubServer, lm_settings: dict[str, Any], lm_original: Path, lm_base: Path) -> dict[str, Any]:
    """The tiny model, its base and its data as private repositories, and the settings that name them."""
    api = HfApi(token=TOKEN)
    record = json.loads((lm_original / "training_record.json").read_text())
    for name, folder in (("owner/base", lm_base), ("owner/original", lm_original)):
        api.create_repo(name, private=True)
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=["checkpoint-*", "run.json"])
    revision = api.model_info("owner/base").sha
    record |= {"base_model": "owner/base", "base_revision": revision}
    api.upload_file(
        repo_id="owner/original", path_in_repo="training_record.json", path_or_fileobj=json.dumps(record).encode()
    )
    api.upload_file(
        repo_id="owner/original", path_in_repo="README.md", path_or_fileobj=b"---\nlicense: mit\n---\n# The original\n"
    )
    Dataset.from_list(secrets_rows()).push_to_hub("owner/secrets", private=True, token=TOKEN)
    return {
        **{key: value for key, value in lm_settings.items() if key != "original"},
        "model_name_or_path": "owner/original",
        "dataset_name": "owner/secrets",
        "method": "base",
        "budget": 0.05,
    }


def run(recipe: Any, capsys: pytest.CaptureFixture[str], *flags: str, **settings: Any) -> tuple[int, str, str]:
    code = main(["run", "--config", str(recipe(**settings)), *flags])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_from_the_hub_and_back_in_one_commit(
    hub: HubServer,
    owner: HfApi,
    published: dict[str, Any],
    recipe: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(
        recipe, capsys, "--push", **published, output_dir=str(tmp_path / "out"), hub_model_id="owner/unlearned"
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
        "generation_config.json",
        "loss_histograms.png",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_record.json",
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

    # the same command again publishes nothing new
    capsys.readouterr()
    code, out, err = run(
        recipe, capsys, "--push", **published, output_dir=str(tmp_path / "out"), hub_model_id="owner/unlearned"
    )
    assert (code, "has files already; choose a new name" in err) == (2, True)
    assert "holds this run, finished" in out


def test_a_model_that_did_not_forget_is_not_published(
    owner: HfApi, published: dict[str, Any], recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**published, "method": "fine_tune", "learning_rate": 1e-5, "output_dir": str(tmp_path / "out")}
    code, _, err = run(recipe, capsys, "--push", **settings, hub_model_id="owner/remembers")
    assert code == 2
    assert "The verdict is not_forgotten, so the model is not published" in err
    assert not owner.repo_exists("owner/remembers")
    code, out, _ = run(recipe, capsys, "--push", "--push_anyway", **settings, hub_model_id="owner/remembers")
    assert code == 0
    assert "holds this run, finished" in out
    body = ModelCard.load("owner/remembers").text.strip()
    assert body.startswith("> **This model still knows the records it was asked to forget.**")


@pytest.fixture
def finished(
    owner: HfApi, published: dict[str, Any], recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    folder = tmp_path / "out"
    code, _, err = run(recipe, capsys, **published, output_dir=str(folder))
    assert code == 0, err
    return folder


def test_publishing_later_and_elsewhere(
    owner: HfApi, finished: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["push", str(finished), "--hub_model_id", "owner/later", "--hub_private_repo"]) == 0
    assert owner.model_info("owner/later").private
    assert main(["push", str(finished), "--hub_model_id", "owner/later"]) == 2
    assert "has files already; choose a new name, or add --push_to_existing" in capsys.readouterr().err
    assert main(["push", str(finished), "--hub_model_id", "owner/later", "--push_to_existing"]) == 0
    assert "The weights that owner/later had before stay readable in its history" in caplog.text
    # a card that somebody has edited is left alone
    card = finished / "README.md"
    card.write_text(card.read_text() + "\nEdited by hand.\n")
    assert main(["push", str(finished), "--hub_model_id", "owner/edited"]) == 0
    assert "Edited by hand." in ModelCard.load("owner/edited").content


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
    published: dict[str, Any],
    recipe: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Any,
) -> None:
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with pytest.raises(InputError, match="nor a repository on the Hub that you may read"):
        locate("owner/original", "main")
    folder = tmp_path / "out"
    code, _, err = run(recipe, capsys, **{**published, "output_dir": str(folder)})
    assert code == 2
    assert "you may read" in err
    assert not folder.exists()


def test_a_hub_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    import sys

    # A process of its own: the clients take the address of the Hub at import.
    script = "from hf_unlearn.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    environment = {**__import__("os").environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    flags = ["run", "--model_name_or_path", "owner/original", "--dataset_name", "x.jsonl"]
    done = subprocess.run([sys.executable, "-c", script, *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        r"hf-unlearn run: The model 'owner/original' is not on this machine and the Hub cannot be reached\.\n",
        done.stderr,
    )


def test_data_from_the_hub_and_streamed(
    hub: HubServer, owner: HfApi, published: dict[str, Any], recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(load_dataset("owner/secrets", split="train")) == 60
    for streaming in ("false", "true"):
        assert main(["split", "--config", str(recipe(**published)), "--dataset_streaming", streaming]) == 0
        out = capsys.readouterr().out
        assert re.search(r"rows to forget \(S\)\s+10\n", out)
        assert re.search(r"rows retained \(L\)\s+40\n", out)
    assert main(["split", "--config", str(recipe(**published)), "--dataset_revision", "nope"]) == 2
    assert "has no such revision" in capsys.readouterr().err
