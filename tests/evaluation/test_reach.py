"""Which words a measurement can reach, from sizes alone; held against the verdict itself."""

import math

import numpy as np
import pytest

from hf_unlearn.evaluation.reach import Sizes, expected_attacks, reach
from hf_unlearn.evaluation.statistics import smallest_margin
from hf_unlearn.evaluation.verdict import Provenance, Scores, decide

UNSEEN = Provenance(None, "", 0)


def test_the_sentence_says_what_can_be_confirmed_and_what_decides_without() -> None:
    found = reach(Sizes(15, 40), 0.10)
    assert found.sentence.startswith(
        "15 records to forget against 40 held-out records: a measurement with one attack can confirm ±0.29 at best. "
        "You ask for ±0.10, for which 181 records a side are enough."
    )
    assert "exact start (`--method base`) decides without a measurement" in found.sentence
    assert "exact start" not in reach(Sizes(15, 40), 0.10, exact=False).sentence
    enough = reach(Sizes(300, 300), 0.10, 7)
    assert enough.words == ("not_distinguished", "not_forgotten", "over_forgotten", "undecided")
    assert enough.sentence.endswith("with 7 attacks can confirm ±0.10 at best. You ask for ±0.10.")


@pytest.mark.parametrize("groups", [(1, 1), (1, 50), (50, 1)])
def test_one_group_a_side_decides_nothing(groups: tuple[int, int]) -> None:
    found = reach(Sizes(400, 400, groups), 0.10, 2)
    assert (found.words, found.at_best, found.smallest) == (("undecided",), None, None)
    for said in ("a measurement against them decides nothing", "exact start", "hf-unlearn references"):
        assert said in found.sentence


def test_without_held_out_records_a_measurement_decides_nothing() -> None:
    found = reach(Sizes(400, 0), 0.10)
    assert (found.words, found.smallest) == (("undecided",), None)
    assert "no held-out records" in found.sentence


@pytest.mark.parametrize("attacks", [1, 2, 7])
@pytest.mark.parametrize("margin", [0.05, 0.10, 0.2])
def test_what_is_needed_is_just_enough(margin: float, attacks: int) -> None:
    needed = reach(Sizes(5, 5), margin, attacks).needed
    assert smallest_margin(needed, needed, attacks) <= margin < smallest_margin(needed - 1, needed - 1, attacks)
    needed = reach(Sizes(50, 50, (5, 5)), margin, attacks).needed
    at, below = (reach(Sizes(9 * n, 9 * n, (n, n)), margin, attacks).smallest or 1 for n in (needed, needed - 1))
    assert at <= margin < below
    halved = reach(Sizes(5, 5), margin, attacks, halved=True).needed
    assert "not_distinguished" in reach(Sizes(halved, halved), margin, attacks, halved=True).words


def test_groups_confirm_less_than_records_and_more_than_one_record_each() -> None:
    found, records = reach(Sizes(400, 400, (20, 20)), 0.10), reach(Sizes(400, 400), 0.10)
    assert found.at_best is not None
    assert found.smallest is not None
    assert records.smallest is not None
    assert records.smallest < found.at_best < smallest_margin(20, 20) < found.smallest
    assert "±0.07 at best, and ±0.31 where the records of a group are alike" in found.sentence
    # The side with fewer groups decides, and its few degrees of freedom with it.
    uneven = reach(Sizes(400, 4000, (2, 100)), 0.10)
    assert uneven.smallest is None
    assert "not_distinguished" not in uneven.words


def test_a_half_is_judged_where_the_other_half_was_looked_at() -> None:
    found, half = reach(Sizes(400, 300, (1, 7)), 0.1, halved=True), Sizes(200, 150, (1, 4))
    assert Sizes(400, 300, (1, 7)).halved() == half
    assert found.sentence.startswith(f"Half of each is judged, {half}")
    assert reach(Sizes(61, 41), 0.1, halved=True).smallest == reach(Sizes(31, 21), 0.1).smallest


def test_the_attacks_that_are_expected() -> None:
    assert expected_attacks(None) == 1
    assert expected_attacks("text-classification") == 2
    assert expected_attacks("text-classification", gradient_norm=True) == 3
    assert expected_attacks("text-classification", forms=2) == 4
    assert expected_attacks("text-generation") == expected_attacks("fill-mask") >= 6


@pytest.mark.parametrize("attacks", [1, 2, 7])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 3), (2, 40), (4, 5), (5, 5), (10, 10)])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_word_that_is_out_of_reach_is_never_given(attacks: int, m: int, n: int, grouped: bool) -> None:
    names = ["loss", "zlib", "min_k", "min_k_plus", "exact", "extraction", "reference"][:attacks]
    each = 6 if grouped else 1
    groups = (np.repeat(np.arange(m), each), np.repeat(np.arange(m, m + n), each)) if grouped else None
    sizes = Sizes(m * each, n * each, (m, n) if grouped else None)
    words = reach(sizes, 0.10, attacks).words
    # All of S beyond all of H, as far as can be; and no difference at all.
    draw = np.random.default_rng(0)
    sides = draw.normal(0, 1, sizes.forget), draw.normal(0, 1, sizes.holdout)
    for shift in (50, -50, 0):
        forget, holdout = (dict.fromkeys(names, side + by) for side, by in zip(sides, (shift, 0), strict=True))
        found = decide(UNSEEN, Scores(forget, holdout, groups), original=None, retrained=None, margin=0.10)
        assert found.word in words
    assert ("not_forgotten" in words) == (min(m, n) > 1 and math.comb(m + n, m) > 80 * attacks)
