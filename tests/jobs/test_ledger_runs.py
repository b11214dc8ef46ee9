"""Deletions one after another, through the localhost Hub: what was forgotten stays so, and nobody can hide it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, hf_hub_download
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hf_unlearn import InputError, UnlearningReport, publish
from hf_unlearn.cli import main
from hf_unlearn.data.request.digests import digest_each, load_digest_key
from hf_unlearn.jobs.preparation import prepare_run
from hf_unlearn.models.loading import load_any
from hf_unlearn.models.location import ModelSource, locate
from hf_unlearn.publishing.ledger import (
    LEDGER_FILE,
    Erased,
    Ledger,
    Unlearned,
    digest_of,
    file_digest,
    line_of,
    load_ledger,
)
from hf_unlearn.publishing.ledger_of_model import ledger_key, ledger_of
from hf_unlearn.publishing.loaded_files import mark
from hf_unlearn.training.lineage import find_base

from ..conftest import TOKEN, secrets_rows
from ..publishing.test_ledger import changed
from ..support.hub_server import HubServer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

RAW = "---\nlicense: mit\n---\n# Raw\n## Records taken out on request\nNone yet.\n\n## More\n"
REQUESTS = {"jane-doe.txt": ["p-000", "p-001"], "b.jsonl": ["p-002"], "c.csv": ["p-003", "p-004"]}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "digest.key"
    load_digest_key(path)
    return path


@pytest.fixture(scope="module")
def chain(
    hub_settings: dict[str, Any], key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Three runs in a row, each from what the one before has published, none of which repeats earlier ids."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "requests").mkdir()
    common = {
        **hub_settings,
        "max_steps": 1,
        "measure_steps": 0,
        "digest_key_file": str(key_file),
        "save_strategy": "no",
    }
    common = {name: value for name, value in common.items() if name not in ("forget_ids", "budget")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)

        def run(number: int, **settings: Any) -> dict[str, Any]:
            parent = f"owner/deleted-{number - 1}" if number > 1 else "owner/original"
            out = str(folder / f"out-{number}")
            settings = {**common, "model_name_or_path": parent, "output_dir": out, **settings}
            recipe = folder / f"recipe-{number}.yaml"
            recipe.write_text(yaml.safe_dump({**settings, "hub_model_id": f"owner/deleted-{number}"}))
            assert main(["run", "--config", str(recipe), "--push", "--push_anyway"]) == 0
            return settings

        for name in ("jane-doe.txt", "b.jsonl"):
            ids = REQUESTS[name]
            lines = [json.dumps(i) for i in ids] if name.endswith("jsonl") else ids
            (folder / "requests" / name).write_text("".join(f"{line}\n" for line in lines))
        run(1, forget_requests=str(folder / "requests"), method="fine_tune")
        (folder / "requests" / "c.csv").write_text("id\np-003\np-004\n")
        run(2, forget_requests=str(folder / "requests"))
        last = run(3, forget_rows=[5])
        yield {"folder": folder, "settings": last}


@pytest.fixture
def signed_in(chain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return HfApi(token=TOKEN)


@pytest.fixture
def last(chain: dict[str, Any], signed_in: HfApi, tmp_path: Path) -> Path:
    """A copy of the last run's folder."""
    return shutil.copytree(chain["folder"] / "out-3", tmp_path / "out-3")


def next_settings(chain: dict[str, Any], tmp_path: Path, **more: Any) -> dict[str, Any]:
    settings = {**chain["settings"], "model_name_or_path": "owner/deleted-3", "output_dir": str(tmp_path / "next")}
    del settings["forget_rows"]
    return {**settings, **more}


def command(recipe: Any, *words: str, **settings: Any) -> int:
    return main([*words, "--config", str(recipe(**settings))])


def ids(part: Any) -> set[str]:
    return {row["id"] for row in part}


# What was forgotten stays so


