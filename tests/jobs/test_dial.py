"""``--method dial``: the search, its two halves, and its price."""

import contextlib
import io
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from safetensors.torch import load_file

from hf_unlearn import UnlearningReport, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.evaluation.measured_sets import halves_of_records
from hf_unlearn.evaluation.report import CostEntry, TrialEntry
from hf_unlearn.evaluation.verdict import Provenance, Scores, decide
from hf_unlearn.jobs.dial import chosen_alpha, distinguished, next_alpha
from hf_unlearn.jobs.trials import total_cost
from hf_unlearn.publishing.card import rendered_card

from ..conftest import secrets_rows
from ..training.test_processes import LAUNCH, launched
from ..training.test_trainer import secrets, trainer
from .test_auto import command, many, refused  # noqa: F401
from .test_jobs import leaks, texts_in

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

COST = CostEntry(1.0, 0.0, 1, 1.0, 0.0, 1, None, None, None)
FLAGS = ("--method", "dial", "--auc_margin", "0.25")


def tried(alpha: float, told: bool) -> TrialEntry:
    return TrialEntry("probe", "toward_base", alpha, COST, "search", None, told, None)


# The search


def test_the_trials_count_in_the_cost() -> None:
    one = CostEntry(10.0, 2.0, 100, 4e9, 1e9, 5, 16e9, 0.25, 0.3125, 1.0)
    both = total_cost(one, [CostEntry(5.0, 1.0, 50, 2e9, 5e8, 9, None, None, None, 2.0)])
    assert both == CostEntry(15.0, 3.0, 150, 6e9, 1.5e9, 9, 16e9, 6 / 16, 7.5 / 16, 3.0)


@pytest.mark.parametrize("enough", [0.01, 0.3, 0.5, 0.7, 0.99, 2.0])
def test_bisection_closes_in_on_what_is_enough(enough: float) -> None:
    entries = [tried(0.0, told=True)]
    for _ in range(3):
        alpha = next_alpha(entries)
        assert 0 < alpha < 1
        entries.append(tried(alpha, told=alpha < enough))
    chosen = chosen_alpha(entries)
    assert chosen == 1 or enough <= chosen < enough + 0.125 + 1e-9
    assert (chosen == 1) == (enough > 0.875)


def test_a_search_that_contradicts_itself_goes_on_below_what_was_enough() -> None:
    entries = [tried(0.0, told=True), tried(0.5, told=False), tried(0.75, told=True)]
    assert next_alpha(entries) == 0.25


def test_records_too_few_to_accuse_do_not_pass_for_forgotten() -> None:
    def verdict(shift: float, n: int) -> Any:
        values = np.linspace(-1, 1, n)
        scores = Scores({"loss": values + shift}, {"loss": values})
        return decide(Provenance(None, "", None), scores, original=None, retrained=None, margin=0.1)

    few = verdict(0.5, 5)
    assert (few.word, distinguished(few)) == ("undecided", True)
    assert not distinguished(verdict(0.0, 5))
    assert distinguished(verdict(1.5, 100))
    assert distinguished(verdict(-1.5, 100)), "S that is treated worse is distinguished too"


