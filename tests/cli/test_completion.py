"""The scripts by which a shell completes: what a shell itself makes of them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_unlearn.cli import main
from hf_unlearn.cli.commands import COMMANDS
from hf_unlearn.jobs.settings import SETTINGS, settings_of
from hf_unlearn.methods.table import METHODS

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_shtab_hf_unlearn hf-unlearn "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "script"
    command = [sys.executable, "-m", "hf_unlearn.cli", "--print-completion", "bash"]
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return path


def completed(script: Path, *words: str) -> list[str]:
    """What bash completes the last word to, after the others."""
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", script, "hf-unlearn", *words],
        capture_output=True, text=True, check=True, cwd=script.parent,
    )  # fmt: skip
    return done.stdout.split()


def test_bash_completes_commands_flags_choices_and_files(script: Path) -> None:
    assert completed(script, "wh") == ["whereabouts"]
    assert set(completed(script, "")) >= set(COMMANDS)
    assert completed(script, "guard", "--skip") == ["--skip_missing"]
    assert completed(script, "ledger", "pr") == ["prove"]
    assert completed(script, "ledger", "prove", "--co") == ["--column"]
    assert set(completed(script, "run", "--method", "npo")) == {name for name in METHODS if name.startswith("npo")}
    (script.parent / "recipe.yaml").touch()
    assert completed(script, "run", "--config", "rec") == ["recipe.yaml"]
    assert completed(script, "whereabouts", "--ids", "rec") == ["recipe.yaml"]


@pytest.mark.parametrize("command", SETTINGS)
def test_a_command_is_completed_to_its_own_flags_alone(script: Path, command: str) -> None:
    flags = {word.removeprefix("--") for word in completed(script, command, "--")}
    assert {name for name in flags if not name.startswith("no_")} == settings_of(command) | {"config", "help"}


def test_zsh_gets_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", "zsh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#compdef hf-unlearn")
    for name, command in COMMANDS.items():
        assert f"{name}:'{command.summary}" in out.replace("\\", "").replace("'\"'\"'", "'")


@pytest.mark.parametrize("words", [[], ["fish"], ["bash", "zsh"]])
def test_other_shells_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", *words]) == 2
    assert "it takes the name of a shell: bash or zsh." in capsys.readouterr().err


def test_nothing_else_waits_for_it() -> None:
    code = "import sys; from hf_unlearn.cli import main; main(['--help']); assert 'shtab' not in sys.modules"
    started = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert time.perf_counter() - started < 5
