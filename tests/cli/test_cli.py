"""The command line: recipes and flags, help, exit codes."""

import argparse
import dataclasses
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import InputError, UnlearningConfig
from hf_unlearn.cli import main
from hf_unlearn.cli.commands import COMMANDS
from hf_unlearn.cli.main import job
from hf_unlearn.cli.recipes import parse
from hf_unlearn.jobs.console import Terminal
from hf_unlearn.jobs.settings import DataArguments, ModelArguments, RequestArguments, build


def test_help_is_fast_and_needs_no_torch() -> None:
    started = time.perf_counter()
    script = "import sys; from hf_unlearn.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - started < 1
    for command in COMMANDS:
        assert f"hf-unlearn {command} " in done.stdout


@pytest.mark.parametrize(
    ("command", "stream"),
    [
        (["--help"], "stdout"),
        (["--version"], "stdout"),
        (["erase", "--help"], "stdout"),
        (["no-such-command"], "stderr"),
    ],
)
def test_a_reader_that_goes_away_ends_a_command_quietly(command: list[str], stream: str) -> None:
    read, write = os.pipe()
    os.close(read)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    script = "import sys; from hf_unlearn.cli import main; sys.exit(main())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", script, *command], **pipes, text=True, env=environment)
    os.close(write)
    assert (done.returncode, done.stdout or "", done.stderr or "") == (141, "", "")


def test_a_table_that_nobody_reads_ends_a_command_too() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe, open(os.devnull, "w") as nowhere:
        with pytest.raises(BrokenPipeError):
            Terminal(file=pipe).print("a table")
        os.dup2(nowhere.fileno(), write)


def test_every_command_starts_a_job_that_takes_what_its_flags_give() -> None:
    actions = [action for command in COMMANDS.values() for action in (command.actions or {"": command}).values()]
    for action in actions:
        function = job(action.job)
        parser = argparse.ArgumentParser(add_help=False)
        taken = [parser.add_argument(*names, **options).dest for names, options in action.arguments]
        inspect.signature(function).bind(*([] if taken else [{}]), **dict.fromkeys(taken))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["unlearn"],
            "the commands are run, split, train, alternates, references, evaluate, attack, card, push",
        ),
        (["run", "--lerning_rate", "1"], "there is no flag 'lerning_rate'; did you mean 'learning_rate'?"),
        (["run", "--learning_rate", "fast"], "Argument --learning_rate/--learning-rate: the value is no number."),
        (["run", "--method", "zzz"], "Argument --method: it must be one of "),
        (["run", "p-017"], "word 1 after the command is no flag."),
        (["run", "--push", "--p-017", "x"], "word 2 after the command is no flag."),
        (["run"], "Which model? Name a folder or Hub id with --model_name_or_path"),
        (["split"], "Which data set?"),
        (["run", "--config", "none.yaml"], "Cannot read the recipe none.yaml: No such file"),
        (["push", "x"], "Where to? Name a repository with --hub_model_id"),
        (["card", "nowhere"], "There is no readable report at nowhere/unlearning_report.json"),
        (["run", "--push_to_hub", "true", "--model_name_or_path", "LM"], "would publish before the verdict is known"),
        (["ru\n\x1b[31m"], "hf-unlearn ru\\n\\x1b[31m: there is no such command"),
        (["split", "--forget_rows", "Jane Doe"], "--forget_rows must be row numbers, counted from 0."),
        (["split", "--dataset_name", "rows\udcff.csv"], "is not valid UTF-8 text"),
        (["run", "--model_name_or_path", ""], "model_name_or_path is empty"),
        (["run", "--model_name_or_path", "m" * 300], "cannot be looked for: File name too long"),
        (["run", "--model_name_or_path", "LM", "--learning_rate", "nan"], "learning_rate=nan is not possible"),
        (["run", "--model_name_or_path", "LM", "--seed", "-1"], "seed=-1 is not possible"),
        (["run", "--model_name_or_path", "LM", "--auc_margin", "0.3"], "it must be above 0 and at most 0.25"),
        (["run", "--model_name_or_path", "LM", "--warmup_steps", "-1"], "Expected value warmup_steps >= 0"),
        (
            ["run", "--model_name_or_path", "LM", "--lr_scheduler_kwargs", '{"a": 1}'],
            "unexpected keyword argument 'a'",
        ),
        (
            ["run", "--model_name_or_path", "LM", "--lr_scheduler_kwargs", "a"],
            "must be a mapping of options to values",
        ),
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
    assert out.err.startswith("hf-unlearn ")
    assert out.err.count("\n") == 1
    assert out.err[:-1].isprintable()
    assert "Jane" not in out.err, "it may be an id"
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


@pytest.mark.parametrize("on", [True, False])
def test_a_flag_that_may_stand_alone_is_a_yes_or_no_in_yaml(on: bool, recipe: Any) -> None:
    """To transformers --fsdp is text too, which it warns of; a text "True" is none of its options."""
    given = parse("run", ["--config", str(recipe(fsdp=on))])
    assert given == {"fsdp": on}
    assert given == parse("run", ["--fsdp"]) or not on
    assert bool(build(UnlearningConfig, {**given, "use_cpu": True}).fsdp) == on


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
        ("seed: often", "Argument --seed: the value is no whole number."),
        # YAML's nothing is null; open-unlearning takes this for something that is true.
        ("ddp_find_unused_parameters: None", "it takes true or false"),
        ("seed: 1\nseed: 2", "in line 1: a key stands twice in one mapping"),
        ("seed: 1\np-017: 2", "key 2 of a section is no key."),
        ("original: [a]", "the section 'original' must be a mapping"),
        ("dataset_name: [a, b]", "dataset_name takes one value"),
        ("forget_rows: []", "forget_rows takes one value or more"),
        ("forget_values: [null]", "forget_values holds something that is neither text nor a number"),
        ("forget_values: &a [*a]", "forget_values holds something that is neither text nor a number"),
        ("lr_scheduler_kwargs: &a {b: *a}", "lr_scheduler_kwargs holds what is not JSON"),
        ("seed: 2020-99-99", "is not YAML"),
        ('dataset_name: "\\0"', "dataset_name is not valid Unicode text"),
        ("[" * 3000, "is not YAML"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        parse("run", ["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize("content", [b"forget_values: id=Jane: Doe", b"forget_values: [Jane Doe\xff]"])
def test_a_malformed_recipe_is_not_quoted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(InputError) as raised:
        parse("run", ["--config", str(tmp_path / "recipe.yaml")])
    assert "Jane" not in str(raised.value)


def test_what_looks_like_a_flag_in_a_recipe_is_a_value(recipe: Any) -> None:
    values = ["--push=true", "-x=1", "author=Doe"]
    assert parse("run", ["--config", str(recipe(forget_values=values))]) == {"forget_values": values}


def test_keys_may_be_merged_in_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("original: &a {seed: 1, max_length: 8}\n<<: *a\nseed: 2\n")
    assert parse("split", ["--config", str(tmp_path / "recipe.yaml")]) == {"seed": 2, "max_length": 8}


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


def test_each_setting_is_explained() -> None:
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
