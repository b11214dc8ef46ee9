"""``hf-unlearn whereabouts``: which models saw which records, by what lies beside them."""

import io
import json
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from huggingface_hub import HfApi

from hf_unlearn import InputError, Records
from hf_unlearn.cli import main
from hf_unlearn.data.request.digests import ForgottenDigests, digest_each, key_check, load_digest_key
from hf_unlearn.data.request.row_filter import FILTER_FILE
from hf_unlearn.jobs.helping.whereabouts import ABSENT, FORGOTTEN, TRAINED, UNKNOWN, Answer, Search, found_model
from hf_unlearn.models.training_record import RECORD_FILE
from hf_unlearn.publishing.ledger import LEDGER_FILE, Ledger

from ..conftest import OTHER_TOKEN, secrets_rows
from ..data import test_canonical as canonical
from ..publishing.test_ledger import a_run
from ..support.hub_server import HubServer

S, L, H = ([f"p-{i:03d}" for i in part] for part in (range(10), range(10, 50), range(50, 60)))
EVERYONE = [*S, *L, *H]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "digest.key"
    load_digest_key(path)
    return path


@pytest.fixture(scope="module")
def models(lm_settings: dict[str, Any], key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `original`, and with `unlearned`, which forgot S."""
    folder = tmp_path_factory.mktemp("models")
    common = {"max_steps": 2, "save_steps": 1, "digest_key_file": str(key_file)}
    settings = {**lm_settings, **common, "model_name_or_path": str(folder / "original"), "measure_steps": 0}
    settings["original"] = {**lm_settings["original"], **common, "output_dir": str(folder / "original")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    recipe = ["--config", str(folder / "recipe.yaml")]
    assert main(["train", *recipe]) == 0
    assert main(["run", *recipe, "--output_dir", str(folder / "unlearned")]) == 0
    return folder


@pytest.fixture
def ask(models: Path, key_file: Path) -> Any:
    """Asks a model in the folder for ids of a column; gives the states."""

    def states(model: str, ids: list[str], column: str = "id", key: Path = key_file) -> list[str]:
        return Search(column, ids, load_digest_key(key)).ask(found_model(str(models / model))).states

    return states


def test_what_was_forgotten_is_told_from_what_stays_and_what_was_never_there(ask: Any) -> None:
    assert ask("original", EVERYONE) == [TRAINED] * 50 + [ABSENT] * 10
    assert ask("unlearned", EVERYONE) == [FORGOTTEN] * 10 + [TRAINED] * 40 + [ABSENT] * 10


def test_any_column_of_the_rows_can_be_asked_for(ask: Any) -> None:
    rows = secrets_rows()
    assert (
        ask("unlearned", [row["prompt"] for row in rows], "prompt") == [ABSENT] * 10 + [TRAINED] * 40 + [ABSENT] * 10
    )
    assert set(ask("unlearned", [row["group"] for row in rows], "group")) == {TRAINED}
    assert set(ask("original", EVERYONE, "customer")) == {UNKNOWN}


def test_with_another_key_nothing_is_known(ask: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    load_digest_key(other)
    for model in ("original", "unlearned"):
        assert ask(model, EVERYONE, key=other) == [UNKNOWN] * 60


def test_without_a_filter_the_ledger_still_tells(models: Path, ask: Any, tmp_path: Path) -> None:
    shutil.copytree(models / "unlearned", models / "old", ignore=shutil.ignore_patterns(FILTER_FILE))
    assert ask("old", EVERYONE) == [FORGOTTEN] * 10 + [UNKNOWN] * 50
    shutil.copytree(models / "unlearned", models / "other", ignore=shutil.ignore_patterns(LEDGER_FILE))
    assert ask("other", EVERYONE) == [ABSENT] * 10 + [TRAINED] * 40 + [ABSENT] * 10


def test_a_model_knows_what_its_base_knew(models: Path, ask: Any, key_file: Path) -> None:
    """What was trained on the original has seen S, whatever its own rows are."""
    for name, base in (("later", "original"), ("last", "later"), ("after", "unlearned"), ("lost", "nowhere")):
        shutil.copytree(models / "unlearned", models / name, ignore=shutil.ignore_patterns("checkpoint-*"))
        record = json.loads((models / name / RECORD_FILE).read_text()) | {"base_model": str(models / base)}
        (models / name / RECORD_FILE).write_text(json.dumps(record))
    (models / "last" / FILTER_FILE).unlink()
    (models / "after" / LEDGER_FILE).unlink()
    assert ask("later", EVERYONE) == [TRAINED] * 50 + [ABSENT] * 10
    assert ask("last", EVERYONE) == [TRAINED] * 50 + [UNKNOWN] * 10
    assert ask("after", EVERYONE) == [FORGOTTEN] * 10 + [TRAINED] * 40 + [ABSENT] * 10
    assert ask("lost", EVERYONE) == ask("unlearned", EVERYONE)
    search = Search("id", EVERYONE, load_digest_key(key_file))
    assert "10 trained by its base" in " ".join(search.named(str(models / "later")).notes)
    assert "cannot be looked into" in " ".join(search.named(str(models / "lost")).notes)


def test_a_training_that_goes_on_after_a_kill_has_the_same_filter(models: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((models / "recipe.yaml").read_text())
    folder = shutil.copytree(models / "original", tmp_path / "original")
    for path in folder.iterdir():
        if path.name not in ("checkpoint-1", "run.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    recipe["original"]["output_dir"] = str(folder)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "--config", str(tmp_path / "recipe.yaml")]) == 0
    assert (folder / FILTER_FILE).read_bytes() == (models / "original" / FILTER_FILE).read_bytes()


def known_by(folder: Path, digests: list[ForgottenDigests], asked: list[str]) -> list[str]:
    """What a model says of ids that has nothing but a ledger."""
    run = replace(a_run(1), forgotten=digests, key_check=key_check(canonical.KEY))
    Ledger().with_event(run, canonical.KEY).save(folder)
    return Search("id", asked, canonical.KEY).ask(found_model(str(folder))).states


@pytest.mark.parametrize(
    ("column", "asked"),
    [
        (pa.array(range(6)), ["1", "02", "3", "x"]),
        (pa.array([*map(float, range(5)), None]), ["1", "2.0", "3", "x"]),
        (pa.array(list("abcdef")), ["b", "c", "d", "x"]),
        (pa.array(canonical.AWARE, pa.timestamp("us", "UTC")), [str(one) for one in canonical.AWARE[1:5]]),
        (pa.array(canonical.DAYS), [str(one) for one in canonical.DAYS[1:5]]),
    ],
)
def test_a_ledger_is_read_whatever_type_its_ids_had(column: pa.Array, asked: list[str], tmp_path: Path) -> None:
    data = canonical.data(column)
    digests = canonical.split(data, Records.ids("id", data[1:3]["id"])).forgotten.digests
    assert known_by(tmp_path, digests, asked) == [FORGOTTEN] * 2 + [UNKNOWN] * 2
    # Of rows that were named by their position, the ledger has no ids.
    assert known_by(tmp_path, canonical.split(data, Records.rows([1])).forgotten.digests, asked) == [UNKNOWN] * 4


def test_an_older_ledger_has_ids_as_python_wrote_them(tmp_path: Path) -> None:
    digests = digest_each(canonical.KEY, ["id\x1f1.0", "id\x1f2", "id\x1fx"])
    old = [ForgottenDigests(["id"], False, sorted(digests))]
    assert known_by(tmp_path, old, ["1", "2", "x", "3"]) == [FORGOTTEN] * 3 + [UNKNOWN]


def test_a_ledger_that_somebody_else_wrote_is_no_word(tmp_path: Path) -> None:
    run = replace(a_run(1), key_check=key_check(canonical.KEY))
    Ledger().with_event(run, b"fedcba9876543210").save(tmp_path)
    with pytest.raises(InputError, match="was not written with the owner's key"):
        Search("id", ["a"], canonical.KEY).ask(found_model(str(tmp_path)))


# The command


def command(key_file: Path, *words: Any) -> int:
    return main(["whereabouts", "--digest_key_file", str(key_file), *map(str, words)])


def rows_of(text: str) -> dict[str, list[int]]:
    """The numbers of each line of the table, by the last part of the model's name."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        numbers = [int(word) for word in words if word.isdigit()]
        if len(numbers) >= 4:
            found[words[0].rpartition("/")[2]] = numbers[:4]
    return found


def test_the_command_counts_and_prints_no_id(
    models: Path, key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("".join(f"{one}\n" for one in ["p-003", "", "p-055", "p-020", "p-003"]))
    Path("models.txt").write_text(f"{models / 'original'}\n\n{models / 'unlearned'}\n")
    words = ("--column", "id", "--models", "models.txt", "--output", "out.json")
    assert command(key_file, "--ids", "ids.txt", *words) == 0
    told = capsys.readouterr().out
    assert rows_of(told) == {"original": [2, 0, 1, 0], "unlearned": [1, 1, 1, 0], "all": [2, 0, 1, 0]}
    assert "p-0" not in told
    assert "3 ids of the column id" in told
    assert "The run that forgot 1 ended undecided: it may know them." in " ".join(told.split())
    found = json.loads(Path("out.json").read_text())
    assert stat.S_IMODE(Path("out.json").stat().st_mode) == 0o600
    assert "p-0" not in Path("out.json").read_text()
    assert [(row["line"], row["states"]) for row in found["rows"]] == [
        (1, [TRAINED, FORGOTTEN]),
        (3, [ABSENT, ABSENT]),
        (4, [TRAINED, TRAINED]),
    ]
    assert found["models"][1]["counts"] == {TRAINED: 1, FORGOTTEN: 1, ABSENT: 1, UNKNOWN: 0}
    # The same again, from standard input, over its own file.
    monkeypatch.setattr(sys, "stdin", io.StringIO("p-003\n\np-055\np-020\n"))
    assert command(key_file, "--ids", "-", *words) == 0
    assert rows_of(capsys.readouterr().out)["unlearned"] == [1, 1, 1, 0]


def test_models_of_an_owner_on_the_hub(
    models: Path, key_file: Path, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    api = HfApi(token=OTHER_TOKEN)
    for name in ("original", "unlearned"):
        api.create_repo(f"other/where-{name}", private=True)
        api.upload_folder(
            repo_id=f"other/where-{name}", folder_path=models / name, allow_patterns=["*.json", "*.jsonl"]
        )
    (tmp_path / "ids.txt").write_text("p-003\np-020\np-055\n")
    assert command(key_file, "--ids", tmp_path / "ids.txt", "--column", "id", "--models", "other") == 0
    found = rows_of(capsys.readouterr().out)
    assert (found["where-original"], found["where-unlearned"]) == ([2, 0, 1, 0], [1, 1, 1, 0])
    one = ("--ids", tmp_path / "ids.txt", "--column", "id", "--models", "other/where-unlearned")
    assert command(key_file, *one) == 0
    assert list(rows_of(capsys.readouterr().out)) == ["where-unlearned"]


def test_a_model_of_an_owner_that_nobody_may_read_is_unknown(key_file: Path, hub: HubServer) -> None:
    search = Search("id", ["a", "b"], load_digest_key(key_file))
    with pytest.raises(InputError):
        search.named("other/not-there")
    answer = search.named("other/not-there", listed_by_hub=True)
    assert answer == Answer("other/not-there", [UNKNOWN] * 2, [None] * 2, answer.notes)
    assert "other/not-there" in answer.notes[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": "c-017"}, "--ids names no file; write the ids into one"),
        ({"ids": "ids.docx"}, "ids.docx is no file of ids"),
        ({"ids": "empty.txt"}, "empty.txt holds no ids"),
        ({"ids": "half.jsonl"}, "Some ids are no Unicode text"),
        ({"models": "nowhere/at all"}, "There is no folder, file or model 'nowhere/at all'"),
        ({"models": "empty.txt"}, "empty.txt names no model"),
        ({"models": "names.txt"}, "There is no folder, file or model './gone', as names.txt says"),
        ({"models": "folder"}, "There is no model in the folder folder"),
        ({"models": "nobody-has-this-name"}, "no model of an owner nobody-has-this-name"),
        ({"models": "m" * 300}, "cannot be looked up"),
        ({"digest_key_file": "none.key"}, "The digest key none.key is not there"),
        ({"output": "names.txt"}, "holds something else, which would be lost"),
    ],
)
def test_bad_input_is_one_sentence(
    changed: dict[str, str],
    message: str,
    key_file: Path,
    hub: HubServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name, text in {
        "ids.txt": "a\n",
        "ids.docx": "a\n",
        "empty.txt": "\n",
        "names.txt": "./gone\n",
        "half.jsonl": '"\\ud800"\n',
    }.items():
        Path(name).write_text(text)
    flags = {"ids": "ids.txt", "column": "id", "models": "folder", "digest_key_file": str(key_file)} | changed
    assert main(["whereabouts", *(word for name, value in flags.items() for word in (f"--{name}", value))]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert "c-017" not in told
