"""The wheel: everything that is read at run time is in it, and it runs where nothing else of the project is."""

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from hf_unlearn.evaluation.report import REPORT_FILE

from .publishing.test_card import example_report

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "hf_unlearn" / "publishing" / "templates"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "bin"


def test_what_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "hf_unlearn").rglob("*.py")}
    assert modules <= set(names)
    read = {"py.typed", *(str(path.relative_to(ROOT / "hf_unlearn")) for path in TEMPLATES.iterdir())}
    assert {f"hf_unlearn/{name}" for name in read} <= set(names)
    assert not [name for name in names if name.startswith(("recipes", "tests", "model_cards", "build"))]
    metadata = next(name for name in names if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text


def test_no_module_needs_an_extra_to_be_imported() -> None:
    """Open-unlearning cannot be imported without deepspeed, nor its evaluation without lm_eval."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {
        re.split(r"[^\w-]", wanted)[0].replace("-", "_")
        for name, wanted_ones in extras.items()
        if name != "dev"
        for wanted in wanted_ones
    }
    assert {"deepspeed", "lm_eval", "bitsandbytes", "rfc3161_client"} <= names
    for path in (ROOT / "hf_unlearn").rglob("*.py"):
        needed: set[str] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                needed |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                needed.add(str(node.module).split(".")[0])
        # Metrics for the library `evaluate` are of use to who has it alone.
        assert needed & names <= ({"evaluate"} if path.name == "evaluate_metrics.py" else set()), path.name


def test_help_runs_where_nothing_else_is_installed(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run([installed / "hf-unlearn", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "hf-unlearn run" in done.stdout


def test_the_installed_package_finds_its_template(installed: Path, tmp_path: Path) -> None:
    libraries = sysconfig.get_paths()["purelib"]
    run = tmp_path / "run"
    run.mkdir()
    example_report().save(run / REPORT_FILE)
    # The libraries it needs come from here, the package itself from the wheel.
    script = (
        f"import sys, hf_unlearn; sys.path.append({libraries!r}); from hf_unlearn.cli import main; "
        f"assert {str(ROOT)!r} not in hf_unlearn.__file__; sys.exit(main(['card', {str(run)!r}]))"
    )
    done = subprocess.run([installed / "python", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run / "README.md").read_text(encoding="utf-8").startswith("---\nbase_model: acme/router")
