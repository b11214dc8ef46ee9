"""TOFU's benchmark: what is finished stays, what changed is made again, a row that fails stops no other."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPE = Path(__file__).parents[2] / "recipes" / "tofu" / "benchmark"
SMALLEST = {"authors": 4, "forget_authors": 1, "holdout_authors": 1}
EVALUATE = {"sample": 4, "batch_size": 16, "new_tokens": 4, "dtype": "float32"}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two rows that work and one that cannot, for a preset of four authors."""
    presets = yaml.safe_load((RECIPE / "benchmark.yaml").read_text())["presets"]
    preset = {**presets["tinystories"], **SMALLEST, "evaluate": EVALUATE}
    preset["search"] = {**preset["search"], **SMALLEST, "evaluate": EVALUATE, "learning_rates": [0.001]}
    rows = {
        "forget": {
            "broken": {"method": "npo", "learning_rate": 0.001, "method_kwargs": {"no_such_option": 1}},
            "npo": {"method": "npo", "learning_rate": 0.001},
        },
        "retained": {"fine_tune": {"method": "fine_tune"}},
    }
    return write(tmp_path / "benchmark.yaml", {"rows": rows, "presets": {"smallest": preset}})


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.rglob(pattern)}


@pytest.mark.slow
def test_a_table_survives_kills_changes_and_a_row_that_fails(
    config: Path, tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import benchmark

    tofu, output = shared / "data" / "tofu", tmp_path / "results.json"
    argv = [
        "run", "--config", str(config), "--preset", "smallest", "--source", str(tofu), "--seeds", "3",
        "--model", str(shared / "models" / "tinystories-260k"), "--max_steps", "2", "--processes", "1",
        "--build", str(tmp_path / "build"), "--output", str(output),
    ]  # fmt: skip
    cells = tmp_path / "build" / "smallest" / "cells"

    command = [sys.executable, str(RECIPE / "benchmark.py"), *argv, "--rows", "npo", "fine_tune"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("npo, seed 3: "):
                process.kill()
    assert {file.stem for file in cells.iterdir()} == {"original_seed_3", "retrained_seed_3", "npo_seed_3"}
    assert not output.exists()
    before, trained = times(cells, "*.json"), times(tmp_path / "build", "model.safetensors")
    assert len(before) == 3

    content = yaml.safe_load(config.read_text())
    content["rows"]["forget"]["npo"]["learning_rate"] = 0.002
    write(config, content)
    argv += ["--rows", "broken", "npo"]
    assert benchmark.main(argv) == 1
    shown = capsys.readouterr()
    assert "npo, seed 3: again, because of other flags." in shown.out
    assert "2 of 4 cells are finished." in shown.out
    assert "broken, seed 3: method_kwargs names 'no_such_option'" in shown.err
    after = times(cells, "*.json")
    assert {name for name in after if after[name] == before.get(name)} == {
        "original_seed_3.json",
        "retrained_seed_3.json",
    }
    assert after.keys() == before.keys()
    models = times(tmp_path / "build", "model.safetensors")
    assert models == trained, "the target and the reference are kept as they are, the weights of cells are not"

    found = json.loads(output.read_text())
    assert [(row["name"], row["group"]) for row in found["rows"]] == [
        ("original", "yardstick"), ("retrained", "yardstick"), ("npo", "forget"),
    ]  # fmt: skip
    of = {cell["row"]: cell for cell in found["cells"]}
    assert (of["original"]["price"], of["retrained"]["price"], of["retrained"]["verdict"]) == (None, 1.0, None)
    assert all(cell["metrics"]["forget_quality_geometric"]["n"] == 4 for cell in of.values())
    assert of["retrained"]["metrics"]["forget_quality_geometric"]["value"] == 1
    assert 0 <= of["npo"]["membership_auc"]["value"] <= 1
    private = [json.loads(line) for line in (tofu / "forget10.json").read_text().splitlines()]
    for file in (output, *cells.iterdir()):
        text = file.read_text()
        assert not any(json.dumps(row[column])[1:-1] in text for row in private for column in ("question", "answer"))

    assert benchmark.main([*argv[:-2], "npo"]) == 0
    assert "3 of 3 cells are finished." in capsys.readouterr().out
    assert times(cells, "*.json") == after
    assert json.loads(output.read_text())["cells"] == found["cells"]


@pytest.mark.slow
def test_the_preset_for_a_gpu_goes_through_with_a_tiny_model(tmp_path: Path, shared: Path) -> None:
    import benchmark
    import cells

    from hf_unlearn.jobs.settings import build
    from hf_unlearn.training.config import UnlearningConfig

    preset, rows = benchmark.read_presets(RECIPE / "benchmark.yaml", "smollm2")
    on_cpu = {"use_cpu": True}
    preset = {
        **preset, **SMALLEST, "evaluate": {**preset["evaluate"], "sample": 4, "new_tokens": 4},
        "train": {**preset["train"], **on_cpu},
        "unlearn": {group: {**flags, **on_cpu} for group, flags in preset["unlearn"].items()},
        "alternates": {"alternates_prompt": "{prompt}", "alternates_per_record": 1},
    }  # fmt: skip
    words = ["--preset", "smollm2", "--source", str(shared / "data" / "tofu"), "--build", str(tmp_path)]
    args = benchmark.parser().parse_args([*words, "--max_steps", "2"])
    args.model = str(shared / "models" / "tinystories-260k")
    experiment = benchmark.experiment(args, preset)
    for row in rows:
        given = {"alternates_file": __file__} if row.writes_alternates else {}
        flags = {**experiment.unlearn[row.group], **row.flags, **given}
        build(UnlearningConfig, {**flags, "output_dir": str(tmp_path / "none")})
    cells.write_data(experiment, 0)
    for arm in ("original", "retrained"):
        assert cells.train(experiment, arm, 0) is None
    # One row, with these two models as if they came from elsewhere.
    places = {"target": experiment.place("original", 0), "reference": experiment.place("retrained", 0)}
    elsewhere = replace(experiment, folder=tmp_path / "elsewhere", **places)
    cells.write_data(elsewhere, 0)
    row = benchmark.picked(rows, ["altpo"])[2]
    assert cells.run(elsewhere, row, 0) is None
    cell = benchmark.finished(elsewhere, row, 0)
    assert cell is not None
    assert cell["metrics"]["forget_quality_geometric"]["value"] is not None
    assert not list((elsewhere.folder / "unlearned").iterdir())


def test_the_best_rate_is_the_one_that_forgets_as_retraining_does_and_keeps_the_rest(tmp_path: Path) -> None:
    import rates
    from cells import Row

    from hf_unlearn.errors import InputError

    def cell(utility: float, probability: float, ratio: float, auc: float) -> dict[str, Any]:
        values = dict(zip(rates.FORGETTING, (probability, ratio, auc), strict=True))
        values |= dict.fromkeys(rates.UTILITY, utility)
        return {"metrics": {name: {"value": value} for name, value in values.items()}}

    rows = [Row("npo", "forget", {"method": "npo"}), Row("ascent", "forget", {"method": "gradient_ascent"})]
    others = [Row("fixed", "forget", {"learning_rate": 1.0}), Row("base", "retained")]
    tried = rates.candidates([*rows, *others], [1e-3, 0.1])
    assert [option.name for option in tried["npo"]] == ["npo_0.001", "npo_0.1"]
    made = {
        "original": cell(0.6, 0.9, 0.5, 0.9), "retrained": cell(0.5, 0.1, 0.7, 0.5),
        # Half of the way in each measure, at no loss; the whole way, at the loss of four fifths of the utility.
        "npo_0.001": cell(0.55, 0.5, 0.6, 0.7), "npo_0.1": cell(0.1, 0.1, 0.7, 0.5),
        "ascent_0.001": None, "ascent_0.1": None,
    }  # fmt: skip
    found = rates.choose(tried, made)["rows"]
    assert [one["score"] for one in found["npo"]["tried"]] == pytest.approx([2 / 3, 1 / 3])
    assert found["npo"]["chosen"] == 1e-3
    assert found["ascent"]["chosen"] is None
    assert rates.score(*[rates._numbers(made[arm]) for arm in ("original", "original", "retrained")])["score"] == 0

    file = tmp_path / "search.json"
    file.write_text(json.dumps({"rows": found}))
    assert rates.chosen(rows[:1], file)[0].flags["learning_rate"] == 1e-3
    with pytest.raises(InputError, match="ascent has no learning rate"):
        rates.chosen(rows, file)


def test_a_job_that_fails_or_dies_is_named_with_all_that_needed_it(capsys: pytest.CaptureFixture[str]) -> None:
    from work import Job, do

    well = Job("well", time.sleep, (0.0,))
    fails = Job("fails", str, ("there is no memory",))
    after = Job("after", time.sleep, (0.0,), frozenset({"well"}))
    never = Job("never", time.sleep, (0.0,), frozenset({"well", "fails"}))
    assert do([never, after, fails, well], 2, time.sleep, (0.0,)) == [
        "fails: there is no memory",
        "never: it needs fails",
    ]
    shown = capsys.readouterr().out.splitlines()
    assert sorted(line.split(":")[0] for line in shown) == ["after", "fails", "well"]
    assert shown[-1].endswith("some 0 min left for 0 jobs")

    dies = Job("dies", os._exit, (3,))
    failed = do([dies, well, never], 1, time.sleep, (0.0,))
    assert [line.split(":")[0] for line in failed] == ["well", "never", "dies"]
    assert "was killed" in failed[-1]
