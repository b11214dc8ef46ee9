"""From ``init`` to a finished run and a guard, on data that is not in the repository and without an edit of a file."""

import io
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, load_dataset

from hf_unlearn import InputError, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.data.holdout import choose_holdout
from hf_unlearn.jobs.helping.recipe_writing import _layout

WORDS = (
    "river", "stone", "cloud", "paper", "garden", "window", "bridge", "copper", "velvet", "harbour", "lantern",
)  # fmt: skip


def note(rng: np.random.Generator, who: str, length: int) -> dict[str, Any]:
    return {"writer": who, "text": " ".join(rng.choice(WORDS, length)), "stars": int(length > 8)}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder with a split that a model saw, of writers with four notes each, and one that it did not."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "notes"
    folder.mkdir()
    seen = [note(rng, f"w{i // 4}", int(rng.integers(4, 14))) for i in range(80)]
    unseen = [note(rng, f"u{i // 4}", int(rng.integers(4, 14))) for i in range(60)]
    # A writer whom the model knows, and a text.
    unseen += [note(rng, "w5", 9), {**seen[30], "writer": "u99"}]
    for name, rows in (("train", seen), ("test", unseen)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "ids.txt").write_text("w0\nw1\nw2\n")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path


def typed(text: str, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    """What somebody types, or pipes in."""
    stream = io.StringIO(text)
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", stream)


def test_three_commands_from_nothing_to_a_verdict_and_a_guard(
    notes: Path, here: Path, lm_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_name_or_path", str(lm_base), "--dataset_name", str(notes), "--holdout_split", "test"]
    assert main(["init", *flags, "--forget_id_column", "writer", "--forget_ids", "ids.txt"]) == 0
    said = capsys.readouterr().out
    assert "12 of its rows are to be forgotten." in said
    assert "1 were left out, because the model saw other records of the same ids." in said
    assert "1 were left out, because the model saw their text." in said
    assert "H is like S: their texts alone tell S from H with an AUC of" in said
    (command,) = [line.split() for line in said.splitlines() if line.startswith("  hf-unlearn run")]
    recipe = here / "recipe.yaml"
    written = yaml.safe_load(recipe.read_text())
    assert {"model_name_or_path", "dataset_name", "forget_ids", "holdout_dataset", "output_dir"} <= set(written)
    assert recipe.read_text().count("# ") >= 5
    held_out = Path(written["holdout_dataset"])
    assert stat.S_IMODE(held_out.stat().st_mode) == 0o600
    chosen = Dataset.from_parquet(str(held_out))
    assert len(chosen) >= 24
    assert not {"w5", "u99"} & set(chosen["writer"])

    assert main(command[1:]) == 0
    folder = here / written["output_dir"]
    report = UnlearningReport.load(folder / "unlearning_report.json")
    assert report.audit is not None
    assert (report.audit.forget_rows, report.audit.holdout_rows) == (12, len(chosen))
    capsys.readouterr()

    new = here / "new.jsonl"
    new.write_text(
        "".join(json.dumps({"writer": who, "text": f"note of {who}", "stars": 1}) + "\n" for who in ("w1", "x"))
    )
    guarded = ["guard", str(new), "--ledger", str(folder)]
    assert main([*guarded, "--drop_to", "kept"]) == 1
    assert "1 of 2 rows are in kept." in capsys.readouterr().out
    assert load_dataset(str(here / "kept"))["train"]["writer"][:] == ["x"]
    assert main(["guard", "kept", "--ledger", str(folder)]) == 0
    assert main([*guarded, "--drop_to", "kept"]) == 2
    assert main([*guarded, "--drop_to", "also", "--processes", "2"]) == 1
    assert load_dataset(str(here / "also"))["train"][:] == load_dataset(str(here / "kept"))["train"][:]
    assert main([*guarded, "--processes", "-1"]) == 2
    assert main([*guarded, "--rename", "writer"]) == 2
    assert main([*guarded, "--forgotten", str(notes / "train.jsonl")]) == 1


def test_it_asks_for_what_is_missing_and_takes_ids_from_standard_input(
    notes: Path, here: Path, lm_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(f"{lm_base}\n{notes}\nwriter\nids.txt\n\n", monkeypatch, terminal=True)
    assert main(["init", "--recipe", "asked.yaml", "--output_dir", "out"]) == 0
    asked = yaml.safe_load((here / "asked.yaml").read_text())
    assert (asked["forget_ids"], asked["output_dir"]) == ("ids.txt", "out")
    assert "holdout_dataset" not in asked
    assert "# holdout_split: test" in (here / "asked.yaml").read_text()

    flags = ["--model_name_or_path", str(lm_base), "--dataset_name", str(notes), "--forget_id_column", "writer"]
    typed("w3\nw4\n", monkeypatch, terminal=False)
    assert main(["init", *flags, "--recipe", "piped.yaml", "--forget_ids", "-"]) == 0
    ids = here / "piped_ids.txt"
    assert (ids.read_text(), stat.S_IMODE(ids.stat().st_mode)) == ("w3\nw4\n", 0o600)
    assert "w3" not in (here / "piped.yaml").read_text() + capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Which model shall forget? A folder, or a Hub id? Name it with --model_name_or_path."),
        (["MODEL"], "Name it with --dataset_name."),
        (["MODEL", "DATA", "--forget_id_column", "nobody", "--forget_ids", "ids.txt"], "has no column 'nobody'"),
        (["MODEL", "DATA", "--forget_id_column", "writer", "--forget_ids", "none.txt"], "Cannot read the ids"),
        (
            [
                "MODEL",
                "DATA",
                "--forget_id_column",
                "writer",
                "--forget_ids",
                "ids.txt",
                "--holdout_split",
                "test",
                "--holdout_dataset",
                "x",
            ],
            "give --holdout_split or --holdout_dataset",
        ),
        (["--recipe", "ids.txt"], "ids.txt is there already; name another recipe with --recipe"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    flags: list[str], message: str, notes: Path, here: Path, lm_base: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    typed("", monkeypatch, terminal=False)
    places = {"MODEL": ["--model_name_or_path", str(lm_base)], "DATA": ["--dataset_name", str(notes)]}
    before = set(here.iterdir())
    assert main(["init", *(part for flag in flags for part in places.get(flag, [flag]))]) == 2
    assert message in capsys.readouterr().err
    assert set(here.iterdir()) - before <= {here / "home"}


def test_chosen_records_have_the_lengths_and_labels_of_those_to_forget() -> None:
    rng = np.random.default_rng(1)

    def records(n: int, prefix: str, longest: int) -> list[dict[str, Any]]:
        return [note(rng, f"{prefix}{i}", int(rng.integers(3, longest))) for i in range(n)]

    trained = Dataset.from_list(records(200, "w", 8) + records(40, "s", 30))
    candidates = Dataset.from_list(records(1000, "u", 60))
    forget = np.arange(200, 240)
    chosen = choose_holdout(candidates, trained, forget, texts=["text"], label="stars", group=None, seed=0)
    assert chosen is not None
    assert chosen.matched > 0.9
    found = candidates.select(chosen.rows)
    wanted = trained.select(forget)
    for column in ("stars",):
        assert abs(np.mean(found[column]) - np.mean(wanted[column])) < 0.1
    assert abs(chosen.lengths[0] / chosen.lengths[1] - 1) < 0.15
    assert len(set(chosen.rows.tolist())) == len(chosen.rows) >= len(forget)
    again = choose_holdout(candidates, trained, forget, texts=["text"], label="stars", group=None, seed=0)
    assert again is not None
    assert again.rows.tolist() == chosen.rows.tolist()


def test_without_an_unseen_record_none_is_held_out() -> None:
    data = Dataset.from_list([{"writer": f"w{i % 3}", "text": f"text {i}"} for i in range(9)])
    seen = {"texts": ["text"], "label": None, "seed": 0}
    assert choose_holdout(data, data, np.array([0]), group=None, **seen) is None  # type: ignore[arg-type]
    others = data.map(lambda row: {"text": f"other {row['text']}"})
    assert choose_holdout(others, data, np.array([0]), group="writer", **seen) is None  # type: ignore[arg-type]
    assert choose_holdout(others, data, np.array([0]), group=None, **seen) is not None  # type: ignore[arg-type]


GUESSED: dict[str, tuple[dict[str, list[Any]], dict[str, str]]] = {
    "usual names": ({"text": ["a b", "c d"], "label": [0, 1], "who": ["x", "y"], "title": ["a", "b"]}, {}),
    "other names": (
        {"body": ["a long text", "another long text"], "title": ["a", "b"], "desk": ["s", "t"], "who": ["x", "y"]},
        {"text_field": "body", "label_field": "desk"},
    ),
}


@pytest.mark.parametrize("case", GUESSED)
def test_the_columns_of_text_and_class_are_found_where_that_is_clear(case: str) -> None:
    columns, found = GUESSED[case]
    rows = Dataset.from_dict({name: values * 60 for name, values in columns.items()})
    # Of many values, and so no classes.
    rows = rows.remove_columns("title").add_column("title", [f"title {i}" for i in range(120)])
    given = dict.fromkeys(("dataset_text_field", "dataset_label_field"))
    assert _layout(rows, "text-classification", given, "who") == found
    named = {"dataset_text_field": "title", "dataset_label_field": "who"}
    assert _layout(rows, "text-classification", named, "id") == {"text_field": "title", "label_field": "who"}


def test_what_may_be_a_class_is_asked_for_where_several_may() -> None:
    rows = Dataset.from_dict({"body": ["a text", "b text"] * 9, "desk": ["s", "t"] * 9, "stars": [1, 2] * 9})
    given = dict.fromkeys(("dataset_text_field", "dataset_label_field"))
    with pytest.raises(InputError, match="Name it with --dataset_label_field; it may be desk, stars"):
        _layout(rows, "text-classification", given, "who")
