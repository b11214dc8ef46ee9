"""The benchmark's tables and picture: their numbers are those of the results, and nothing lies on anything else."""

import json
import math
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from transformers import AutoModelForCausalLM

from hf_unlearn.evaluation.benchmarks.tofu import model_utility
from hf_unlearn.evaluation.benchmarks.tofu_suite import recall_tofu, score_tofu, tofu_metrics

from ..evaluation.test_tofu_suite import make, records  # noqa: F401

RECIPE = Path(__file__).parents[2] / "recipes" / "tofu" / "benchmark"
NINE = [
    f"{name}_{measured}"
    for name, likely in (
        ("retain", "probability"),
        ("real_authors", "probability_among_options"),
        ("world_facts", "probability_among_options"),
    )
    for measured in (likely, "rougeL_recall", "truth_ratio_geometric_true_better")
]
ATTACKS = [f"mia_{name}" for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "gradnorm", "reference")]
S = [
    "forget_truth_ratio_geometric_closer_to_one",
    "forget_probability",
    "forget_rougeL_recall",
    "forget_extraction_strength",
    "forget_exact_memorization",
]
SHOWN = {
    "main": ["model_utility_geometric", *S],
    "utility": ["model_utility_geometric", *NINE],
    "attacks": ATTACKS,
}


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))


def cell(row: str, seed: int, draw: np.random.Generator, **own: Any) -> dict[str, Any]:
    """A cell with all measures at random; ``own`` are values of measures, or entries of the cell."""
    metrics: dict[str, Any] = {
        name: {"value": value, "n": 400, "low": value / 2, "high": (1 + value) / 2, "groups": 20}
        for name in [*S, *NINE, *ATTACKS, "real_authors_probability", "world_facts_probability"]
        for value in [round(draw.uniform(0.05, 0.95), 6)]
    }
    utility = model_utility([metrics[name]["value"] for name in NINE])
    metrics["model_utility_geometric"] = {"value": utility, "n": 617, "low": utility - 0.02, "high": utility + 0.02}
    metrics["forget_quality_geometric"] = {"value": 10 ** -draw.uniform(0, 30), "n": 400}
    metrics["privleak"] = {"value": draw.uniform(-100, 50), "n": 800}
    for name in own.keys() & metrics.keys():
        metrics[name] = {"value": own.pop(name), "n": 400}
    auc = {"attack": "min_k_plus", "value": 0.9, "low": 0.85, "high": 0.95}
    entries = {"price": 0.25, "seconds": 8.1, "peak_memory_bytes": None, "verdict": "undecided"}
    return {"row": row, "seed": seed, **entries, "membership_auc": auc, "metrics": metrics, **own}


def results(names: list[str], seeds: tuple[int, ...] = (0, 1, 2), **about: Any) -> dict[str, Any]:
    """Both yardsticks and the named rows, all cells with numbers of their own."""
    draw = np.random.default_rng(0)
    rows = [{"name": name, "group": "yardstick", "flags": {}} for name in ("original", "retrained")]
    rows += [{"name": n, "group": "forget", "flags": {"method": "npo", "learning_rate": 0.001}} for n in names]
    ends = {
        "original": {"forget_probability": 0.9, "price": None, "verdict": None},
        "retrained": {"forget_probability": 0.4, "price": 1.0, "verdict": None},
    }
    cells = [cell(row["name"], seed, draw, **ends.get(row["name"], {})) for row in rows for seed in seeds]
    return {
        "name": "small", "forget": "forget10", "seeds": list(seeds),
        "command": "python recipes/tofu/benchmark/benchmark.py run",
        "hardware": "2 x86-64 cores", "software": {"torch": "2.13.0"},
        "settings": {"model": "tiny", "train": {"epochs": 8}, "target": None}, "rows": rows, "cells": cells, **about,
    }  # fmt: skip


def written(found: Any, folder: Path) -> Path:
    path = folder / "small.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


