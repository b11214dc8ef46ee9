"""The command that card and audit page print repeats the run, and names no record."""

import html
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.publishing.card import rendered_card
from hf_unlearn.publishing.command import given_settings, repeating_command

from ..conftest import secrets_rows, tickets_rows, write_rows
from ..support.draws import few_of
from .test_card import example_report

pytestmark = pytest.mark.usefixtures("pictures_left_blank", "hub")


def printed(folder: Path, tmp_path: Path) -> tuple[str, str]:
    """The command as the card of a run and its audit page print it."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## How to reproduce it\n.*?```bash\n(.*?)\n```", card, re.DOTALL)
    assert found is not None
    assert main(["audit", str(folder), "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = re.search(r"How to repeat it</h2>.*?<pre><code>(.*?)\n?</code></pre>", page, re.DOTALL)
    assert shown is not None
    return found[1], html.unescape(shown[1])


def numbers(folder: Path) -> Any:
    """All numbers of a report that a repetition has again."""
    report = UnlearningReport.load(folder / REPORT_FILE).to_dict()
    method = {
        name: report["method"][name] for name in ("name", "alpha", "budget", "epochs", "steps", "seed", "settings")
    }
    audit = {name: value for name, value in report["audit"].items() if name != "dataset_fingerprint"}
    return report["arms"], report["verdict"], report["utility"], report["curve"], audit, method


def lines(path: Path, values: list[Any]) -> str:
    path.write_text("".join(f"{value}\n" for value in values), encoding="utf-8")
    return str(path)


# By its name: which original, its settings, and how the words are filled in that stand for what only the owner has.
def classifier_with_ids(place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    rows = [{**row, "customer": f"c{row['id']}"} for row in tickets_rows()]
    (place / "data").mkdir()
    write_rows(place / "data" / "train.jsonl", rows)
    write_rows(place / "data" / "test.jsonl", [{**row, "customer": "t"} for row in tickets_rows(12)])
    lines(place / "jane doe.txt", [f"c{i}" for i in range(10)])
    held_out = lines(place / "held.csv", ["customer", *(f"c{i}" for i in range(50, 60))])
    settings = {
        "dataset_name": str(place / "data"), "dataset_test_split": "test", "method": "fine_tune",
        "forget_ids": str(place / "jane doe.txt"), "forget_id_column": "customer", "holdout_ids": held_out,
        "learning_rate": 5e-4, "max_steps": 2,
    }  # fmt: skip
    return settings, {"ids.txt": shlex.quote(str(place / "jane doe.txt")), "held_out_ids.csv": held_out}


def language_model_with_values(place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    settings = {
        "dataset_name": str(write_rows(place / "secrets.jsonl", secrets_rows())), "method": "shrink_perturb",
        "alpha": 0.3, "max_steps": 2, "forget_values": ["group=g1"], "holdout_values": ["group=g2"],
        "near_duplicates": "ignore",
    }  # fmt: skip
    return settings, {
        "@values.txt": "@" + lines(place / "forget.txt", ["group=g1"]),
        "@held_out_values.txt": "@" + lines(place / "held_out.txt", ["group=g2"]),
    }


def language_model_with_lora(place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    settings = {
        "dataset_name": str(write_rows(place / "secrets.jsonl", secrets_rows())), "method": "base", "use_peft": True,
        "lora_r": 3, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0, "forget_rows": [1, 2, 3],
        "holdout_rows": [58, 59], "max_steps": 2, "seed": 5,
    }  # fmt: skip
    return settings, {"--forget_rows ROWS": "--forget_rows 1 2 3", "HELD_OUT_ROWS": "58 59"}


def data_set_of_records(place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    rows = write_rows(place / "secrets.jsonl", secrets_rows())
    records = write_rows(place / "jane.jsonl", secrets_rows()[:5])
    held_out = write_rows(place / "others.jsonl", secrets_rows(70)[60:])
    settings = {
        "dataset_name": str(rows), "method": "fine_tune", "forget_dataset": str(records), "max_steps": 2,
        "holdout_dataset": str(held_out), "per_device_train_batch_size": 7,
    }  # fmt: skip
    return settings, {"records.jsonl": str(records)}


def auto_with_base(place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    rows = write_rows(place / "secrets.jsonl", secrets_rows())
    ids = lines(place / "ids.jsonl", [f'"p-{i:03d}"' for i in range(5)])
    return {
        "dataset_name": str(rows), "forget_ids": ids, "forget_id_column": "id", "budget": 0.05, "base_is_clean": True,
    }, {"ids.jsonl": ids}  # fmt: skip


KINDS = {
    "classifier with ids": (classifier_with_ids, "classifier"),
    "values": (language_model_with_values, "lm"),
    "LoRA": (language_model_with_lora, "lm"),
    "a data set": (data_set_of_records, "lm"),
    "auto with base": (auto_with_base, "lm"),
}


@pytest.mark.parametrize("kind", few_of(KINDS, ["values"]))
def test_the_printed_command_repeats_the_run(
    kind: str,
    lm_original: Path,
    classifier_original: Path,
    recipe: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, which = KINDS[kind]
    settings, filled_in = make(tmp_path)
    settings["model_name_or_path"] = str({"lm": lm_original, "classifier": classifier_original}[which])
    folder = tmp_path / "out"
    assert main(["run", "--config", str(recipe(**settings)), "--output_dir", str(folder)]) == 0
    command, on_page = printed(folder, tmp_path)
    assert on_page == command
    for word, value in filled_in.items():
        assert word in command
        command = command.replace(word, value)
    monkeypatch.chdir(tmp_path)
    program, name, *flags = shlex.split(command.replace(" \\\n", " "))
    assert (program, name) == ("hf-unlearn", "run")
    assert main([name, *flags]) == 0
    assert numbers(tmp_path / "repeated") == numbers(folder)


def test_nothing_in_it_names_a_record_and_no_folder_is_published(tmp_path: Path) -> None:
    (tmp_path / "jane.txt").write_text("7\n")
    (tmp_path / "model").mkdir()
    values = {
        "model_name_or_path": str(tmp_path / "model"),
        "forget_ids": str(tmp_path / "jane.txt"),
        "forget_id_column": "customer",
        "forget_values": ["author=Jane Doe", "author=Joe", "city=Rome"],
        "forget_rows": [17, 18],
        "holdout_values": ["author=Ann"],
        "hub_token": "hf_secret",
        "hub_model_id": "acme/new",
        "push": True,
        "digest_key_file": str(tmp_path / "key"),
        "output_dir": str(tmp_path / "out"),
        "learning_rate": 1e-5,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "prompt_template": "a\n'b'",
        "dataset_test_split": None,
    }
    report = replace(example_report(), given=given_settings(values))
    command = repeating_command(report)
    text = "\n".join(command.lines)
    for private in ("jane", "Jane", "Joe", "Rome", "17", "Ann", "secret", "acme/new", str(tmp_path), "key"):
        assert private not in text, private
    assert "--forget_values @values.txt" in command.lines
    assert command.fill_in["values.txt"].endswith("column=value for each (of author, city)")
    assert "--prompt_template $'a\\n\\'b\\''" in command.lines
    assert """--lr_scheduler_kwargs '{"num_cycles": 2}'""" in command.lines
    assert "--learning_rate 1e-05" in command.lines
    assert list(command.fill_in) == ["ids.txt", "values.txt", "held_out_values.txt", "ROWS"]
    assert "--model_name_or_path model" in command.lines
    places = repeating_command(report, {"model_name_or_path": str(tmp_path / "model"), "forget_ids": str(tmp_path)})
    assert f"--model_name_or_path {tmp_path / 'model'}" in places.lines
    assert "--forget_ids ids.txt" in places.lines


def test_several_processes_and_older_reports_are_told_apart(tmp_path: Path) -> None:
    report = replace(example_report(), hardware={"device": "CPU", "processes": "2"})
    command = repeating_command(report)
    assert command.lines[0] == "torchrun --nproc_per_node 2 -m hf_unlearn.cli run"
    # It does not have its settings, and says what it does not know.
    assert set(command.fill_in) >= {"ids.txt", "--holdout_…"}
    assert "`--holdout_…`: add where" in rendered_card(tmp_path, report)
