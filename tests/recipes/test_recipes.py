"""Recipes do not rot: each is parsed, run for two steps on a tiny model, and its numbers are those in git."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from hf_unlearn import UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.cli.recipes import ORIGINAL, parse
from hf_unlearn.jobs.settings import SETTINGS, build
from hf_unlearn.publishing.card import rendered_card

from ..conftest import write_rows

ROOT = Path(__file__).parents[2]
OTHERS = {"accelerate/", "benchmark.yaml"}  # files that are no recipes of the commands
RECIPES = sorted(
    path for path in (ROOT / "recipes").rglob("*.yaml") if not OTHERS & {f"{path.parent.name}/", path.name}
)
LAUNCHERS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
RESULTS = sorted((ROOT / "recipes").rglob("*results*.json"))
CARDS = sorted((ROOT / "model_cards").glob("*/README.md"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_is_understood_by_the_commands_it_is_for(path: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    assert ORIGINAL in recipe
    for command in ("run", "train", "split", "evaluate"):
        values = parse(command, ["--config", str(path)])
        for kind in SETTINGS[command]:
            build(kind, {**values, "output_dir": str(tmp_path)})
    original = parse("train", ["--config", str(path)])
    assert original["output_dir"] == recipe["model_name_or_path"], "run unlearns what train has made"
    assert (path.parent / "README.md").is_file()


@pytest.mark.parametrize("path", LAUNCHERS, ids=name)
def test_every_launcher_is_understood_by_accelerate(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert f"recipes/accelerate/{path.name}" in path.read_text(), "its first lines say how to use it"


def small_data(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A few rows with the columns that a recipe names, and a request for some of them."""
    labels = ["ham", "spam", "priority"]
    column = recipe["forget_id_column"]
    rows: list[dict[str, Any]] = []
    for i in range(24):
        texts = {"text": f"message {i} of nobody", "question": f"What is {i}?", "answer": f"It is {i}."}
        rows.append({"row": i, **texts, "label": labels[i % 3], column: f"c{i // 4}"})
    data = folder / "data"
    data.mkdir()
    write_rows(data / "train.jsonl", rows)
    write_rows(data / "test.jsonl", rows[:6])
    (folder / "ids.txt").write_text("c0\n")
    (folder / "held_out.txt").write_text("c5\n")
    return {
        "dataset_name": str(data),
        "forget_ids": str(folder / "ids.txt"),
        "holdout_ids": str(folder / "held_out.txt"),
    }


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_every_recipe_runs_for_two_steps_on_a_tiny_model(
    path: Path, tmp_path: Path, lm_base: Path, encoder_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = yaml.safe_load(path.read_text())
    tiny = encoder_base if recipe[ORIGINAL].get("task") == "text-classification" else lm_base
    if "train_last_layers" in recipe[ORIGINAL]:
        recipe[ORIGINAL]["train_last_layers"] = 1
    if "max_length" in recipe[ORIGINAL]:
        recipe[ORIGINAL]["max_length"] = 64
    run_two_steps(recipe, tiny, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RECIPES if path.name.startswith("smollm2")], ids=name)
def test_the_smollm2_recipes_run_for_two_steps_on_the_real_model(
    path: Path, tmp_path: Path, smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sys.path.insert(0, str(ROOT / "recipes" / "tofu"))
    from prepare import write_smollm2

    write_smollm2(tmp_path / "smollm2")
    run_two_steps(yaml.safe_load(path.read_text()), tmp_path / "smollm2", tmp_path, capsys)


def run_two_steps(recipe: dict[str, Any], model: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train an original and unlearn it, on a little data and with another base model."""
    recipe |= {**small_data(recipe, folder), "model_name_or_path": str(folder / "original")}
    recipe |= {"output_dir": str(folder / "unlearned"), "max_steps": 2}
    recipe[ORIGINAL] |= {"model_name_or_path": str(model), "output_dir": str(folder / "original"), "max_steps": 2}
    copy = folder / "recipe.yaml"
    copy.write_text(yaml.safe_dump(recipe))
    for command in ("train", "run"):
        assert main([command, "--config", str(copy)]) == 0, capsys.readouterr().err
    report = UnlearningReport.load(folder / "unlearned" / "unlearning_report.json")
    assert report.method.steps == 2
    assert report.audit is not None
    assert (report.audit.forget_rows, report.audit.holdout_rows) == (4, 4)


NOTEBOOKS = sorted((ROOT / "recipes").rglob("*.ipynb"))


def code_cells(path: Path) -> list[ast.Module]:
    """What a notebook runs, a cell each; it is stored without what it showed."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["language_info"]["name"]) == (4, "python")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    return [ast.parse("".join(cell["source"]), f"cell {number}") for number, cell in enumerate(cells)]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_notebook_runs_and_shows_its_results(
    path: Path, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(path.parent, tmp_path / "here", ignore=shutil.ignore_patterns("build"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    names: dict[str, Any] = {}
    shown = []
    for cell in code_cells(path):
        last = ast.Expression(cell.body.pop().value) if isinstance(cell.body[-1], ast.Expr) else None
        exec(compile(cell, path.name, "exec"), names)
        if last is not None:
            value = eval(compile(last, path.name, "eval"), names)
            shown.append(value._repr_html_() if "_repr_html_" in dir(value) else repr(value))
    assert [text for text in shown if "base: exact" in text and "<table>" in text]
    assert [text for text in shown if "fine_tune: " in text and "membership AUC of S" in text]
    assert [text for text in shown if "rows to forget (S)" in text]
    assert shown[-1] == "'delivery'"
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if not line.startswith("Wrote ")] == []
    assert err == ""


@pytest.mark.slow
def test_methods_and_seeds_side_by_side(
    tmp_path: Path,
    lm_settings: dict[str, Any],
    recipe: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "quickstart"))
    from side_by_side import main as side_by_side

    settings = {**lm_settings, ORIGINAL: {**lm_settings[ORIGINAL], "max_steps": 4, "num_train_epochs": 1}}
    output = tmp_path / "out"
    command = [
        "side_by_side.py", "--config", str(recipe(**settings)), "--output", str(output), "--seeds", "0", "1",
        "--variants", "fine_tune", "toward_base --alpha 0.3", "--max_steps", "2",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    side_by_side()
    found = json.loads((output / "results.json").read_text())
    assert [row["variant"] for row in found["rows"]] == [
        "before",
        "retrained on L",
        "fine_tune",
        "toward_base --alpha 0.3",
    ]
    assert all(len(row["figures"]) == 2 for row in found["rows"])
    assert (output / "results.png").stat().st_size > 5000
    capsys.readouterr()
    side_by_side()
    assert capsys.readouterr().out.count("holds this run, finished") == 4
    assert json.loads((output / "results.json").read_text()) == found


@pytest.mark.parametrize("path", RESULTS, ids=name)
def test_every_table_is_what_its_results_say(path: Path) -> None:
    sys.path.insert(0, str(ROOT / "recipes" / "quickstart"))
    from side_by_side import as_markdown

    found = json.loads(path.read_text(encoding="utf-8"))
    assert as_markdown(found) in (path.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", CARDS, ids=name)
def test_every_card_is_what_its_report_says(path: Path) -> None:
    report = UnlearningReport.load(path.parent / "unlearning_report.json")
    assert rendered_card(path.parent, report) == path.read_text(encoding="utf-8")


def test_the_readme_shows_commands_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)$", text, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
        assert (ROOT / path).exists(), path
    for file in re.findall(r"(recipes/[\w/.]+)", text):
        assert (ROOT / file).exists(), file