def parsed(table: str) -> dict[str, dict[str, str]]:
    """A table of Markdown by row and column, without the lines that part groups."""
    head, _, *lines = [[entry.strip() for entry in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    assert {len(line) for line in lines} == {len(head)}
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines if not line[0].startswith("**")}


def spread(values: list[float], decimals: int = 2) -> str:
    mean, low, high = (f"{number:.{decimals}f}" for number in (np.mean(values), np.min(values), np.max(values)))
    return f"{mean} [{low}, {high}]"


# The tables


def test_the_names_are_those_of_the_suite(records: Any, lm_base: Path, lm_by_heart: Path) -> None:  # noqa: F811
    import tables

    suite, model, tokenizer = make(records, lm_by_heart)
    recall = recall_tofu(suite, model, tokenizer, 4)
    reference = score_tofu(suite, AutoModelForCausalLM.from_pretrained(lm_base))
    metrics = tofu_metrics(score_tofu(suite, model), recall, reference)
    measured = {name: {"value": metric.value, "n": metric.n} for name, metric in metrics.items()}
    made = {"price": 1.0, "membership_auc": {"value": 0.5}, "metrics": measured}
    for table in tables.TABLES.values():
        assert all(column.of(made) is not None for column in table.columns)
    assert set(tables.SETS.values()) <= set(metrics)


def test_the_numbers_are_means_with_the_smallest_and_the_largest_of_the_seeds() -> None:
    import tables

    found = results(["npo", "rmu"])
    for which, names in SHOWN.items():
        rows = parsed(tables.as_table(found, which))
        assert list(rows) == ["original", "retrained", "npo", "rmu"]
        titles = [column.title for column in tables.TABLES[which].columns]
        start = titles.index("model utility") if "model utility" in titles else 0
        for row in ("npo", "rmu"):
            cells = [cell["metrics"] for cell in found["cells"] if cell["row"] == row]
            for title, name in zip(titles[start:], names, strict=False):
                assert rows[row][title] == spread([cell[name]["value"] for cell in cells]), (which, title)
    main, attacks = (parsed(tables.as_table(found, which)) for which in ("main", "attacks"))
    cells = [cell["metrics"] for cell in found["cells"] if cell["row"] == "npo"]
    logs = [math.log10(cell["forget_quality_geometric"]["value"]) for cell in cells]
    assert main["npo"]["forget quality, log10 p"] == spread(logs, 1)
    assert attacks["npo"]["PrivLeak, %"] == spread([cell["privleak"]["value"] for cell in cells], 1)
    assert main["npo"]["worst attack's AUC"] == attacks["npo"]["worst attack's AUC"] == "0.90"
    assert attacks["npo"]["worst attack"] == "min_k_plus 3 of 3"
    assert (main["npo"]["verdict"], main["npo"]["price, %"]) == ("undecided 3 of 3", "25.0")
    assert (main["original"]["price, %"], main["retrained"]["price, %"]) == ("", "100.0")


def test_the_nine_parts_of_a_single_seed_have_the_utility_as_their_harmonic_mean() -> None:
    import tables

    found = results(["npo"], seeds=(4,))
    row = parsed(tables.as_table(found, "utility"))["npo"]
    nine = [float(row[column.title].split()[0]) for column in tables.TABLES["utility"].columns[1:]]
    assert len(nine) == 9
    assert float(row["model utility"].split()[0]) == pytest.approx(9 / sum(1 / part for part in nine), abs=0.01)
    utility = found["cells"][-1]["metrics"]["model_utility_geometric"]["value"]
    assert row["model utility"] == f"{utility:.2f} [{utility - 0.02:.2f}, {utility + 0.02:.2f}]", "its own interval"
    assert row["seeds"] == "1"
    assert parsed(tables.as_table(found, "main"))["npo"]["verdict"] == "undecided"
    assert tables.caption(found).startswith("Seed 4 alone. In brackets the 95 % interval")


def test_what_is_missing_is_left_empty_and_counted(tmp_path: Path) -> None:
    import tables

    found = results(["npo", "rmu", "later"])
    found["cells"] = [
        one for one in found["cells"] if one["row"] != "later" and (one["row"], one["seed"]) != ("npo", 1)
    ]
    rmu = [one for one in found["cells"] if one["row"] == "rmu"]
    rmu[0]["metrics"]["privleak"]["value"] = None
    del rmu[1]["metrics"]["privleak"]
    for one in rmu:
        del one["metrics"]["forget_quality_geometric"]
    rmu[2].update(membership_auc=None, verdict=None)
    tables.render(written(found, tmp_path))
    main, attacks = (parsed(tables.as_table(found, which)) for which in ("main", "attacks"))
    assert [main[row]["seeds"] for row in ("npo", "rmu", "later")] == ["2 of 3", "3", "0 of 3"]
    assert set(main["later"].values()) == {"later", "0 of 3", ""}
    assert attacks["rmu"]["PrivLeak, %"] == f"{rmu[2]['metrics']['privleak']['value']:.1f} (1 of 3)"
    assert attacks["rmu"]["worst attack's AUC"] == "0.90 (2 of 3)"
    assert main["rmu"]["forget quality, log10 p"] == ""
    assert main["rmu"]["verdict"] == "undecided 2 of 3"
    npo = [one["metrics"]["forget_probability"]["value"] for one in found["cells"] if one["row"] == "npo"]
    assert main["npo"]["probability on S"] == spread(npo)
    assert (tmp_path / "small.png").stat().st_size > 5000


def test_small_p_values_and_zeros_are_shown_as_numbers() -> None:
    import tables

    found = results(["none", "same"], seeds=(0,))
    for row, p, leak in (("none", 0, -0.01), ("same", 1, 0)):
        metrics = next(one["metrics"] for one in found["cells"] if one["row"] == row)
        metrics["forget_quality_geometric"]["value"], metrics["privleak"]["value"] = p, leak
    quality = {name: row["forget quality, log10 p"] for name, row in parsed(tables.as_table(found, "main")).items()}
    assert (quality["none"], quality["same"]) == ("-307.7", "0.0")
    leaks = parsed(tables.as_table(found, "attacks"))
    assert leaks["none"]["PrivLeak, %"] == leaks["same"]["PrivLeak, %"] == "0.0"


def test_groups_are_parted_and_names_cannot_break_a_table() -> None:
    import tables

    found = results(["a|b *c*\nd"])
    found["rows"].insert(0, {"name": "fine_tune", "group": "retained", "flags": {}})
    lines = tables.as_table(found, "main").splitlines()
    firsts = [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]]
    groups = ["**yardsticks**", "original", "retrained", "**trained without S**", "fine_tune", "**trained on S too**"]
    assert firsts == [*groups, r"a\|b \*c\*\\nd"]
    parsed("\n".join(lines))