def test_three_deletions_in_a_row_and_none_of_them_comes_back(
    chain: dict[str, Any], signed_in: HfApi, tmp_path: Path
) -> None:
    forgotten = {f"p-{i:03d}" for i in range(6)}
    held_out = {f"p-{i:03d}" for i in range(50, 60)}
    prepared = prepare_run(next_settings(chain, tmp_path, forget_values=["id=p-006"]))
    assert ids(prepared.parts.forget) == {"p-006"}
    assert ids(prepared.parts.holdout) == held_out
    assert ids(prepared.parts.retained) == {row["id"] for row in secrets_rows()} - forgotten - held_out - {"p-006"}
    streamed = prepare_run(
        next_settings(chain, tmp_path, forget_values=["id=p-006"], dataset_streaming=True, max_steps=1)
    )
    assert ids(streamed.parts.retained) == ids(prepared.parts.retained)
    # so it was in the runs themselves
    reports = [UnlearningReport.load(chain["folder"] / f"out-{n}" / "unlearning_report.json") for n in (1, 2, 3)]
    counts = [
        (report.audit.forget_rows, report.audit.forgotten_before_rows, report.audit.retained_rows)
        for report in reports
        if report.audit is not None
    ]
    assert counts == [(3, 0, 47), (2, 3, 45), (1, 5, 44)]


def test_the_lines_say_what_happened(chain: dict[str, Any], signed_in: HfApi, key_file: Path) -> None:
    ledger = ledger_of(locate("owner/deleted-3"))
    assert ledger is not None
    assert ledger == load_ledger(chain["folder"] / "out-3")
    first, second, third = ledger.runs
    key = load_digest_key(key_file)
    assert [run.rows for run in ledger.runs] == [3, 2, 1]
    assert [run.method for run in ledger.runs] == ["fine_tune", "base", "base"]
    told = {digest for part in first.forgotten for digest in part.digests}
    assert told == set(digest_each(key, [f"id\x1fp-00{i}" for i in range(3)]))
    assert (len(first.requests), len(second.requests), len(third.requests)) == (2, 1, 0)
    assert [part.whole_rows for part in third.forgotten] == [True]
    # the commit that a run led to is the parent of the next
    for number, run in enumerate((second, third), start=1):
        assert run.parent is not None
        assert run.parent.name == f"owner/deleted-{number}"
        assert run.parent.commit == signed_in.model_info(run.parent.name).sha
        assert run.parent.weights == ledger.runs[number - 1].weights
    assert second.dataset.revision == signed_in.dataset_info("owner/secrets").sha
    assert second.key_check == third.key_check


def test_no_id_no_key_and_no_name_of_a_request_leaves(chain: dict[str, Any], key_file: Path) -> None:
    for path in [path for n in (1, 2, 3) for path in (chain["folder"] / f"out-{n}").rglob("*") if path.is_file()]:
        content = path.read_bytes()
        assert b"jane-doe" not in content, path
        assert b"p-00" not in content, path
        assert key_file.read_bytes() not in content, path