def test_halves_keep_groups_together() -> None:
    records = Dataset.from_list([{"text": str(i), "who": i // 4} for i in range(40)])
    for column in (None, "who"):
        halves = halves_of_records(records, column, seed=1)
        texts = [set(half["text"]) for half in halves]
        assert not texts[0] & texts[1]
        assert [len(half) for half in halves] == [20, 20]
    assert not set(halves[0]["who"]) & set(halves[1]["who"])


# The run


@pytest.fixture(scope="module")
def searched(
    many: dict[str, Any],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:
    """The output folder of a finished search, not to be changed, and what was said."""
    folder = tmp_path_factory.mktemp("dial")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(many))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["run", "--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "out"), *FLAGS])
    assert code == 0
    return folder / "out", said.getvalue()


def test_it_finds_an_alpha_and_is_judged_on_the_other_half(searched: tuple[Path, str]) -> None:
    folder, said = searched
    report = UnlearningReport.load(folder / "unlearning_report.json")
    trials = report.road.trials
    assert [trial.name for trial in trials] == ["original", "probe-1", "probe-2", "probe-3"]
    assert (trials[0].alpha, trials[0].told, trials[1].alpha) == (0.0, True, 0.5)
    assert report.method.name == "shrink_reheat"
    assert report.method.alpha == chosen_alpha(trials)
    assert 0 < report.method.alpha <= 1
    # judged on 15 of the 30 records of S and 25 of the 50 of H, the search had the others
    assert report.judged_on_part
    assert report.audit is not None
    assert report.audit.forget_rows == 30
    assert [report.arms["unlearned"].sets[name].records for name in ("forget", "holdout")] == [15, 25]
    assert report.verdict.gap is not None
    assert report.verdict.gap.n == 40
    assert all(trial.membership_auc is not None and trial.membership_auc.n == 40 for trial in trials)
    assert report.verdict.word != "exact"
    # what is paid: three tenths of the budget for the probes, seven for the result
    assert report.cost is not None
    assert report.cost.training_ratio == pytest.approx(0.25, abs=0.03)
    assert [trial.cost.training_ratio for trial in trials[1:]] == pytest.approx([0.025] * 3, abs=0.006)
    assert report.method.budget == pytest.approx(0.7 * 0.25)
    card = rendered_card(folder, report)
    assert "S and H are here the halves that the search did not use." in card
    assert f"The search tried alpha 0.5 ({'distinguished' if trials[1].told else 'not distinguished'})" in card
    assert f"The training with all trials took {100 * report.cost.training_ratio:.0f} % of the operations" in card
    assert "What was tried" in said
    for path, text in {**texts_in(folder), Path("stdout"): said}.items():
        assert not leaks(text, secrets_rows()[:30], ["prompt", "completion"], length=12), path
    assert not list((folder / "trials").glob("*/checkpoint-*"))


def test_the_records_that_were_judged_are_not_those_searched_on(
    searched: tuple[Path, str],
    many: dict[str, Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    """The losses of the original tell which records they are of."""
    judged = pq.read_table(searched[0] / "tables" / "original.parquet").to_pandas()
    losses = judged[judged["set"] == "forget"]["loss"].to_numpy()
    halves = halves_of_records(Dataset.from_list(secrets_rows(100)[:30]), None, seed=3)
    searched_on, judged_on = (
        trainer(tmp_path / str(i), many["model_name_or_path"], replace(secrets(), forget=half, holdout=half))
        for i, half in enumerate(halves)
    )
    for run, expected in ((judged_on, True), (searched_on, False)):
        assert run.evidence is not None
        own = run.evidence.score(run.model)["forget"]["loss"].to_numpy()
        assert bool(np.allclose(own, losses, rtol=1e-4)) == expected


def test_s_had_a_say_even_where_the_training_begins_at_the_anchor(
    many: dict[str, Any],  # noqa: F811
    command: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    # a base that knows S is told at every alpha, and then the anchor is all that is left
    settings = {**many, "base_model_name_or_path": many["model_name_or_path"]}
    copied = tmp_path / "copy"
    shutil.copytree(many["model_name_or_path"], copied, ignore=shutil.ignore_patterns("checkpoint-*", "run.json"))
    settings["model_name_or_path"] = str(copied)
    report, _ = command(settings, tmp_path / "out", *FLAGS, "--budget", "0.03", "--learning_rate", "1e-5")
    assert [trial.told for trial in report.road.trials] == [True] * 4
    assert report.method.alpha == 1
    assert report.verdict.word != "exact"
    assert any("S decided where the training began" in line for line in report.verdict.warnings)
    assert "so alpha is 1: the training begins at weights without anything of the original" in report.road.reasons[0]
    assert "S and H are still distinguished" in report.road.reasons[1]


def test_an_original_that_cannot_be_told_is_only_fine_tuned(
    many: dict[str, Any],  # noqa: F811
    command: Any,  # noqa: F811
    lm_base: Path,
    tmp_path: Path,
) -> None:
    settings = {**many, "model_name_or_path": str(lm_base)}
    report, _ = command(settings, tmp_path / "out", *FLAGS, "--max_steps", "2")
    assert [(trial.name, trial.told) for trial in report.road.trials] == [("original", False)]
    assert (report.method.name, report.method.alpha, report.method.steps) == ("shrink_reheat", 0.0, 2)
    assert "even under the original the two cannot be distinguished" in report.road.reasons[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"holdout_rows": None}, "'dial' compares the records to forget with held-out ones; name some"),
        (
            {"forget_rows": [0, 1, 2]},
            "one half of the records to forget and is judged on the other; it takes 4 or more, and there are 3",
        ),
        ({"alpha": 0.5}, "'dial' chooses the method and its alpha"),
        ({"stop_when_forgotten": True}, "'dial' and stop_when_forgotten do not go together"),
        ({"use_peft": True}, "'dial' moves the original's weights, and an approximate way moves"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    many: dict[str, Any],  # noqa: F811
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    more: dict[str, Any],
    message: str,
) -> None:
    settings = {name: value for name, value in {**many, **more}.items() if value is not None}
    assert message in refused(settings, recipe, capsys, tmp_path / "out", "--method", "dial")


def test_interrupted_it_goes_on_where_it_was(
    many: dict[str, Any],  # noqa: F811
    searched: tuple[Path, str],
    tmp_path: Path,
    recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ["--config", str(recipe(**many)), "--output_dir", str(tmp_path / "out"), *FLAGS]
    taken: Counter[str] = Counter()
    training_step = UnlearningTrainer.training_step

    def interrupted(trainer: UnlearningTrainer, *args: Any, **kwargs: Any) -> Any:
        place = trainer.args.folder.name
        taken[place] += 1
        if (place, taken[place]) in (("probe-2", 2), ("out", 5)):
            signal.raise_signal(signal.SIGTERM)
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(UnlearningTrainer, "training_step", interrupted)
    assert [main(["run", *flags]) for _ in range(3)] == [130, 130, 0]
    # no step was taken twice: 5 in each probe and 35 after them
    assert taken == {"probe-1": 5, "probe-2": 5, "probe-3": 5, "out": 35}
    weights, expected = (load_file(place / "model.safetensors") for place in (tmp_path / "out", searched[0]))
    assert all(weights[key].equal(expected[key]) for key in expected)
    report, whole = (
        UnlearningReport.load(place / "unlearning_report.json") for place in (tmp_path / "out", searched[0])
    )
    assert report.cost is not None
    assert whole.cost is not None
    assert (report.cost.flops, report.cost.tokens) == (whole.cost.flops, whole.cost.tokens)
    assert [(t.alpha, t.told) for t in report.road.trials] == [(t.alpha, t.told) for t in whole.road.trials]


@pytest.mark.slow
def test_two_processes_choose_alike(
    many: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    recipe: Callable[..., Path],
) -> None:
    path = recipe(**{**many, "per_device_train_batch_size": 5})
    flags = ["-m", "hf_unlearn.cli", "run", "--config", str(path), *FLAGS, "--output_dir", str(tmp_path / "out")]
    done = launched(*LAUNCH, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("What it will cost") == done.stdout.count("Chosen: approximate") == 1
    report = UnlearningReport.load(tmp_path / "out" / "unlearning_report.json")
    assert report.hardware["processes"] == "2"
    # processes of different minds would wait for each other; dropout is drawn otherwise than in one process
    assert [trial.name for trial in report.road.trials] == ["original", "probe-1", "probe-2", "probe-3"]
    assert report.method.alpha == chosen_alpha(report.road.trials)
    assert not list((tmp_path / "out").rglob("*.part"))