def test_the_caption_says_what_the_numbers_rest_on() -> None:
    import tables

    told = tables.caption(results(["npo"]))
    for words in (
        "seeds 0, 1, 2", "2 x86-64 cores", "torch 2.13.0", "model tiny", "train.epochs 8", "forget10",
        "S 400, L 400, real authors 400", "```bash\npython recipes/tofu/benchmark/benchmark.py run\n```",
        "- npo: method npo, learning_rate 0.001",
    ):  # fmt: skip
        assert words in told, words
    assert "target" not in told


# The picture


def test_the_way_goes_from_the_original_to_the_retrained_model() -> None:
    import tables

    found = results(["half", "over"])
    for one in found["cells"]:
        more = 0.01 * (one["seed"] - 1)
        value = {"original": 0.9, "retrained": 0.4 + more, "half": 0.65 + more, "over": 0.15}[one["row"]]
        one["metrics"]["forget_probability"]["value"] = value
    points = {point.name: point for point in tables.points(found)}
    assert points["original"].forgetting == pytest.approx((0, 0, 0))
    assert points["retrained"].forgetting == pytest.approx((1, 0.98, 1.02))
    assert points["half"].forgetting == pytest.approx((0.5, 0.48, 0.52))
    assert points["over"].forgetting == pytest.approx((1.5, 1.5, 1.5))
    utilities = [one["metrics"]["model_utility_geometric"]["value"] for one in found["cells"] if one["row"] == "half"]
    assert points["half"].utility == pytest.approx((np.mean(utilities), min(utilities), max(utilities)))
    assert (points["half"].price, points["original"].price) == (0.25, None)


def test_where_the_original_has_no_model_utility_that_on_retained_records_is_shown() -> None:
    import tables

    found = results(["npo"])
    assert tables.usefulness(found)[0] == "model utility"
    for one in found["cells"]:
        one["metrics"]["model_utility_geometric"]["value"] = 0.0
    assert tables.usefulness(found)[0].startswith("utility on L")
    parts = [[one["metrics"][name]["value"] for name in NINE[:3]] for one in found["cells"] if one["row"] == "npo"]
    utilities = [3 / sum(1 / part for part in three) for three in parts]
    (npo,) = [point for point in tables.points(found) if point.name == "npo"]
    assert npo.utility == pytest.approx((np.mean(utilities), min(utilities), max(utilities)))
    assert parsed(tables.as_table(found, "main"))["npo"]["utility on L"] == spread(utilities)


