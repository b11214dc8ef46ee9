"""The commands from end to end on tiny models, and what they leave behind."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.evaluation.wording import PICTURES
from hf_unlearn.jobs.preparation import prepare_run
from hf_unlearn.jobs.trials import with_method
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import RECORD_FILE, load_record
from hf_unlearn.publishing.card import rendered_card

from ..conftest import secrets_rows, tickets_rows, write_rows
from ..support.draws import few_of


@pytest.fixture
def command(recipe: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command and returns its exit code, output and errors."""

    def run(name: str, settings: dict[str, Any], *flags: str) -> tuple[int, str, str]:
        code = main([name, "--config", str(recipe(**settings)), *flags])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def texts_in(folder: Path) -> dict[Path, str]:
    """All that can be read as text in the files of a folder, weights and pictures included."""
    return {path: path.read_bytes().decode("utf-8", "ignore") for path in folder.rglob("*") if path.is_file()}


def leaks(text: str, rows: list[dict[str, Any]], columns: list[str], length: int = 20) -> list[str]:
    """Pieces of records of at least that many characters that occur in a text."""
    found = []
    for row in rows:
        for column in columns:
            value = str(row[column])
            found += [
                value[i : i + length] for i in range(max(len(value) - length + 1, 0)) if value[i : i + length] in text
            ]
    return found


# run


@pytest.mark.parametrize(
    "method",
    few_of(["fine_tune", "toward_base", "shrink_perturb", "base"], {"base"}),
)
def test_the_whole_road_for_a_language_model(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, method: str
) -> None:
    folder = tmp_path / "out"
    code, out, err = command("run", {**lm_settings, "method": method, "output_dir": str(folder)}, "--with_retrained")
    assert code == 0, err
    report = UnlearningReport.load(folder / "unlearning_report.json")
    assert report.method.budget == 0.25, "by default, when there is a training record"
    assert list(report.arms) == ["original", "unlearned", "retrained"]
    original = report.arms["original"].membership_auc
    retrained = report.arms["retrained"].membership_auc
    assert original is not None
    assert retrained is not None
    assert original.value > 0.95
    assert 0.1 < retrained.value < 0.9
    unlearned = report.arms["unlearned"].membership_auc
    assert unlearned is not None
    assert (report.verdict.word == "exact") == (method == "base")
    # Ten records are too few for a verdict of several attacks, but not to see a tendency at both ends.
    if method in ("fine_tune", "base"):
        assert (unlearned.value > retrained.value + 0.2) == (method == "fine_tune")
    assert f"Verdict: {report.verdict.word}" in out
    assert re.search(r"rows to forget \(S\)\s+10\n", out)
    assert report.audit is not None
    assert (report.audit.dataset_rows, report.audit.holdout_rows) == (50, 10)
    assert report.cost is not None
    reference = load_record(locate(str(folder / "references" / "retrained-seed3")))
    assert reference is not None
    assert report.cost.retraining_flops == reference.flops
    assert AutoModelForCausalLM.from_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", *PICTURES, "model.safetensors", "tokenizer.json", RECORD_FILE} <= names
    assert not [name for name in names if name.startswith(".") or name.endswith(".bin")]


