"""The verdict: which word, and why."""

import numpy as np
import pytest

from hf_unlearn.evaluation.verdict import Losses, Provenance, decide

SAW = Provenance(start_saw_forget=True, stage="", duplicates_retained=0)
CLEAN = Provenance(start_saw_forget=False, stage="the fine-tuning", duplicates_retained=0)


def losses(shift: float, n: int = 400, seed: int = 0) -> Losses:
    """S and H whose losses differ by a shift in standard deviations (0.36 sd is an AUC of 0.60)."""
    rng = np.random.default_rng(seed)
    return Losses(rng.normal(-shift, 1, n), rng.normal(0, 1, n))


REMEMBERS, FORGOT, AVOIDS = losses(2.0), losses(0.0, seed=1), losses(-2.0)


@pytest.mark.parametrize(
    ("unlearned", "word"),
    [
        (REMEMBERS, "not_forgotten"),
        (FORGOT, "not_distinguished"),
        (AVOIDS, "over_forgotten"),
        (losses(0.0, n=10), "undecided"),
        (losses(0.3, n=60), "undecided"),
        (losses(2.0, n=10), "not_forgotten"),
    ],
)
@pytest.mark.parametrize("retrained", [None, losses(0.0, seed=2)])
def test_what_is_measured(unlearned: Losses, word: str, retrained: Losses | None) -> None:
    if retrained is not None and len(unlearned.forget) != 400:
        retrained = losses(0.0, n=len(unlearned.forget), seed=2)
    verdict = decide(SAW, unlearned, original=None, retrained=retrained, margin=0.10)
    assert verdict.word == word
    assert verdict.compared_with == ("retrained" if retrained else "chance")
    assert any("held-out records" in reason for reason in verdict.reasons)
    assert not verdict.warnings


def test_a_clean_start_without_copies_is_exact_whatever_is_measured() -> None:
    for unlearned in (FORGOT, losses(0.0, n=10), AVOIDS, None):
        verdict = decide(CLEAN, unlearned, original=REMEMBERS, retrained=None, margin=0.10)
        assert verdict.word == "exact"
        assert "This covers the fine-tuning" in verdict.reasons[0]
        assert not verdict.warnings


def test_a_measurement_that_contradicts_exactness_is_a_warning() -> None:
    verdict = decide(CLEAN, REMEMBERS, original=REMEMBERS, retrained=None, margin=0.10)
    assert verdict.word == "exact"
    assert "contradicts the provenance" in verdict.warnings[0]


@pytest.mark.parametrize(("copies", "warning"), [(3, "3 retained records"), (None, "Nobody looked for copies")])
def test_copies_left_behind_or_not_looked_for_are_not_exact(copies: int | None, warning: str) -> None:
    provenance = Provenance(start_saw_forget=False, stage="the fine-tuning", duplicates_retained=copies)
    verdict = decide(provenance, FORGOT, original=REMEMBERS, retrained=None, margin=0.10)
    assert verdict.word == "not_distinguished"
    assert warning in verdict.warnings[0]
    assert decide(provenance, None, original=None, retrained=None, margin=0.10).word == "undecided"


def test_an_attack_that_sees_nothing_in_the_original_cannot_witness_forgetting() -> None:
    verdict = decide(SAW, FORGOT, original=losses(0.0, seed=5), retrained=None, margin=0.10)
    assert verdict.word == "undecided"
    assert "cannot witness forgetting" in verdict.reasons[-1]
    assert decide(SAW, FORGOT, original=REMEMBERS, retrained=None, margin=0.10).word == "not_distinguished"


def test_without_held_out_records_nothing_is_measured() -> None:
    verdict = decide(SAW, None, original=None, retrained=None, margin=0.10)
    assert (verdict.word, verdict.gap, verdict.smallest_margin) == ("undecided", None, None)
    assert "give a holdout set" in verdict.reasons[-1]


def test_records_that_are_easy_by_nature_are_compared_with_the_retrained_model() -> None:
    # S is easier than H for any model: against chance it looks remembered, against retraining it does not
    easy, reference = losses(1.0, seed=1), losses(1.0, seed=1)
    assert decide(SAW, easy, original=None, retrained=None, margin=0.10).word == "not_forgotten"
    assert decide(SAW, easy, original=None, retrained=reference, margin=0.10).word == "not_distinguished"


def test_one_retrained_model_is_a_noisy_yardstick() -> None:
    # 0.12 above the retrained model, but S is not told from H at all
    rng = np.random.default_rng(3)
    base = rng.normal(0, 1, 300), rng.normal(0, 1, 300)
    unlearned = Losses(*base)
    retrained = Losses(base[0] + 0.45, base[1])
    assert decide(SAW, unlearned, original=None, retrained=retrained, margin=0.10).word == "undecided"


def test_how_often_a_model_that_never_saw_s_is_called_not_forgotten() -> None:
    words = [
        decide(SAW, losses(0.0, n=181, seed=s), original=None, retrained=None, margin=0.10).word for s in range(1000)
    ]
    assert words.count("not_forgotten") <= 5
    assert words.count("not_distinguished") >= 870