def crowded(names: list[str]) -> Any:
    """Points of which most lie at the original, and some where a ruined model lies."""
    from trade_off import Point, Span

    draw = np.random.default_rng(1)
    made = [
        Point("original", "yardstick", Span(0, -0.02, 0.02), Span(0.4, 0.39, 0.41), None),
        Point("retrained", "yardstick", Span(1, 0.96, 1.03), Span(0.41, 0.4, 0.42), 1.0),
    ]
    for i, name in enumerate(names):
        x, y = [(0.0, 0.4), (0.03, 0.395), (1.5, 0.0), (draw.uniform(0, 1.5), draw.uniform(0.1, 0.4))][i % 4]
        x, y = x + draw.normal(0, 0.01), max(0.0, y + draw.normal(0, 0.003))
        price = None if i == 5 else draw.uniform(0.02, 0.6)
        made.append(
            Point(name, ["retained", "forget"][i % 2], Span(x, x - 0.02, x + 0.02), Span(y, y - 0.01, y + 0.01), price)
        )
    return made


@pytest.mark.parametrize("length", [12, 40])
def test_no_name_lies_on_another_or_outside(length: int) -> None:
    from trade_off import make as picture

    names = [f"{i}_{'$a_long|name$' * 4}"[:length] for i in range(28)]
    figure = picture(crowded(names), "a title", "model utility")
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    (axis,) = figure.axes
    window = axis.get_window_extent(renderer)
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in axis.texts}
    assert set(boxes) == {*names, "original", "retrained"}
    for (name, box), (other, another) in combinations(boxes.items(), 2):
        assert not box.overlaps(another), (name, other)
    for name, box in boxes.items():
        assert min(box.x0 - window.x0, window.x1 - box.x1, box.y0 - window.y0, window.y1 - box.y1) >= 0, name
    below = [legend.get_window_extent(renderer) for legend in figure.legends]
    below += [text.get_window_extent(renderer) for text in figure.texts]
    below.append(axis.xaxis.label.get_window_extent(renderer))
    for one, another in combinations(below, 2):
        assert not one.overlaps(another)
    whole = figure.bbox
    assert all(
        box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.x1 for box in [*below, axis.yaxis.label.get_window_extent()]
    )


def test_names_are_left_out_and_counted_where_there_is_no_room() -> None:
    from label_places import place
    from trade_off import make as picture

    centers = np.full((9, 2), 50.0)
    bars = np.stack([centers, centers], 1)
    found = place(centers, np.full(9, 2.0), np.full((9, 2), 30.0), bars, np.array([0.0, 0.0, 100.0, 100.0]))
    assert 0 < sum(spot is None for spot in found) < 9

    figure = picture(crowded([f"{i:03}{'_' * 37}" for i in range(60)]), "", "")
    told = [text.get_text() for text in figure.axes[0].texts]
    left_out = 62 - sum(text.endswith("_") or text in ("original", "retrained") for text in told)
    assert left_out > 0
    assert f"no room for {left_out} names" in told


def test_the_area_of_a_marker_is_in_proportion_to_the_price() -> None:
    from trade_off import make as picture

    points = crowded(["a", "b", "c", "d"])
    points[-1] = replace(points[-1], price=2.0)
    figure = picture(points, "", "")
    (axis,) = figure.axes
    areas = {tuple(np.round(dots.get_offsets()[0], 6)): dots.get_sizes()[0] for dots in axis.collections}
    for point in points[1:]:
        area = areas[round(point.forgetting.value, 6), round(point.utility.value, 6)]
        assert area == pytest.approx(max(16, 165 * point.price))
    labels = [text.get_text() for text in figure.legends[1].get_texts()]
    assert labels[-1] == "200 %"


