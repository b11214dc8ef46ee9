"""The pictures: what is drawn, when, and that the numbers in it are right."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from hf_unlearn.evaluation.assemble import summarise_arm
from hf_unlearn.evaluation.measured_sets import attack_scores
from hf_unlearn.evaluation.plots import (
    _roc,
    draw_pictures,
    plot_forgetting,
    plot_losses,
    plot_roc,
)
from hf_unlearn.evaluation.report import CurvePoint, UnlearningReport
from hf_unlearn.evaluation.wording import FORGETTING_FILE, PICTURES, PLOT_FILE, ROC_FILE

from ..publishing.test_card import example_report
from ..support.draws import seeds
from .test_report import table

ARMS = ("original", "unlearned", "retrained")


def drawn(arms: tuple[str, ...] = ARMS, holdout: bool = True) -> tuple[UnlearningReport, Any]:
    """A report and its tables: S and H lie 1.0, 0.2 and 0.0 apart."""
    rng = np.random.default_rng(0)
    tables: Any = {}
    for arm, apart in zip(ARMS, (1.0, 0.2, 0.0), strict=True):
        sets = {"forget": 2 - apart + rng.random(30), "holdout": 2 + rng.random(30), "retained": rng.random(30)}
        tables[arm] = {name: table(list(losses)) for name, losses in sets.items() if holdout or name != "holdout"}
    report = example_report("text-generation")
    tables = {arm: tables[arm] for arm in arms}
    entries = {}
    for arm, sets in tables.items():
        found = summarise_arm(sets, "text-classification", set(), attack_scores(sets), seed=0)
        entries[arm] = replace(found, sets=report.arms[arm].sets)
    points = [CurvePoint(step, 1.5, 2.5, 0.5, 0.8, 0.7, 0.9) for step in (12, 24)]
    verdict = replace(report.verdict, attack="loss" if holdout else None)
    if not holdout:
        points = [replace(p, membership_auc=None, membership_auc_low=None, membership_auc_high=None) for p in points]
    return replace(report, arms=entries, curve=points, verdict=verdict), tables


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that have been written, as they were."""
    kept: list[Figure] = []
    write = Figure.savefig

    def savefig(self: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(self)
        write(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return kept


def labels(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_only_what_there_is_to_see_is_drawn(tmp_path: Path) -> None:
    report, tables = drawn()
    draw_pictures(report, tables, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES)
    draw_pictures(replace(report, curve=[]), tables, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {PLOT_FILE, ROC_FILE}
    report, tables = drawn(holdout=False)
    draw_pictures(report, tables, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {PLOT_FILE, FORGETTING_FILE}


@pytest.mark.parametrize("arms", [ARMS, ("unlearned",)])
def test_the_losses(tmp_path: Path, arms: tuple[str, ...], figures: list[Figure]) -> None:
    report, tables = drawn(arms)
    plot_losses(report, tables, tmp_path / "plot.png")
    data = (tmp_path / "plot.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width == 480 * len(arms)
    assert height > 400
    assert not list(tmp_path.glob(".*"))
    assert labels(figures[0].axes[0]) == ["records to forget (S)", "never seen (H)", "retained (L)"]


def test_the_losses_without_held_out_records(tmp_path: Path) -> None:
    plot_losses(example_report(), {"unlearned": {"forget": table([0.0, 0.0])}}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("seed", seeds())
def test_the_roc_against_sklearns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = (int(size) for size in rng.integers(1, 50, 2))
    # Rounded, so that some are equal.
    forget, holdout = rng.normal(rng.uniform(-1, 2), 1, m).round(1), rng.normal(0, 1, n).round(1)
    truth = np.concatenate([np.ones(m), np.zeros(n)])
    false, true, _ = roc_curve(truth, np.concatenate([forget, holdout]), drop_intermediate=False)
    expected = [true[false * n <= k + 1e-9].max() for k in range(1, n + 1)]
    assert _roc(forget, holdout) == pytest.approx(np.array(expected))


def test_the_roc_says_how_much_of_s_is_found_where_so_many_records_can_tell(
    tmp_path: Path, figures: list[Figure]
) -> None:
    report, tables = drawn()
    # Another attack that finds none, and a base that is not drawn.
    tables["base"] = tables["retrained"]
    scores = {arm: attack_scores(tables[arm], tables["base"]) for arm in ARMS}
    arms = {arm: summarise_arm(tables[arm], "text-classification", set(), scores[arm], seed=0) for arm in ARMS}
    report = replace(report, arms=arms, verdict=replace(report.verdict, attack="reference"))
    plot_roc(report, tables, tmp_path / "roc.png")
    reference, loss = figures[0].axes
    assert reference.get_title().startswith(
        "S found by the loss less that of the base model\nat 3.3 % false positives"
    )
    assert "100 % before" in loss.get_title()
    assert reference.get_title().endswith(", 0 % retrained")
    for axis in (reference, loss):
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
        assert axis.get_xlim() == (1 / 30, 1)
        assert "30 records resolve 0.033 to 1" in axis.get_xlabel()
        styles = {(line.get_linestyle(), line.get_marker()) for line in axis.get_lines()}
        assert len(styles) == 4, "each line is told from the others without colour"
        assert [label.split(":")[0] for label in labels(axis)] == ["before", "after", "retrained without S", "chance"]


def test_the_way_there_begins_at_the_original_and_has_the_retrained_band(
    tmp_path: Path, figures: list[Figure]
) -> None:
    report, tables = drawn()
    plot_forgetting(report, tables, tmp_path / "curve.png")
    losses, aucs = figures[0].axes
    means = [tables[arm]["forget"]["loss"].to_numpy().mean() for arm in ARMS]
    assert losses.get_title() == (
        f"Mean loss of S: {means[0]:.2f} before, {means[1]:.2f} after, {means[2]:.2f} retrained without S"
    )
    of_s, ends = losses.get_lines()[:2]
    assert of_s.get_xydata().tolist() == [[12, 1.5], [24, 1.5]]
    assert ends.get_xydata() == pytest.approx(np.array([[0, means[0]], [58, means[1]]]))
    band = losses.patches[0].get_bbox()
    assert band.y0 < means[2] < band.y1
    found = report.arms["retrained"].membership_auc
    assert found is not None
    assert (aucs.patches[0].get_bbox().y0, aucs.patches[0].get_bbox().y1) == pytest.approx((found.low, found.high))
    assert losses.patches[0].get_hatch()
    before = report.arms["original"].membership_auc
    assert before is not None
    assert f"AUC of the loss: {before.value:.2f} before" in aucs.get_title()


def test_the_way_there_without_a_reference_and_without_held_out_records(tmp_path: Path, figures: list[Figure]) -> None:
    report, tables = drawn(("original", "unlearned"), holdout=False)
    plot_forgetting(report, tables, tmp_path / "curve.png")
    (losses,) = figures[0].axes
    assert not losses.patches
    # Nothing is known of H, so nothing is drawn of it.
    report = replace(report, curve=[replace(point, holdout_loss=None) for point in report.curve])
    plot_forgetting(report, tables, tmp_path / "curve.png")
    assert not any("H" in label for label in labels(figures[1].axes[0]))
