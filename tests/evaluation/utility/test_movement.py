"""Whether a model moved."""

import numpy as np
import pytest
from scipy import stats

from hf_unlearn.evaluation.utility.movement import moved
from hf_unlearn.evaluation.verdict import Provenance, Scores, decide


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).gamma(2, 1, 200)


def test_the_same_scores_did_not_move(scores: np.ndarray) -> None:
    found = moved(scores, scores.copy())
    assert (found.moved, found.change.value, found.change.n) == (False, 0, 200)
    assert moved(np.ones(50), np.ones(50)).moved is False


def test_a_shift_that_all_share_and_nobody_sees_is_no_movement(scores: np.ndarray) -> None:
    for shift in (1e-6, 1e-3):
        found = moved(scores, scores + shift)
        assert found.moved is False
    # A paired test alone sees it.
    assert moved(scores, scores + 1e-3).change.low > 0


def test_noise_that_moves_each_record_and_not_all_of_them_is_no_movement(scores: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    assert sum(bool(moved(scores, scores + rng.normal(0, 1, 200)).moved) for _ in range(100)) <= 8


def test_what_forgot_moved() -> None:
    """Scores of S that are told from those of H, and then are those of H: drawn as far apart as a test just tells."""
    rng, found = np.random.default_rng(2), []
    for n in (30, 200, 2000):
        apart = 3 * np.sqrt(2 / n)
        for _ in range(60):
            record = rng.normal(0, 0.9, n)
            before, after = (record + rng.normal(0, np.sqrt(0.19), n) for _ in range(2))
            found.append(moved(before + apart, after).moved)
    assert np.mean(found) > 0.97


def test_a_score_of_any_scale_and_direction(scores: np.ndarray) -> None:
    other = scores * 0.5
    for scale in (np.log, np.negative, lambda values: 1e6 * values):
        a, b = moved(scores, other), moved(scale(scores), scale(other))
        assert a.moved == b.moved is True
        assert abs(a.change.value) == pytest.approx(abs(b.change.value))


def test_groups_are_the_unit() -> None:
    rng = np.random.default_rng(3)
    told, n = {"records": 0, "groups": 0}, 100
    for _ in range(n):
        # Each of eight customers drifts for itself, and their mean does not.
        groups = np.repeat(np.arange(8), 25)
        before = rng.normal(0, 0.1, 200)
        after = before + rng.normal(0, 0.3, 8)[groups]
        told["records"] += bool(moved(before, after).moved)
        told["groups"] += bool(moved(before, after, groups).moved)
    assert told["records"] > 40
    assert told["groups"] <= 10


def test_one_group_shows_nothing(scores: np.ndarray) -> None:
    assert moved(scores, scores * 0.1, np.zeros(200)).moved is None
    assert moved(scores[:1], scores[:1] + 9).moved is None


def test_a_model_that_stands_still_keeps_the_word_of_the_original() -> None:
    """The original lies just beyond the margin, and the result just within it, by less than S itself is certain."""
    unseen = stats.norm.ppf((np.arange(3000) + 0.5) / 3000)
    known = unseen + np.sqrt(2) * stats.norm.ppf(0.603)
    original = Scores({"loss": known}, {"loss": unseen})
    for shift, still, word in ((-0.015, True, "not_forgotten"), (known[0] - unseen[0], False, "not_distinguished")):
        unlearned = Scores({"loss": known - abs(shift)}, {"loss": unseen})
        assert moved(original.forget["loss"], unlearned.forget["loss"]).moved is not still
        found = {
            unmoved: decide(
                Provenance(True, "", 0, unmoved=unmoved), unlearned, original=original, retrained=None, margin=0.10
            ).word
            for unmoved in (False, still)
        }
        assert found[still] == word
        assert not still or found[False] == "undecided"
