"""The command line: recipes and flags, help, exit codes."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import InputError, UnlearningConfig
from hf_unlearn.arguments import SETTINGS, DataArguments, ModelArguments, RequestArguments, build, parse
from hf_unlearn.cli import main


def test_help_is_fast_and_needs_no_torch() -> None:
    started = time.perf_counter()
    script = "import sys; from hf_unlearn.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 1
    for command in ("run", "split", "train", "evaluate", "card", "push"):
        assert f"hf-unlearn {command}" in done.stdout


@pytest.mark.parametrize("command", SETTINGS)
def test_help_of_a_command_shows_its_own_flags_first(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--dataset_name" in text
    assert "--forget_ids" in text
    assert "--adam_beta1" not in text
    assert "--help_all" in text
    with pytest.raises(SystemExit):
        main([command, "--help_all"])
    assert "--adam_beta1" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["card", "push"])
def test_help_of_the_other_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["unlearn"], "there is no such command; the commands are run, split, train, evaluate, card, push"),
        (["run", "--lerning_rate", "1"], "there is no flag 'lerning_rate'; did you mean 'learning_rate'?"),
        (["run", "--learning_rate", "fast"], "Argument --learning_rate/--learning-rate: invalid float value: 'fast'"),
        (["run", "--method", "zzz"], "invalid choice: 'zzz'"),
        (["run"], "Which model? Name a folder or Hub id with --model_name_or_path"),
        (["split"], "Which data set?"),
        (["run", "--config", "none.yaml"], "Cannot read the recipe none.yaml: No such file"),
        (["push", "x"], "the following arguments are required: --hub_model_id"),
        (["card", "nowhere"], "There is no readable report at nowhere/unlearning_report.json"),
        (["run", "--push_to_hub", "true", "--model_name_or_path", "LM"], "would publish before the verdict is known"),
        (["run", "--model_name_or_path", "LM", "--push"], "--push needs --hub_model_id"),
        (["run", "--model_name_or_path", "LM", "--budget", "1", "--num_train_epochs", "1"], "both say how long"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    argv: list[str],
    message: str,
    lm_base: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(lm_base) if word == "LM" else word for word in argv]) == 2
    out = capsys.readouterr()
    assert message in out.err
    assert out.err.startswith(f"hf-unlearn {argv[0]}: ")
    assert out.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing may have been written"


def test_flags_win_over_the_recipe(recipe: Any) -> None:
    path = str(recipe(learning_rate=1e-3, seed=1, forget_rows=[1, 2], push=False, prompt_template="- {q}\n-"))
    given = parse("run", ["--config", path, "--seed", "7", "--bf16", "false"])
    assert given == {
        "learning_rate": 1e-3,
        "seed": 7,
        "forget_rows": [1, 2],
        "push": False,
        "prompt_template": "- {q}\n-",
        "bf16": False,
    }
    config = build(UnlearningConfig, given)
    assert (config.seed, config.learning_rate, config.max_grad_norm) == (7, 1e-3, 1.0)


def test_numbers_in_yaml_are_read_as_the_flag_would_be(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "learning_rate: 1e-5\nsave_strategy: no\nlr_scheduler_kwargs: {min_lr: 0.1}\n"
    )
    given = parse("run", ["--config", str(tmp_path / "recipe.yaml")])
    assert given["learning_rate"] == 1e-5, "PyYAML reads 1e-5 as text"
    assert given["lr_scheduler_kwargs"] == '{"min_lr": 0.1}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lerning_rate: 1", "there is no key 'lerning_rate'; did you mean 'learning_rate'?"),
        (
            "original:\n  modle_name_or_path: x",
            "there is no key 'modle_name_or_path'; did you mean 'model_name_or_path'?",
        ),
        ("- a", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("seed: often", "invalid int value: 'often'"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        parse("run", ["--config", str(tmp_path / "recipe.yaml")])


def test_the_original_shares_the_data_of_the_recipe_and_nothing_else(recipe: Any) -> None:
    path = str(
        recipe(
            model_name_or_path="original",
            dataset_name="d.jsonl",
            method="base",
            learning_rate=1.0,
            seed=4,
            holdout_rows=[1],
            original={"model_name_or_path": "base", "learning_rate": 2.0, "output_dir": "original"},
        )
    )
    assert parse("train", ["--config", path, "--num_train_epochs", "2"]) == {
        "model_name_or_path": "base",
        "dataset_name": "d.jsonl",
        "learning_rate": 2.0,
        "seed": 4,
        "holdout_rows": [1],
        "output_dir": "original",
        "num_train_epochs": 2.0,
    }
    assert parse("split", ["--config", path])["holdout_rows"] == [1]


def test_the_documentation_of_the_settings_names_each_of_them() -> None:
    from transformers import TrainingArguments

    own = {f.name for f in dataclasses.fields(UnlearningConfig)} - {
        f.name for f in dataclasses.fields(TrainingArguments)
    }
    text = UnlearningConfig.__doc__ or ""
    assert {name for name in own if f"        {name}: " not in text} == set()
    for kind in (UnlearningConfig, ModelArguments, DataArguments, RequestArguments):
        for f in dataclasses.fields(kind):
            assert f.metadata.get("help"), f.name


def test_defaults_that_differ_from_the_parents_are_said() -> None:
    from transformers import TrainingArguments

    parents = {f.name: f.default for f in dataclasses.fields(TrainingArguments)}
    text = UnlearningConfig.__doc__ or ""
    for f in dataclasses.fields(UnlearningConfig):
        if f.name in parents and parents[f.name] != f.default:
            assert f"``{f.name}`` is" in text, f.name
