"""The report as a file and as a picture."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hf_unlearn import InputError, UnlearningReport
from hf_unlearn.evaluation.assemble import summarise, summarise_arm
from hf_unlearn.evaluation.measured_sets import attack_scores
from hf_unlearn.evaluation.statistics import Estimate
from hf_unlearn.evaluation.wording import show

from ..publishing.test_card import example_report


def table(losses: list[float], tokens: int = 1) -> pa.Table:
    n = len(losses)
    nll = [loss * tokens for loss in losses]
    columns = {"row": range(n), "tokens": [tokens] * n, "nll": nll, "loss": losses, "correct": [1] * n}
    columns |= {"exact": [0.5] * n, "extraction": [0.25] * n, "min_k": losses, "min_k_plus": losses}
    return pa.table({name: list(values) for name, values in columns.items()})


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    report = example_report()
    report.save(tmp_path / "report.json")
    assert UnlearningReport.load(tmp_path / "report.json") == report
    assert not list(tmp_path.glob(".*")), "no temporary file may stay"


def test_it_is_plain_json_without_nan(tmp_path: Path) -> None:
    report = example_report()
    arm = report.arms["unlearned"]
    scores = replace(arm.sets["test"], perplexity=Estimate(math.inf, 1.0, math.nan, 3))
    report = replace(report, arms={**report.arms, "unlearned": replace(arm, sets={"test": scores})})
    report.save(tmp_path / "report.json")
    text = (tmp_path / "report.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    perplexity = json.loads(text)["arms"]["unlearned"]["sets"]["test"]["perplexity"]
    assert perplexity == {"value": None, "low": 1.0, "high": None, "n": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no readable report"),
        ("[]", "no readable report at .*: it is not of version 1"),
        ('{"schema_version": 2}', "no readable report at .*: it is not of version 1"),
        ('{"schema_version": 1, "task": "text-generation"}', "does not fit its schema"),
        (b"\xff", "no readable report"),
        ("[" * 100_000, "no readable report"),
    ],
)
def test_what_is_no_report(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "report.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=message):
        UnlearningReport.load(tmp_path / "report.json")
    with pytest.raises(InputError, match="no readable report"):
        UnlearningReport.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"task": "poetry"}, "task"),
        ({"verdict": None}, "verdict"),
        ({"arms": []}, "arms"),
        ({"software": {"torch": 2}}, "software"),
        ({"curve": {}}, "curve"),
        ({"judged_on_part": "no"}, "judged_on_part"),
        ({"base": "acme/encoder"}, "base"),
        ({"odd\n": 1}, r"odd\\n"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    (tmp_path / "report.json").write_text(json.dumps(example_report().to_dict() | change))
    with pytest.raises(InputError, match=f"does not fit its schema at {where}"):
        UnlearningReport.load(tmp_path / "report.json")


def test_what_is_no_finite_number_is_shown_as_such(tmp_path: Path) -> None:
    report = example_report()
    (tmp_path / "report.json").write_text(
        json.dumps(report.to_dict() | {"utility": None}).replace('"value": 0.02', '"value": null')
    )
    loss = UnlearningReport.load(tmp_path / "report.json").arms["original"].sets["test"].loss
    assert math.isnan(loss.value)
    assert show(loss) == ""
    assert show(Estimate(7.0, 6.0, math.nan, 3)) == "7.000 [6.000, nan]"


def test_summaries() -> None:
    classified = summarise(table([0.5, 1.5]), "text-classification", sampled=True)
    assert (classified.records, classified.loss.value, classified.sampled) == (2, 1.0, True)
    assert classified.accuracy is not None
    assert classified.accuracy.value == 1.0
    assert classified.perplexity is None
    generated = summarise(table([0.5, 1.5], tokens=10), "text-generation", sampled=False)
    assert generated.perplexity is not None
    assert generated.perplexity.value == pytest.approx(math.e)
    assert generated.perplexity.low == pytest.approx(math.exp(generated.loss.low))
    assert generated.probability is not None
    assert generated.probability.value == pytest.approx((math.exp(-0.5) + math.exp(-1.5)) / 2)
    assert generated.exact_memorization == Estimate(0.5, 0.5, 0.5, 2)
    assert generated.extraction_strength == Estimate(0.25, 0.25, 0.25, 2)
    assert summarise(table([1.0]), "fill-mask", sampled=False).extraction_strength is None
    tables: Any = {"forget": table([0, 1, 2]), "holdout": table([1.5, 3])}
    arm = summarise_arm(tables, "text-generation", set(), attack_scores(tables), seed=0)
    assert arm.membership_auc is not None
    assert arm.membership_auc.value == pytest.approx(5 / 6)
    assert list(arm.attacks) == ["loss", "min_k", "min_k_plus", "exact", "extraction"]
    assert arm.attacks["exact"].auc.value == 0.5
    assert arm.attacks["min_k"].auc.value == pytest.approx(1 / 6), "a higher likelihood counts as better known"
    alone: Any = {"forget": table([0, 1])}
    assert attack_scores(alone) is None
    assert summarise_arm(alone, "text-generation", set(), None, seed=0).membership_auc is None


def test_records_of_one_author_count_once() -> None:
    alone, together = table([0, 1, 5, 6], tokens=2), table([0, 1, 5, 6], tokens=2)
    together = together.append_column("group", pa.array([7, 7, 9, 9]))
    for task in ("text-generation", "text-classification"):
        records, authors = (summarise(t, task, False) for t in (alone, together))  # type: ignore[arg-type]
        assert (records.loss.value, records.loss.n) == (3.0, 4)
        assert (authors.loss.value, authors.loss.n) == (3.0, 2)
        # two authors with means of 0.5 and 5.5: t(1) * 2.5
        assert authors.loss.high - authors.loss.value == pytest.approx(12.7062 * 2.5, rel=1e-4)
    grouped = summarise(together, "text-generation", False)
    assert grouped.probability is not None
    assert grouped.probability.n == 2
    sides: Any = {"forget": together, "holdout": together}
    found = attack_scores(sides)
    assert found is not None
    assert found.groups is not None
    assert found.groups[0].tolist() == [7, 7, 9, 9]
    arm = summarise_arm(sides, "text-generation", set(), found, seed=0)
    assert arm.membership_auc is not None
    assert arm.membership_auc.n == 2, "both sides are the same two authors"


def test_the_loss_less_that_of_the_base_allows_for_hard_records() -> None:
    tables: Any = {"forget": table([5, 1]), "holdout": table([6, 2])}
    base: Any = {"forget": table([7, 3]), "holdout": table([6, 2])}
    found = attack_scores(tables, base)
    assert found is not None
    assert found.forget["reference"].tolist() == [2, 2]
    assert found.holdout["reference"].tolist() == [0, 0]


def test_reports_from_before_an_addition_are_read(tmp_path: Path) -> None:
    report = example_report()
    values = report.to_dict()
    for arm in values["arms"].values():
        del arm["attacks"]
        for scores in arm["sets"].values():
            del scores["macro_f1"], scores["entity_f1"], scores["recall"], scores["corrected"]
    for trial in values["road"]["trials"]:
        assert trial["utility"]["loss_of"] == "accuracy"
        del trial["utility"]["gain"]
    del values["weights_moved"]
    del values["verdict"]["attacks"], values["verdict"]["blind"]
    del values["method"]["stop_reason"]
    values["method"]["plateau"] = "This is as close as it gets."
    for point in values["curve"]:
        del point["worst_gap"], point["worst_gap_low"], point["worst_gap_high"]
    (tmp_path / "report.json").write_text(json.dumps(values))
    read = UnlearningReport.load(tmp_path / "report.json")
    assert read.road == report.road
    assert (read.weights_moved, read.arms["unlearned"].sets["test"].recall) == (None, {})
    assert read.verdict.blind is None
    assert read.method.stop_reason is None
    assert read.curve[0].worst_gap is None
    assert read.arms["unlearned"].attacks == {}