def test_no_text_of_a_forgotten_record_and_no_id_leaves_a_run(
    command: Any,
    lm_settings: dict[str, Any],
    lm_original: Path,
    classifier_settings: dict[str, Any],
    classifier_original: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one_more = {"forget_values": ["text=" + tickets_rows()[12]["text"]]}
    for settings, rows, columns in (
        (lm_settings, secrets_rows()[:10], ["prompt", "completion"]),
        ({**classifier_settings, **one_more}, [*tickets_rows()[:10], tickets_rows()[12]], ["text"]),
    ):
        folder = tmp_path / columns[0]
        settings = {**settings, "method": "toward_base", "output_dir": str(folder)}
        code, out, err = command("run", settings, "--with_retrained")
        assert code == 0, err
        assert main(["audit", str(folder), "--output", str(folder / "audit.html")]) == 0
        # Words of the vocabulary are everywhere; twelve characters are enough to be sure of a record.
        everything = {**texts_in(folder), Path("stdout"): out, Path("stderr"): err, Path("log"): caplog.text}
        assert len(everything) > 20
        for path, text in everything.items():
            assert not leaks(text, rows, columns, length=12), path
            assert not re.search(r"p-00\d", text), path


@pytest.mark.usefixtures("pictures_left_blank")
def test_records_of_one_group_are_no_independent_witnesses(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    settings = {**lm_settings, "output_dir": str(tmp_path / "out")}
    code, out, err = command("run", settings, "--group_column", "group")
    assert code == 0, err
    report = UnlearningReport.load(tmp_path / "out" / "unlearning_report.json")
    assert (report.group_column, report.verdict.groups) == ("group", [6, 6])
    assert report.arms["original"].sets["forget"].loss.n == 6
    assert report.utility is not None
    assert (report.utility.measured_on, report.utility.compared_with) == ("holdout", "original")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "S comes from 6 groups and H from 6" in card
    assert "--group_column group" in card
    assert "g0" not in card + out + (tmp_path / "out" / "unlearning_report.json").read_text()
    assert f"Utility {report.utility.word}. On held-out records" in out
    code, _, err = command("run", {**settings, "output_dir": str(tmp_path / "no")}, "--group_column", "author")
    assert code == 2
    assert "no column 'author'" in err
    assert not (tmp_path / "no").exists()


@pytest.fixture
def by_customer(lm_settings: dict[str, Any], tmp_path: Path) -> Callable[[list[str], list[str]], dict[str, Any]]:
    """A recipe that names customers of ten records each to forget, and customers that are held out."""

    def settings(forget: list[str], held_out: list[str]) -> dict[str, Any]:
        (tmp_path / "customers.txt").write_text("\n".join(forget))
        (tmp_path / "strangers.txt").write_text("\n".join(held_out))
        files = {"forget_ids": str(tmp_path / "customers.txt"), "holdout_ids": str(tmp_path / "strangers.txt")}
        return {**lm_settings, **files, "forget_id_column": "group", "measure_steps": 0}

    return settings


@pytest.mark.usefixtures("pictures_left_blank")
def test_one_customer_against_one_is_known_before_the_run_to_decide_nothing(
    command: Any, by_customer: Any, lm_original: Path, tmp_path: Path
) -> None:
    settings = by_customer(["g0"], ["g5"])
    folder = tmp_path / "out"
    code, out, err = command("run", {**settings, "output_dir": str(folder)})
    assert code == 0, err
    report = UnlearningReport.load(folder / "unlearning_report.json")
    assert (report.group_column, report.verdict.groups, report.verdict.word) == ("group", [1, 1], "undecided")
    flat = " ".join(out.split())
    assert flat.count("Records with the same `group` count as one group: there are 1 in S and 1 in H.") == 1
    before = flat.index("10 records to forget in 1 group against 10 held-out records in 1 group: a measurement")
    assert before < flat.index("The evidence")
    assert "An exact start (`--method base`) decides without a measurement." in flat
    assert "--forget_id_column group" in (folder / "README.md").read_text()
    assert "g0" not in out + (folder / "README.md").read_text() + (folder / "unlearning_report.json").read_text()
    code, out, _ = command("evaluate", {**settings, "output_dir": str(tmp_path / "evaluation")})
    assert code == 0
    report = UnlearningReport.load(tmp_path / "evaluation" / "unlearning_report.json")
    assert (report.group_column, report.verdict.groups, report.verdict.word) == ("group", [1, 1], "undecided")
    assert "1 held-out records" not in out
    assert "exact start" not in out


def test_a_split_that_nobody_reads_ends_quietly(recipe: Any, lm_settings: dict[str, Any]) -> None:
    read, write = os.pipe()
    os.close(read)
    call = [sys.executable, "-m", "hf_unlearn.cli", "split", "--config", str(recipe(**lm_settings))]
    done = subprocess.run(call, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "hf-unlearn" not in done.stderr


def test_the_split_says_what_a_measurement_can_decide(
    command: Any, by_customer: Any, lm_settings: dict[str, Any], lm_original: Path
) -> None:
    def shown(settings: dict[str, Any], *flags: str) -> str:
        code, out, err = command("split", settings, *flags)
        assert code == 0, err
        return " ".join(out.split())

    out = shown(lm_settings)
    assert "count as one group" not in out
    assert "10 records to forget against 10 held-out records: a measurement with " in out
    assert re.search(r"can confirm no margin. You ask for ±0.10, for which \d{3} records a side are enough", out)
    assert "Half of each is judged" not in out
    assert "Half of each is judged, 5 records to forget" in shown(lm_settings, "--method", "dial")
    gone = {**lm_settings, "model_name_or_path": str(lm_original / "gone")}
    assert "a measurement with one attack" in shown(gone)
    without = {name: value for name, value in lm_settings.items() if name != "holdout_ids"}
    assert "There are no held-out records, so a measurement can decide nothing." in shown(without)
    some = {**by_customer(["g0", "g1"], ["g4", "g5"]), "auc_margin": 0.2}
    assert "20 records to forget in 2 groups against 20 held-out records in 2 groups" in shown(some)
    assert "You ask for ±0.20" in shown(some)
    assert "the same `id` count as one group: there are 20 in S and 20 in H" in shown({**some, "group_column": "id"})
    del some["holdout_ids"]
    stays = shown({**some, "holdout_rows": [2, 3, 8, 9]})
    assert "there are 2 in S and 2 in H" in stays
    assert "Groups of H with other records in L: 2 (4 rows). Every model knows them better than S." in stays


def test_a_choice_among_methods_keeps_the_groups(by_customer: Any, lm_original: Path) -> None:
    prepared = prepare_run({**by_customer(["g0", "g1"], ["g4", "g5"]), "method": "auto", "output_dir": "none"})
    assert prepared.config.group_column == "group"
    assert "group_column" not in prepared.values
    tried = with_method(prepared, "shrink_reheat", 0.5)
    assert (tried.config.group_column, tried.config.alpha) == ("group", 0.5)


@pytest.mark.usefixtures("pictures_left_blank")
def test_a_classifier_with_a_test_split_and_a_reference_of_its_own(
    command: Any, classifier_settings: dict[str, Any], classifier_original: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.jsonl", tickets_rows())
    write_rows(data / "test.jsonl", tickets_rows(20))
    settings = {**classifier_settings, "dataset_name": str(data), "dataset_test_split": "test"}
    reference = tmp_path / "reference"
    code, out, err = command("train", settings, "--train_on", "retained", "--output_dir", str(reference))
    assert code == 0, err
    assert re.search(r"On the test split \(20 records\): loss [0-9.]+ \[.*\], accuracy [0-9.]+ \[", out)
    assert json.loads((reference / RECORD_FILE).read_text())["dataset"]["rows"] == 40
    folder = tmp_path / "out"
    code, out, err = command("run", {**settings, "retrained_model": str(reference), "output_dir": str(folder)})
    assert code == 0, err
    report = UnlearningReport.load(folder / "unlearning_report.json")
    assert set(report.arms["unlearned"].sets) == {"forget", "holdout", "retained", "test"}
    assert report.arms["retrained"].sets["test"].records == 20
    assert "accuracy" in out


@pytest.mark.usefixtures("pictures_left_blank")
def test_lora_from_the_command_line(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, lm_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    settings = {**lm_settings, "method": "base", "use_peft": True, "lora_r": 4, "output_dir": str(folder)}
    code, _, err = command("run", settings)
    assert code == 0, err
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (4, str(lm_base))
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card
    assert "AutoPeftModelForCausalLM" in card
    # Only the command that repeats the run names folders of this machine, and not in a published card.
    assert str(lm_base.parent) not in rendered_card(folder, UnlearningReport.load(folder / REPORT_FILE), local=False)
    # an adapter can be unlearned in its turn, and be merged
    merged = tmp_path / "merged"
    others = {"forget_ids": None, "forget_values": [f"id=p-{i:03d}" for i in range(20, 25)]}
    again = {**lm_settings, **others, "model_name_or_path": str(folder), "output_dir": str(merged)}
    again["method"] = "toward_base"
    code, _, err = command("run", again, "--merge_adapter", "--max_steps", "2")
    assert code == 0, err
    assert AutoModelForCausalLM.from_pretrained(merged)


@pytest.mark.usefixtures("pictures_left_blank")
def test_the_same_command_goes_on_or_shows_the_result(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    settings = {**lm_settings, "output_dir": str(folder), "max_steps": 4, "save_steps": 2}
    assert command("run", settings)[0] == 0
    weights = (folder / "model.safetensors").read_bytes()
    code, out, _ = command("run", settings)
    assert code == 0
    assert "holds this run, finished" in out
    # the report is gone, as after a crash while scoring: training is not repeated, the result is the same
    (folder / "unlearning_report.json").unlink()
    (folder / "README.md").unlink()
    code, out, _ = command("run", settings)
    assert code == 0
    assert "finished" not in out
    assert (folder / "model.safetensors").read_bytes() == weights
    # other settings, other folder
    code, _, err = command("run", {**settings, "method": "base"})
    assert code == 2
    assert "holds a run with other settings (method); name another --output_dir" in err
    code, _, err = command("run", {**settings, "forget_rows": [15]})
    assert code == 2
    assert "other settings (split)" in err


def test_a_folder_that_holds_something_else_is_left_alone(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    code, _, err = command("run", {**lm_settings, "output_dir": str(tmp_path)})
    assert code == 2
    assert "is not empty and holds no run" in err
    assert (tmp_path / "thesis.tex").read_text() == "important"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forget_ids": None}, "Which records are to be forgotten?"),
        ({"forget_id_column": None}, "--forget_ids needs --forget_id_column"),
        ({"forget_id_column": "name"}, "no column 'name'; its columns are id, group, prompt, completion"),
        ({"forget_values": ["group"]}, "must be written column=value"),
        ({"holdout_split": "train"}, "Held-out records come from one place"),
        ({"holdout_ids": None, "holdout_split": "train"}, "is the split that was trained on"),
        ({"holdout_ids": None, "holdout_split": "dev"}, "--holdout_split dev: the data set has the splits train"),
        ({"dataset_train_split": "dev"}, "--dataset_train_split dev: the data set has the splits train"),
        ({"dataset_test_split": "dev"}, "--dataset_test_split dev"),
        ({"dataset_name": "nowhere.jsonl"}, "neither a folder or file here nor a repository on the Hub"),
        ({"task": "text-classification"}, "no column 'text'"),
        ({"prompt_template": "{question}", "completion_template": "{completion}"}, "no column 'question'"),
        ({"duplicates": "error", "forget_ids": None, "forget_rows": [0]}, None),
        ({"dataset_name": ""}, "dataset_name is empty"),
        ({"retrained_model": "."}, "holds no model that transformers can load"),
        ({"eval_strategy": "epoch"}, "eval_dataset"),
        ({"max_length": 4096}, "max_length=4096 is not possible: this model reads 2 to 128 tokens"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    command: Any,
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    message: str | None,
    hub: Any,
) -> None:
    folder = tmp_path / "out"
    merged = {k: v for k, v in {**lm_settings, **settings, "output_dir": str(folder)}.items() if v is not None}
    code, _, err = command("run" if message else "split", merged)
    assert code == (2 if message else 0)
    assert (message or "") in err
    assert not folder.exists()


def test_data_that_cannot_be_read_is_not_quoted(command: Any, lm_settings: dict[str, Any], tmp_path: Path) -> None:
    bad = tmp_path / "rows.jsonl"
    bad.write_text('{"id": "a", "text": "the secret of Ann"}\n{"id": [1], "te')
    code, _, err = command("split", {**lm_settings, "dataset_name": str(bad)})
    assert code == 2
    assert "its files are empty, malformed or differ" in err
    assert "secret" not in err
    code, _, err = command("split", {**lm_settings, "dataset_name": __file__})
    assert code == 2
    assert "is of no known type" in err


@pytest.mark.parametrize("content", [b"", b"null\n", b"[]", b"\xff\xfe", b'{"a": 1}\n{"a": [1]}\n', b"{}\n"])
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "txt"])
@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_hold_no_records(
    command: Any, lm_settings: dict[str, Any], tmp_path: Path, content: bytes, suffix: str, streaming: bool
) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(content)
    code, _, err = command("split", {**lm_settings, "dataset_name": str(path), "dataset_streaming": streaming})
    assert code == 2, err
    assert err.count("\n") == 1


def test_the_first_record_of_a_file_without_names_is_not_quoted(command: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('7,"My name is Jane Doe, and here is my address","{""a"": 1}"\n8,b,c\n')
    code, _, err = command("split", {"dataset_name": str(path), "forget_values": ["id=8"]})
    assert "its columns are 3 in all, 3 of which may be no names (does the file begin with a line of names?)" in err
    assert "Jane" not in err


@pytest.mark.parametrize("content", ["id,text\na,x,y\nb,x,z\n", "id,text\na,x,\nb,x,\n"])
@pytest.mark.parametrize("folder", [False, True])
def test_csv_with_too_many_fields_is_not_shifted(command: Any, tmp_path: Path, content: str, folder: bool) -> None:
    path = tmp_path / "data" / "rows.csv"
    path.parent.mkdir()
    path.write_text(content)
    settings = {"dataset_name": str(path.parent if folder else path), "forget_rows": [0]}
    code, _, err = command("split", settings)
    assert code == 2
    assert "rows with more fields than its first line names" in err


def test_words_for_nothing_are_text_in_csv(command: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,text\nNA,null\nNone,n/a\nb,x\n")
    code, out, err = command("split", {"dataset_name": str(path), "forget_values": ["id=NA", "text=n/a"]})
    assert code == 0, err
    assert re.search(r"rows to forget \(S\)\s+2\n", out)


@pytest.mark.parametrize("name", ["run", "evaluate", "train"])
@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_an_output_folder_that_cannot_be_one(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, name: str, place: str
) -> None:
    (tmp_path / "file").write_text("here")
    folder = str(tmp_path / place)
    settings = {**lm_settings, "output_dir": folder, "original": {**lm_settings["original"], "output_dir": folder}}
    code, _, err = command(name, settings)
    assert code == 2
    assert "cannot be made, because" in err
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.usefixtures("pictures_left_blank")
def test_a_run_whose_settings_cannot_be_read(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    for content in ("{", "[]"):
        (tmp_path / "out" / "run.json").write_text(content)
        code, _, err = command("run", {**lm_settings, "output_dir": str(tmp_path / "out")})
        assert code == 2
        assert "run.json cannot be read; name another --output_dir" in err


@pytest.mark.usefixtures("pictures_left_blank")
def test_a_folder_name_is_shown_as_it_is(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a[" / "b]\x1b[31m [red]"
    code, out, err = command("run", {**lm_settings, "output_dir": str(folder), "max_steps": 1})
    assert code == 0, err
    assert "a[/b]\\x1b[31m [red]" in out
    assert "\x1b" not in out


def test_training_from_a_classifier_with_other_classes(
    command: Any, classifier_settings: dict[str, Any], classifier_original: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    original = {"model_name_or_path": str(classifier_original), "output_dir": str(tmp_path / "out")}
    code, _, err = command("train", {"dataset_name": str(data), "original": original})
    assert code == 2
    assert "is a classifier of 3 classes and the data set has 2" in err
    assert not (tmp_path / "out").exists()


# split, train, evaluate, card


def test_split_only_shows(command: Any, lm_settings: dict[str, Any], tmp_path: Path) -> None:
    rows = secrets_rows()
    rows[20] = {**rows[20], "prompt": rows[0]["prompt"].upper(), "completion": "  " + rows[0]["completion"]}
    data = write_rows(tmp_path / "rows.jsonl", rows)
    before = set(tmp_path.iterdir())
    code, out, _ = command("split", {**lm_settings, "dataset_name": str(data)})
    assert code == 0
    assert "1 retained rows have the text of a forgotten row" in out
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "recipe.yaml"}


def test_a_record_says_how_it_was_trained(lm_original: Path, lm_base: Path, lm_settings: dict[str, Any]) -> None:
    record = load_record(locate(str(lm_original)))
    assert record is not None
    assert record.base_model == str(lm_base)
    assert (record.dataset.rows, record.dataset.name) == (50, "secrets.jsonl")
    assert (record.epochs, record.steps, record.seed) == (40.0, 200, 3)
    assert record.settings["learning_rate"] == 1e-2
    assert record.flops > 0
    assert record.tokens > 50 * 40


def test_training_again_is_not_needed(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command("train", lm_settings)
    assert code == 0
    assert "holds this training, finished" in out
    # The request has no part in it, for it was trained on all of D.
    code, out, _ = command("train", {**lm_settings, "forget_ids": None, "forget_values": ["id=p-001"]})
    assert (code, "holds this training, finished" in out) == (0, True)
    code, _, err = command("train", {**lm_settings, "holdout_ids": None, "holdout_values": ["id=p-001"]})
    assert (code, "other settings (data)" in err) == (2, True)
    code, _, err = command("train", {**lm_settings, "seed": 99})
    assert code == 2
    assert "other settings (seed)" in err


def test_evaluate_measures_what_others_made(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, lm_base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "evaluation"
    settings = {**lm_settings, "output_dir": str(folder), "original_model": str(lm_original)}
    code, out, err = command("evaluate", settings, "--model_name_or_path", str(lm_base))
    assert code == 0, err
    assert f"before: {lm_original.name}\nafter: {lm_base.name}\n" in out
    assert "unknown" not in out
    assert "indexing errors" not in err
    report = UnlearningReport.load(folder / "unlearning_report.json")
    assert report.method.name == "unknown"
    assert list(report.arms) == ["original", "unlearned"]
    assert report.verdict.word in ("undecided", "not_distinguished"), "never exact: nobody knows how it was made"
    written = {"unlearning_report.json", "loss_histograms.png", "roc.png", "tables"}
    assert {path.name for path in folder.iterdir()} == written
    code, out, _ = command("evaluate", {**settings, "output_dir": str(tmp_path / "e2")})
    assert "Verdict: not_forgotten" in out


@pytest.mark.usefixtures("pictures_left_blank")
def test_the_card_can_be_written_again(
    command: Any, lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert command("run", {**lm_settings, "output_dir": str(folder), "max_steps": 1})[0] == 0
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text("lost")
    assert main(["card", str(folder)]) == 0
    assert (folder / "README.md").read_text() == card


def test_the_readme_example_in_python(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_dataset

    from hf_unlearn import Records, UnlearningConfig, UnlearningTrainer, split_retained

    data = load_dataset("json", data_files=lm_settings["dataset_name"], split="train")
    split = split_retained(
        data,
        Records.ids_from_file("id", lm_settings["forget_ids"]),
        holdout=Records.ids_from_file("id", lm_settings["holdout_ids"]),
    )
    trainer = UnlearningTrainer(
        model=str(lm_original),
        args=UnlearningConfig(str(tmp_path / "out"), method="base", budget=0.1),
        train_dataset=split.retained,
        forget_dataset=split.forget,
        holdout_dataset=split.holdout,
    )
    trainer.train()
    report = trainer.report(audit=split.audit)
    trainer.save_model()
    assert report.verdict.word == "exact"
    assert (tmp_path / "out" / "README.md").is_file()
