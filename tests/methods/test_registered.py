"""Methods from elsewhere: handed over, registered, and brought by an installed package."""

import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import InputError, UnlearningConfig, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.cli.recipes import parse
from hf_unlearn.methods import Method, register
from hf_unlearn.methods.starts import toward_base
from hf_unlearn.methods.table import BROKEN, METHODS, NAMES, STARTS, find_method, register_installed

GUIDE = Path(__file__).parents[2] / "recipes" / "guides" / "adding_a_method.md"
MINE = Method("mine", "A method of mine.")


def told(language: str) -> str:
    """The block of the guide in one language."""
    return GUIDE.read_text(encoding="utf-8").split(f"```{language}\n")[1].split("```")[0]


def install(folder: Path, module: str, entries: dict[str, str]) -> None:
    """Put a package that brings methods into a folder, as an installer does."""
    (folder / "my_methods.py").write_text(module)
    info = folder / "my_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[hf_unlearn.methods]", *lines, ""]))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of the package in the guide."""
    folder = tmp_path / "site"
    folder.mkdir()
    entries = tomllib.loads(told("toml"))["project"]["entry-points"]["hf_unlearn.methods"]
    install(folder, told("python"), entries)
    return folder


def test_a_method_is_handed_over_as_it_is(tmp_path: Path) -> None:
    made = UnlearningConfig(str(tmp_path), method=replace(MINE, settings={"learning_rate": 0.125}))  # type: ignore[arg-type]
    assert (made.method, made.learning_rate) == ("mine", 0.125)
    assert made.to_dict()["method"] == "mine"
    assert UnlearningConfig(str(tmp_path), method="mine").learning_rate == 0.125


def test_one_may_be_replaced_and_none_of_ours() -> None:
    assert register(MINE) is MINE
    other = replace(MINE, summary="Another.")
    register(other)
    assert find_method("mine") is other
    assert NAMES.count("mine") == 1
    for name in ("npo", "auto", "fine_tune"):
        before = METHODS.get(name)
        with pytest.raises(InputError, match=f"hf_unlearn has '{name}' already"):
            register(replace(MINE, name=name))
        assert METHODS.get(name) is before
    for name in ("", "my method", "../x", "a\nb"):
        with pytest.raises(InputError, match="cannot name a method"):
            register(replace(MINE, name=name))
    with pytest.raises(InputError, match="A str is no method"):
        register("npo")  # type: ignore[arg-type]


def test_others_can_begin_where_one_of_mine_begins() -> None:
    register(replace(MINE, start=toward_base, alpha=0.5, strength="how far"))
    register(replace(MINE, name="plain"))
    assert "mine" in STARTS
    assert "plain" not in STARTS
    assert find_method("npo", "mine").start is toward_base


def test_an_installed_package_brings_a_method_to_flags_and_recipes(
    installed: Path,
    lm_settings: dict[str, Any],
    lm_original: Path,
    recipe: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pictures_left_blank: None,
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    register_installed()
    assert BROKEN == {}
    given = {**lm_settings, "max_steps": 1, "measure": "sample", "output_dir": str(tmp_path / "out")}
    config = str(recipe(**given, method_kwargs={"forget_weight": 0.5}))
    assert main(["run", "--config", config, "--method", "unlikelihood"]) == 0
    report = UnlearningReport.load(tmp_path / "out" / "unlearning_report.json")
    assert (report.method.name, report.method.trained_on_forget) == ("unlikelihood", True)
    assert report.method.options == {"forget_weight": 0.5}
    assert "Welleck et al. 2019" in (tmp_path / "out" / "README.md").read_text()
    assert parse("run", ["--config", str(recipe(**{**given, "method": "unlikelihood"}))])["method"] == "unlikelihood"


@pytest.mark.parametrize(
    ("module", "entry", "why"),
    [
        ("import nowhere", "my_methods:METHOD", "ModuleNotFoundError in my-methods"),
        ("METHOD = 3", "my_methods:METHOD", "A int is no method"),
        ("", "my_methods:METHOD", "AttributeError in my-methods"),
        ("from hf_unlearn.methods import Method\nMETHOD = Method('other', '')", "my_methods:METHOD", "called 'other'"),
        ("from hf_unlearn.methods import Method\nMETHOD = Method('npo', '')", "my_methods:METHOD", "called 'npo'"),
    ],
)
def test_a_broken_package_is_told_to_whoever_asks_for_its_method_and_stops_nobody_else(
    module: str, entry: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, module, {"broken": entry})
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_methods", raising=False)
    ours = METHODS["npo"]
    register_installed()
    assert find_method("npo") is ours
    assert "other" not in METHODS
    with pytest.raises(InputError, match="'broken' cannot be loaded") as caught:
        find_method("broken")
    assert why in str(caught.value)


@pytest.mark.slow
def test_a_process_of_its_own_knows_an_installed_method(installed: Path) -> None:
    script = (
        "from hf_unlearn import UnlearningConfig; from hf_unlearn.methods.table import METHODS; "
        "assert 'unlikelihood' in METHODS; UnlearningConfig('out', method='unlikelihood')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