def test_the_same_command_ends_with_the_same_ledger(
    chain: dict[str, Any], signed_in: HfApi, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recipe = chain["folder"] / "out-3", chain["folder"] / "recipe-3.yaml"
    written = (folder / LEDGER_FILE).read_bytes()
    (folder / LEDGER_FILE).unlink()  # a kill between the card and the ledger
    with pytest.raises(InputError, match="is missing beside 'out-3', and its report says that there is one"):
        ledger_of(locate(str(folder)))
    commit = signed_in.model_info("owner/deleted-3").sha
    assert main(["run", "--config", str(recipe), "--push", "--push_anyway"]) == 0
    assert "holds this run, finished" in capsys.readouterr().out
    assert (folder / LEDGER_FILE).read_bytes() == written
    assert signed_in.model_info("owner/deleted-3").sha == commit
    # a line about an erasure is kept, as it came after the run
    erased = Erased("2026-11-28T10:00:00+00:00", "owner/deleted-3", digest_of("report"), {"objects": 1})
    Ledger.read(written.decode(), "here").with_event(erased).save(folder)
    longer = (folder / LEDGER_FILE).read_bytes()
    assert main(["run", "--config", str(recipe)]) == 0
    assert (folder / LEDGER_FILE).read_bytes() == longer
    (folder / LEDGER_FILE).write_bytes(written)
    # a report that is completed later changes the run's own line and no other
    report = folder / "unlearning_report.json"
    kept = report.read_bytes()
    replace(UnlearningReport.load(report), licence="apache-2.0").save(report)
    assert main(["run", "--config", str(recipe)]) == 0
    ledger = ledger_of(locate(str(folder)))
    assert ledger is not None
    again, before = ledger.events[-1], Ledger.read(written.decode(), "here").events[-1]
    assert isinstance(again, Unlearned)
    assert isinstance(before, Unlearned)
    assert again.seal != before.seal
    assert replace(again, report=digest_of(kept), seal=before.seal) == before
    report.write_bytes(kept)
    assert main(["run", "--config", str(recipe)]) == 0
    assert (folder / LEDGER_FILE).read_bytes() == written
    # other weights or settings are not signed in their place
    for name in ("model.safetensors", "config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"0.1", b"0.2") if name == "config.json" else content[:-1] + b"\1")
        capsys.readouterr()
        assert main(["run", "--config", str(recipe)]) == 2
        assert "is no longer the one that its unlearning_ledger.jsonl names" in capsys.readouterr().err
        (folder / name).write_bytes(content)
    assert (folder / LEDGER_FILE).read_bytes() == written


# Requests that were honoured


def test_a_request_that_was_honoured_costs_nothing(
    chain: dict[str, Any], signed_in: HfApi, recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = next_settings(chain, tmp_path, forget_requests=str(chain["folder"] / "requests"))
    assert command(recipe, "run", **settings) == 0
    out = capsys.readouterr()
    assert out.out.endswith("All 5 ids that the request names were forgotten before; there is nothing to do.\n")
    assert not (tmp_path / "next").exists()
    # with a new one beside, it is said of each, to the owner alone
    requests = shutil.copytree(chain["folder"] / "requests", tmp_path / "requests")
    (requests / "new.txt").write_text("p-004\np-007\n")
    (requests / ".hidden").write_text("p-009\n")
    (requests / "done").mkdir()
    assert command(recipe, "split", **{**settings, "forget_requests": str(requests)}) == 0
    out = capsys.readouterr()
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out.out.splitlines() if line.strip()}
    assert lines["jane-doe.txt"] == "2 2 forgotten already"
    assert lines["new.txt"] == "2 1 pending"
    assert "2 hidden files or folders in the folder of requests were ignored." in out.out
    assert re.search(r"rows to forget \(S\)\s+1\n", out.out)
    assert re.search(r"rows forgotten before, left out\s+6\n", out.out)
    # what is measured again is S again
    prepared = prepare_run({**settings, "forget_requests": str(chain["folder"] / "requests")}, ask_again=True)
    assert ids(prepared.parts.forget) == {f"p-00{i}" for i in range(5)}
    assert prepared.parts.audit.forgotten_before_rows == 1


def test_the_key_must_be_that_of_the_ledger(
    chain: dict[str, Any], signed_in: HfApi, recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.key"
    settings = next_settings(chain, tmp_path, forget_values=["id=p-006"], digest_key_file=str(other))
    assert command(recipe, "run", **settings) == 2
    assert "is not there; name the key that unlearning_ledger.jsonl was written with" in capsys.readouterr().err
    assert not other.exists(), "a new key would be of no use"
    load_digest_key(other)
    assert command(recipe, "run", **settings) == 2
    assert "is not the key that unlearning_ledger.jsonl was written with" in capsys.readouterr().err


# Nobody can hide it


def differs_in_seal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a line says the same as another, with another seal or none."""
    rest = [json.dumps(line | {"seal": ""}, sort_keys=True) for line in (one, other)]
    return rest[0] == rest[1] and bool(re.fullmatch("[0-9a-f]{64}", str(one.get("seal", "0" * 64))))


def test_each_change_of_a_line_is_found(last: Path, key_file: Path) -> None:
    ledger = load_ledger(last)
    assert ledger is not None
    source = locate(str(last))
    assert ledger_of(source) == ledger
    lines = [line_of(event) for event in ledger.events]
    tried = 0
    for number, event in enumerate(ledger.events):
        for variant in changed(asdict(event) | {"event": event.event}):
            line = json.dumps(variant, sort_keys=True, separators=(",", ":"))
            (last / LEDGER_FILE).write_text("\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n")
            if number == len(lines) - 1 and differs_in_seal(variant, json.loads(lines[-1])):
                # The last seal is the one thing that nobody sees without the key.
                found = ledger_of(source)
                assert found is not None
                with pytest.raises(InputError, match="not written with the owner's key"):
                    ledger_key(str(key_file), found)
            else:
                with pytest.raises(InputError, match=r"was changed|are not those that"):
                    ledger_of(source)
            tried += 1
    assert tried > 150


def test_a_chain_that_was_made_anew_is_found(last: Path) -> None:
    ledger, source = load_ledger(last), locate(str(last))
    assert ledger is not None
    one, two, three = ledger.runs

    def chained(*events: Unlearned) -> str:
        made = Ledger()
        for event in events:
            made = made.with_event(event)
        return made.text

    forged = [
        (replace(one, rows=1), two, three),
        (one, replace(two, forgotten=[]), three),
        (one, two, replace(three, forgotten=[])),
        (one, two, replace(three, verdict="exact!")),
        (one, two, replace(three, report=two.report)),
        (one, two, replace(three, weights=two.weights)),
        (two, three),
        (one, two),
        (one, three),
        (one, two, three, three),
        (one, three, two),
    ]
    for events in forged:
        (last / LEDGER_FILE).write_text(chained(*events))
        with pytest.raises(InputError, match=r"was changed or shortened|are not those that"):
            ledger_of(source)


def test_report_and_weights_must_be_those_of_the_last_line(last: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = locate(str(last))
    report, weights = last / "unlearning_report.json", last / "model.safetensors"
    kept = {path: path.read_bytes() for path in (report, weights)}
    report.write_bytes(kept[report].replace(b'"exact"', b'"certified"'))
    with pytest.raises(InputError, match="was changed or shortened, or unlearning_report.json was"):
        ledger_of(source)
    report.unlink()
    with pytest.raises(InputError, match="was changed or shortened, or unlearning_report.json was"):
        ledger_of(source)
    report.write_bytes(kept[report])
    weights.write_bytes(kept[weights][:-1] + b"\1")
    with pytest.raises(InputError, match="The weights of 'out-3' are not those"):
        ledger_of(source)
    with pytest.raises(InputError, match="The weights of 'out-3' are not those"):
        publish(last, "owner/never", token=TOKEN)
    assert main(["ledger", "verify", str(last)]) == 2
    assert "are not those" in capsys.readouterr().err
    weights.write_bytes(kept[weights])
    shutil.copy(weights, last / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match="are not those"):
        ledger_of(source)


def test_all_that_is_loaded_must_be_as_the_last_line_says(last: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, ledger = locate(str(last)), load_ledger(last)
    assert ledger is not None
    files = ledger.runs[-1].files
    assert files is not None
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= files.keys()
    changes = {name: (last / name).read_bytes() + b" " for name in files}
    others = ("adapter_config.json", "chat_template.jinja", "additional_chat_templates/tool.jinja", "vocab.json")
    for name, content in [*changes.items(), *((name, b"{}") for name in others), ("config.json", None)]:
        path = last / name
        before = path.read_bytes() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(InputError, match=f"{name} of 'out-3', which are loaded with the weights, are not those"):
            ledger_of(source)
        path.unlink(missing_ok=True) if before is None else path.write_bytes(before)
    assert main(["ledger", "verify", str(last)]) == 0
    assert f"So are the {len(files)} other files that are loaded with them." in capsys.readouterr().out
    (last / "README.md").write_text("Somebody's own words.")
    ledger_of(source)


def test_a_line_from_before_the_files_were_noted_is_read(last: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, report = load_ledger(last), last / "unlearning_report.json"
    assert ledger is not None
    old = replace(ledger.runs[-1], files=None)
    report.write_text(report.read_text().replace(ledger.runs[-1].statement, old.statement))
    Ledger((*ledger.events[:-1], replace(old, report=file_digest(report)))).save(last)
    (last / "chat_template.jinja").write_text("x")
    assert main(["ledger", "verify", str(last)]) == 0
    assert "from before the other files that are loaded with them were noted" in capsys.readouterr().out


def test_a_model_whose_ledger_is_gone_is_refused(
    last: Path, chain: dict[str, Any], tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (LEDGER_FILE, "unlearning_report.json"):
        (last / name).unlink()
    settings = next_settings(chain, tmp_path, model_name_or_path=str(last), forget_values=["id=p-006"])
    assert command(recipe, "split", **settings) == 2
    told = capsys.readouterr().err
    assert "A ledger belongs to 'out-3', as its config.json says, and unlearning_ledger.jsonl is missing" in told
    config = json.loads((last / "config.json").read_text())
    assert config.pop("unlearning_ledger") is True
    (last / "config.json").write_text(json.dumps(config))
    assert command(recipe, "split", **settings) == 0


def test_an_adapter_says_that_it_has_a_ledger(tmp_path: Path) -> None:
    weights = {"base_model.model.x.lora_A.weight": torch.ones(2, 3)}
    save_file(weights, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_text("{}")
    source = ModelSource(str(tmp_path), adapter=True)
    assert ledger_of(source) is None
    mark(tmp_path)
    first = (tmp_path / "adapter_model.safetensors").read_bytes()
    mark(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == first
    assert torch.equal(load_file(tmp_path / "adapter_model.safetensors").popitem()[1], torch.ones(2, 3))
    with pytest.raises(InputError, match=r"as its adapter_model\.safetensors says, .* is missing; restore it"):
        ledger_of(source)


@pytest.mark.parametrize(
    "away", ["../secret.safetensors", "old/model-1.safetensors", "/secret.safetensors", "..", "", 7]
)
def test_an_index_that_leads_elsewhere_is_refused(away: Any, lm_base: Path, last: Path, tmp_path: Path) -> None:
    model = shutil.copytree(lm_base, tmp_path / "model")
    for folder in (model, last):
        weights = safe_open(folder / "model.safetensors", "pt")
        (folder / "old").mkdir()
        shutil.copy(folder / "model.safetensors", folder / "old" / "model-1.safetensors")
        (folder / "model.safetensors").rename(folder / "model-2.safetensors")
        names = dict.fromkeys(weights.keys(), "model-2.safetensors") | {"model.norm.weight": away}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    uses = [
        lambda: load_any(locate(str(model)), None),
        lambda: ledger_of(locate(str(last))),
        lambda: publish(last, "owner/never", token=TOKEN),
    ]
    for use in uses:
        with pytest.raises(InputError, match=r"names 1 files in other folders|is no index of weights"):
            use()


def test_shards_of_any_name_are_the_weights_that_are_checked(last: Path, tmp_path: Path) -> None:
    source = locate(str(last))
    (last / "model.safetensors").rename(last / "other.safetensors")
    with safe_open(last / "other.safetensors", "pt") as weights:
        names = dict.fromkeys(weights.keys(), "other.safetensors")
    (last / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(InputError, match="The weights of 'out-3' are not those"):
        ledger_of(source)


def test_a_changed_ledger_on_the_hub_stops_a_run_before_a_model_is_loaded(
    chain: dict[str, Any],
    signed_in: HfApi,
    last: Path,
    hub: HubServer,
    recipe: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(last, "owner/tampered", token=TOKEN)
    weights = digest_of((last / "model.safetensors").read_bytes())
    lines = (last / LEDGER_FILE).read_text().splitlines(keepends=True)
    for content in ("".join(lines[:2]), "".join(lines).replace('"rows":3', '"rows":2'), None):
        if content is None:
            signed_in.delete_file(LEDGER_FILE, "owner/tampered")
        else:
            signed_in.upload_file(repo_id="owner/tampered", path_in_repo=LEDGER_FILE, path_or_fileobj=content.encode())
        seen = len(hub.store_requests)
        settings = next_settings(chain, tmp_path, forget_values=["id=p-006"], model_name_or_path="owner/tampered")
        assert command(recipe, "run", **settings) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "restore" in err
        fetched = [path for _, path, _ in hub.store_requests[seen:]]
        assert not any(path.endswith(weights) for path in fetched), "they stay where they are"
        assert not (tmp_path / "next").exists()
    assert TOKEN not in err


def test_a_ledger_on_the_hub_loses_no_line(chain: dict[str, Any], signed_in: HfApi, last: Path) -> None:
    publish(chain["folder"] / "out-1", "owner/grown", token=TOKEN, push_anyway=True)
    # what goes on where it ends may follow
    publish(last, "owner/grown", token=TOKEN, push_to_existing=True)
    with pytest.raises(InputError, match="tells of other requests than .*; start the run from the model that is"):
        publish(chain["folder"] / "out-2", "owner/grown", token=TOKEN, push_to_existing=True)
    # what was erased there is known there alone
    ledger = load_ledger(last)
    assert ledger is not None
    erased = Erased("2026-11-28T10:00:00+00:00", "owner/grown", digest_of("report"), {"objects": 1})
    longer = ledger.with_event(erased).text
    signed_in.upload_file(repo_id="owner/grown", path_in_repo=LEDGER_FILE, path_or_fileobj=longer.encode())
    publish(last, "owner/grown", token=TOKEN)
    assert Path(hf_hub_download("owner/grown", LEDGER_FILE, token=TOKEN)).read_text() == longer
    assert ledger_of(locate("owner/grown")) is not None


# A model that had to forget is no base


def test_the_original_is_never_taken_for_the_base(
    chain: dict[str, Any], signed_in: HfApi, tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    card = hf_hub_download("owner/deleted-1", "README.md", token=TOKEN)
    assert "base_model: owner/original" in Path(card).read_text()
    shutil.copytree(chain["folder"] / "out-1", folder := tmp_path / "bare")
    (folder / "training_record.json").unlink()
    publish(folder, "owner/bare", token=TOKEN, push_anyway=True)
    source = locate("owner/bare")
    base = find_base(source, None, None, None)
    assert base is not None
    assert base.name == "owner/base", "as the report says"
    # named, or copied under another name, it is refused
    copied = tmp_path / "copied"
    signed_in.snapshot_download("owner/original", local_dir=copied)
    for name in ("owner/original", str(copied)):
        with pytest.raises(InputError, match="cannot be the base of 'owner/bare'.*had to be forgotten"):
            find_base(source, None, name, None)
    settings = next_settings(chain, tmp_path, forget_values=["id=p-006"], model_name_or_path="owner/bare")
    settings |= {"base_model_name_or_path": "owner/original", "max_steps": 1}
    assert command(recipe, "run", **settings) == 2
    assert "cannot be the base of 'owner/bare'" in capsys.readouterr().err
    # with the card alone nobody knows a base
    for name in ("unlearning_report.json", LEDGER_FILE):
        (folder / name).unlink()
    assert find_base(locate(str(folder)), None, None, None) is None


# The commands


def test_a_ledger_is_verified_and_shown(
    chain: dict[str, Any], signed_in: HfApi, hub: HubServer, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = len(hub.store_requests)
    assert main(["ledger", "verify", "owner/deleted-3"]) == 0
    out = capsys.readouterr().out
    assert "The chain of 3 lines is intact" in out
    assert "The owner's key is not here" in out
    assert "The weights are those that line 3 names (1 file, as the Hub states it, not downloaded)" in out
    weights = digest_of((chain["folder"] / "out-3" / "model.safetensors").read_bytes())
    assert not any(path.endswith(weights) for _, path, _ in hub.store_requests[seen:])
    assert main(["ledger", "verify", "owner/deleted-3", "--digest_key_file", str(key_file)]) == 0
    assert "All 3 runs were written with the owner's key." in capsys.readouterr().out
    assert main(["ledger", "verify", str(chain["folder"] / "out-2")]) == 0
    assert "(1 file, read here)" in capsys.readouterr().out
    assert main(["ledger", "show", "owner/deleted-3"]) == 0
    out = capsys.readouterr().out
    for number in (1, 2, 3):
        assert str(signed_in.model_info(f"owner/deleted-{number}").sha)[:8] in out, "the last one's too"
    assert main(["ledger", "verify", "owner/base"]) == 2
    assert "There is no unlearning_ledger.jsonl beside 'owner/base'" in capsys.readouterr().err


def test_with_the_key_it_can_be_proven(
    chain: dict[str, Any], signed_in: HfApi, key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prove = ["ledger", "prove", "owner/deleted-3", "--column", "id", "--digest_key_file", str(key_file), "--id"]
    for value, line in (("p-001", 1), ("p-004", 2)):
        assert main([*prove, value]) == 0
        out = capsys.readouterr().out
        assert f"line {line} of the ledger has its digest" in out
        word = re.search("its verdict: ([a-z_]+)", out)[1]  # type: ignore[index]
        done = word in ("exact", "certified", "not_distinguished")
        assert out.startswith("Forgotten: " if done else f"Asked to be forgotten, and the run ended {word}: ")
        assert "margin ±0.10 in AUC; attacks: " in out
        assert value not in out
    assert main([*prove, "p-020"]) == 1
    assert capsys.readouterr().out == "Not forgotten: no line of the ledger has its digest.\n"
    prove[4] = "customer"
    assert main([*prove, "p-001"]) == 2
    assert "no ids of a column 'customer'; it has those of id" in capsys.readouterr().err
    prove[4], prove[6] = "id", str(tmp_path / "other.key")
    load_digest_key(tmp_path / "other.key")
    assert main([*prove, "p-001"]) == 2
    assert "p-001" not in capsys.readouterr().err
    assert main(["ledger", "prove", "owner/deleted-3", "p-001"]) == 2
    assert "p-001" not in capsys.readouterr().err


# L in place of D


def test_the_retained_data_set_takes_the_place_of_d(
    chain: dict[str, Any], signed_in: HfApi, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(chain["folder"] / "out-3")
    push = ["push", folder, "--digest_key_file", str(key_file), "--retained_dataset"]
    assert main([*push, "owner/kept"]) == 0
    out = capsys.readouterr().out
    assert "none of the 6 forgotten records is in the split 'train'" in out
    assert signed_in.dataset_info("owner/kept").private, "as D is"
    rows = load_dataset("owner/kept", split="train")
    assert ids(rows) == {row["id"] for row in secrets_rows()[6:]}
    assert rows.features == load_dataset("owner/secrets", split="train").features
    card = Path(hf_hub_download("owner/kept", "README.md", repo_type="dataset", token=TOKEN)).read_text()
    assert "6 of the 60 records of the split `train` were taken out" in card
    assert "named in 3 runs" in card
    assert main([*push, "owner/kept"]) == 2
    assert "has files already; choose a new name, or add --push_to_existing" in capsys.readouterr().err


def test_files_that_the_records_were_in_go_and_other_splits_stay(
    chain: dict[str, Any], signed_in: HfApi, key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps(row) + "\n" for row in secrets_rows()]
    signed_in.create_repo("owner/raw", repo_type="dataset")
    for name, content in (
        ("train.jsonl", rows),
        ("test.jsonl", rows[3:20]),
        ("README.md", [RAW]),
        ("raw.bak", rows),
    ):
        signed_in.upload_file(
            repo_id="owner/raw", repo_type="dataset", path_in_repo=name, path_or_fileobj="".join(content).encode()
        )
    before = signed_in.dataset_info("owner/raw").sha
    push = ["push", str(chain["folder"] / "out-3"), "--digest_key_file", str(key_file), "--dataset_name", "owner/raw"]
    assert main([*push, "--retained_dataset", "owner/raw", "--push_to_existing"]) == 0
    out = capsys.readouterr().out
    assert "3 records in its other splits and configurations carry ids or values that were to be forgotten." in out
    assert "until `hf-unlearn erase owner/raw --repo_type dataset`" in out
    files = set(signed_in.list_repo_files("owner/raw", repo_type="dataset"))
    assert not {"train.jsonl", "test.jsonl"} & files
    data = load_dataset("owner/raw")
    assert ids(data["train"]) == {row["id"] for row in secrets_rows()[6:]}
    assert data["test"]["id"][:] == [row["id"] for row in secrets_rows()[3:20]]
    card = Path(hf_hub_download("owner/raw", "README.md", repo_type="dataset", token=TOKEN)).read_text()
    assert card.index("# Raw") < card.index("## Records taken out on request") < card.index("## More")
    assert "Not checked, because no configuration is made of them: raw.bak." in out
    # the history has them, as was said; the same command again finds nothing to take out
    assert "train.jsonl" in signed_in.list_repo_files("owner/raw", repo_type="dataset", revision=before)
    assert main([*push, "--retained_dataset", "owner/raw", "--push_to_existing"]) == 2
    assert "has none of the forgotten records, so there is nothing to take out" in capsys.readouterr().err
    assert main(["push", str(chain["folder"] / "out-3")]) == 2
    assert "Where to?" in capsys.readouterr().err
    assert main([*push, "--retained_dataset", "owner/other", "--hub_revision", "draft"]) == 2
    assert "are for the model; leave them out" in capsys.readouterr().err
    assert os.environ["HF_TOKEN"] not in out
    assert Dataset.from_list(secrets_rows()).features == data["train"].features
