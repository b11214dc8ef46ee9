"""Whether the base knew S: what is stated, what is tested, and what neither can say."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from peft import LoraConfig

from hf_unlearn import Records, split_retained
from hf_unlearn.evaluation.blind_baseline import blind_baseline
from hf_unlearn.evaluation.verdict import Provenance, Scores, check_base, decide
from hf_unlearn.models.training_record import RECORD_FILE

from ..conftest import secrets_rows
from ..training.test_stopping import many
from ..training.test_trainer import tickets, trainer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

CLEAN = Provenance(False, "the fine-tuning of base", 0, base_is_clean="unchecked")
STATED = Provenance(False, "the fine-tuning of base", 0, base_is_clean="stated")


def scores(shift: float, n: int = 100) -> Scores:
    rng = np.random.default_rng(0)
    return Scores({"loss": rng.normal(shift, 1, n)}, {"loss": rng.normal(0, 1, n)})


@pytest.mark.parametrize(
    ("before", "shift", "after", "word", "said"),
    [
        (
            CLEAN,
            0.0,
            "checked",
            "exact",
            "The base model was tested for S, and no attack distinguishes S from H: the strongest attack on it has",
        ),
        (
            CLEAN,
            2.0,
            "doubtful",
            "undecided",
            "The clean start proves nothing, because the tests contradict it; if they err, set base_is_clean",
        ),
        (STATED, 0.0, "stated", "exact", "The user states that the base model never saw S."),
        (STATED, 2.0, "stated", "exact", "The tests contradict the statement: an attack distinguishes S from H"),
    ],
)
def test_what_is_stated_and_what_is_tested(before: Provenance, shift: float, after: str, word: str, said: str) -> None:
    found = check_base(before, scores(shift, 400), measurable=True, blind=None, margin=0.1)
    assert found.base_is_clean == after
    verdict = decide(found, scores(0.0), original=scores(2.0), retrained=None, margin=0.1)
    assert (verdict.word == "exact") == (word == "exact")
    assert said in " ".join(verdict.warnings if shift else verdict.reasons)


def test_what_the_texts_explain_is_no_memory() -> None:
    forget, holdout = ([f"{word} {i}" for i in range(200)] for word in ("alpha", "beta"))
    blind = blind_baseline(forget, holdout, seed=0)
    assert blind is not None
    assert blind.separable
    found = check_base(CLEAN, scores(2.0), measurable=True, blind=blind, margin=0.1)
    assert found.base_is_clean == "unchecked"
    assert "S and H differ by nature" in found.base_finding


def test_what_cannot_be_tested_is_unchecked() -> None:
    for measurable, why in ((False, "does another task"), (True, "no held-out records")):
        found = check_base(CLEAN, None, measurable=measurable, blind=None, margin=0.1)
        assert found.base_is_clean == "unchecked"
        verdict = decide(found, None, original=None, retrained=None, margin=0.1)
        assert verdict.word == "exact"
        assert verdict.reasons[0].startswith("Nobody could test whether the base model saw S: ")
        assert why in verdict.reasons[0]
    nothing = Provenance(True, "", 0)
    assert check_base(nothing, scores(2.0), measurable=True, blind=None, margin=0.1) == nothing


@pytest.mark.parametrize(
    ("forget", "holdout", "shift", "groups", "word"),
    [
        (6, 6, 8.0, None, "unchecked"),
        (1, 100, 8.0, None, "unchecked"),
        (40, 40, 8.0, 1, "unchecked"),
        (20, 20, 0.95, None, "unchecked"),
        (30, 30, 0.0, None, "unchecked"),
        (400, 400, -2.0, None, "doubtful"),
    ],
)
def test_a_test_without_power_clears_nobody(
    forget: int, holdout: int, shift: float, groups: int | None, word: str
) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        found = check_base(
            CLEAN,
            Scores(
                {"loss": rng.normal(shift, 1, forget)},
                {"loss": rng.normal(0, 1, holdout)},
                None if groups is None else (np.arange(forget) % groups, 1000 + np.arange(holdout) % groups),
            ),
            measurable=True,
            blind=None,
            margin=0.1,
        )
        assert found.base_is_clean in (word, "doubtful")
        if word == "unchecked" and found.base_is_clean == word:
            assert "can confirm " in found.base_finding


# On models


def knowing_base(original: Path, folder: Path) -> Path:
    """An original whose base had seen S: the one that knows S, fine-tuned on."""
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("checkpoint-*", "run.json"))
    record = json.loads((folder / RECORD_FILE).read_text())
    (folder / RECORD_FILE).write_text(json.dumps({**record, "base_model": str(original)}))
    return folder


def run(folder: Path, model: Path, split: Any = None, **settings: Any) -> Any:
    made = trainer(folder, str(model), split or many(), **{"method": "base", "max_steps": 1, **settings})
    made.train()
    return made.report(audit=(split or many()).audit)


def test_a_base_that_knows_s_is_found_out(lm_original: Path, tmp_path: Path) -> None:
    original = knowing_base(lm_original, tmp_path / "original")
    rows = Dataset.from_list(secrets_rows(100))
    known = split_retained(rows, Records.rows(range(40)), holdout=Records.rows(range(50, 100)))
    doubtful = run(tmp_path / "a", original, known, auc_margin=0.2, learning_rate=1e-5)
    assert doubtful.base_is_clean == "doubtful"
    assert doubtful.verdict.word == "not_forgotten"
    stated = run(tmp_path / "b", original, known, auc_margin=0.2, learning_rate=1e-5, base_is_clean=True)
    assert (stated.base_is_clean, stated.verdict.word) == ("stated", "exact")
    assert any("The tests contradict the statement" in line for line in stated.verdict.warnings)
    # the same as yardstick: a retrained model began at the same base, so it excuses nothing
    made = trainer(tmp_path / "c", str(original), known, method="base", max_steps=1, learning_rate=1e-5)
    made.train()
    assert made.report(audit=known.audit, retrained=str(lm_original)).base_is_clean == "doubtful"


def test_a_base_that_does_not_is_checked_and_what_cannot_be_asked_is_not(
    lm_original: Path, classifier_original: Path, tmp_path: Path
) -> None:
    clean = run(tmp_path / "a", lm_original, auc_margin=0.25)
    assert (clean.base_is_clean, clean.verdict.word) == ("checked", "exact")
    assert any("The base model was tested for S" in line for line in clean.verdict.reasons)
    head = run(tmp_path / "b", classifier_original, tickets())
    assert (head.base_is_clean, head.verdict.word) == ("unchecked", "exact")
    assert any("does another task, or has other tokens" in line for line in head.verdict.reasons)
    # where the start is not clean, or is no trained model, there is nothing to state
    assert run(tmp_path / "c", lm_original, method="toward_base").base_is_clean is None
    adapter = trainer(
        tmp_path / "d",
        str(lm_original),
        many(),
        method="base",
        max_steps=1,
        auc_margin=0.25,
        peft_config=LoraConfig(r=2),
    )
    adapter.train()
    assert adapter.report(audit=many().audit).base_is_clean == "checked"