@pytest.mark.parametrize("gone", ["original", "retrained"])
def test_without_a_yardstick_there_is_no_picture_and_none_is_left(gone: str, tmp_path: Path) -> None:
    import tables

    found = results(["npo"])
    found["cells"] = [one for one in found["cells"] if one["row"] != gone]
    (tmp_path / "small.png").write_bytes(b"of another time")
    tables.render(written(found, tmp_path))
    assert not (tmp_path / "small.png").exists()
    assert "There is no picture" in (tmp_path / "small.md").read_text()


# The command


def test_the_command_writes_both_files_and_the_same_bytes_again(tmp_path: Path, capsys: Any) -> None:
    import tables

    path = written(results(["npo", "rmu"]), tmp_path)
    assert tables.main([str(path)]) == 0
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(first) == {"small.json", "small.md", "small.png"}
    assert tables.main([str(path)]) == 0
    assert first == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert capsys.readouterr() == ("", "")
    text = first["small.md"].decode()
    assert "![Forgetting against utility](small.png)" in text
    for which in tables.TABLES:
        assert tables.main([str(path), "--table", which]) == 0
        shown = capsys.readouterr().out
        table = tables.as_table(results(["npo", "rmu"]), which)
        assert shown.startswith(table + "\n")
        assert table in text
    assert first == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def without(found: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != name}


def with_metric(value: Any) -> dict[str, Any]:
    found = results(["npo"])
    found["cells"][0]["metrics"]["privleak"] = value
    return found


GOOD = results(["npo"])
BAD = {
    "not JSON": ("{", "cannot be read as JSON"),
    "NaN": (json.dumps(with_metric({"value": math.nan, "n": 1})), "NaN is no number"),
    "a huge number": (json.dumps(with_metric({"value": 7.25, "n": 1})).replace("7.25", "1e999"), "no finite number"),
    "a huge integer": (with_metric({"value": 10**400, "n": 1}), "int too large"),
    "a list": ([], "its top is of another type"),
    "no cells": (without(GOOD, "cells"), "'cells' is missing at its top"),
    "a row without a group": ({**GOOD, "rows": [{"name": "npo"}]}, "'group' is missing at rows[0]"),
    "seeds in words": ({**GOOD, "seeds": ["0"]}, "seeds[0] is of another type"),
    "true for a seed": ({**GOOD, "seeds": [True]}, "seeds[0] is of another type"),
    "no seeds": ({**GOOD, "seeds": []}, "there is no seed, or one twice"),
    "a seed twice": ({**GOOD, "seeds": [0, 1, 2, 0]}, "there is no seed, or one twice"),
    "another group": ({**GOOD, "rows": [{**GOOD["rows"][0], "group": "x"}, *GOOD["rows"][1:]]}, "no group 'x'"),
    "another yardstick": ({**GOOD, "rows": [{**GOOD["rows"][-1], "group": "yardstick"}]}, "which 'npo' is not"),
    "a row twice": ({**GOOD, "rows": GOOD["rows"] * 2}, "two rows have the same name"),
    "a cell twice": ({**GOOD, "cells": GOOD["cells"][:1] * 2}, "two cells have the same row and seed"),
    "a cell of no row": ({**GOOD, "rows": GOOD["rows"][:1]}, "a cell of 'retrained' with seed 0"),
    "a cell of no seed": ({**GOOD, "seeds": [0]}, "with seed 1 has no row or no seed"),
    "a metric in words": (with_metric({"value": "high", "n": 1}), "cells[0].metrics.privleak.value"),
    "a bare metric": (with_metric(0.5), "cells[0].metrics.privleak is of another type"),
    "an end of an interval": (with_metric({"value": 1.0, "n": 1, "low": None}), "cells[0].metrics.privleak.low"),
}


@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_what_holds_no_results_is_refused_in_one_sentence(
    content: Any, words: str, tmp_path: Path, capsys: Any
) -> None:
    import tables

    path = tmp_path / "small.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert tables.main([str(path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(path) in told
    assert words in told
    assert [file.name for file in tmp_path.iterdir()] == ["small.json"]


def test_other_files_are_refused(tmp_path: Path, capsys: Any) -> None:
    import tables

    for path, words in (
        (tmp_path / "gone.json", "cannot be read"),
        (tmp_path / "small.md", "is no .json file"),
        (RECIPE.parent / "results.json", "holds no results of benchmark.py"),
    ):
        assert tables.main([str(path)]) == 2
        assert words in capsys.readouterr().err
