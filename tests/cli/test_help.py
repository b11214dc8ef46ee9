"""What ``--help`` shows, and which settings a command takes."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from hf_unlearn.cli import main
from hf_unlearn.cli.commands import COMMANDS, CONFIGURED
from hf_unlearn.cli.help_pages import OPTIONS, PAGES
from hf_unlearn.cli.recipes import parse
from hf_unlearn.jobs.settings import SETTINGS, settings_of

WORDS = [[name, *([word] if word else [])] for name, command in COMMANDS.items() for word in ["", *command.actions]]


def shown(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", ["80", "200"])
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_fits_a_page(
    words: list[str], width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    lines = shown([*words, "--help"], capsys).splitlines()
    assert lines[0].startswith(f"usage: hf-unlearn {words[0]} ")
    assert len(lines) <= 60
    if words[0] in CONFIGURED:
        assert sum(line.startswith("  --") for line in lines) <= 26
        assert "--help all" in " ".join(lines)


@pytest.mark.parametrize("command", SETTINGS)
def test_the_page_shows_options_that_the_command_takes_each_once_with_its_default(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(PAGES) == CONFIGURED
    names = " ".join(PAGES[command].values()).split()
    assert len(set(names)) == len(names)
    assert set(names) <= settings_of(command)
    text = " ".join(shown([command, "--help"], capsys).split())
    for name in names:
        assert f"--{name} " in text
    assert text.count("(default: ") == len(names)


def test_the_defaults_that_are_shown_are_those_of_the_settings() -> None:
    for name in {name for page in PAGES.values() for names in page.values() for name in names.split()}:
        (field, *_) = [
            f for kinds in SETTINGS.values() for kind in kinds for f in dataclasses.fields(kind) if f.name == name
        ]
        default: Any = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
        told = OPTIONS[name].default
        if default is False:
            assert told == "no", name
            assert not OPTIONS[name].metavar, name
        elif name == "output_dir":
            assert told == ""
        elif default is None:
            assert not told.replace(".", "").isdigit() or name == "num_train_epochs", name
        else:
            assert told == str(default[0] if isinstance(default, list) else default), name


@pytest.mark.parametrize("flag", [["--help", "all"], ["--help_all"]])
@pytest.mark.parametrize("command", SETTINGS)
def test_help_all_shows_every_setting_that_the_command_takes(
    command: str, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown([command, *flag], capsys)
    found = {line.split()[0].removeprefix("--") for line in text.splitlines() if line.startswith("  --")}
    assert {name for name in found if not name.startswith("no_")} == settings_of(command) | {"config"}
    assert ("adam_beta1" in found) == (command in ("run", "train", "references"))


def test_help_of_every_command_needs_no_torch() -> None:
    script = (
        "import sys; from hf_unlearn.cli import main\n"
        f"for words in {WORDS}:\n"
        "    try: main([*words, '--help'])\n"
        "    except SystemExit as ended: assert ended.code == 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", SETTINGS)
def test_what_a_command_does_not_use_is_no_flag_of_it_and_passed_over_in_a_recipe(command: str, recipe: Any) -> None:
    everything: dict[str, Any] = {}
    parser = HfArgumentParser(
        [kind for kinds in dict.fromkeys(SETTINGS.values()) for kind in kinds], conflict_handler="resolve"
    )
    for action in parser._actions:
        if action.dest != "help":
            everything[action.dest] = action
    unused = set(everything) - settings_of(command)
    assert unused
    for name in unused:
        value = list(everything[name].choices)[0] if everything[name].choices else "1"
        with pytest.raises(Exception, match=name) as raised:
            parse(command, [f"--{name}", str(value)])
        assert type(raised.value).__name__ == "InputError", name
    assert (
        parse(command, ["--config", str(recipe(learning_rate=1e-3, alpha=0.5, seed=3))]).items() >= {"seed": 3}.items()
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["train", "--alpha", "0.5"],
            "`hf-unlearn train` does not use --alpha; leave it out. It is for: run, references",
        ),
        (["evaluate", "--method", "npo"], "does not use --method"),
        (["split", "--learning_rate", "1"], "It is for: run, train, references, attack."),
        (["attack", "--budget", "1"], "does not use --budget"),
    ],
)
def test_a_setting_of_another_command_is_refused_in_one_sentence(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out = capsys.readouterr().err
    assert message in out
    assert out.count("\n") == 1
