"""The verdict: which word, and why."""

from dataclasses import replace

import numpy as np
import pytest

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.blind_baseline import BlindBaseline
from hf_unlearn.evaluation.statistics import Estimate
from hf_unlearn.evaluation.verdict import Provenance, Scores, check_base, decide

SAW = Provenance(start_saw_forget=True, stage="", duplicates_retained=0)
CLEAN = Provenance(start_saw_forget=False, stage="the fine-tuning", duplicates_retained=0)


def scores(shift: float, n: int = 400, seed: int = 0, **more: float) -> Scores:
    """S and H whose scores differ by a shift in standard deviations (0.36 sd is an AUC of 0.60), by attack."""
    rng = np.random.default_rng(seed)
    shifts = {"loss": shift, **more}
    return Scores(
        {name: rng.normal(by, 1, n) for name, by in shifts.items()}, {name: rng.normal(0, 1, n) for name in shifts}
    )


def of_model(shift: float, seed: int, n: int = 400, world: int = 0) -> Scores:
    """Scores of one of several models that find the same records hard."""
    hard = np.random.default_rng(world).normal(0, 1, 2 * n)
    own = hard + np.random.default_rng(1000 + seed).normal(0, 0.4, 2 * n)
    return Scores({"loss": own[:n] + shift}, {"loss": own[n:]})


def baseline(low: float, separable: bool) -> BlindBaseline:
    auc = Estimate(low + 0.05, low, low + 0.1, 800)
    half = Estimate(0.5, 0.48, 0.52, 800)
    return BlindBaseline(auc, half, half, half, by_group=False, separable=separable)


LOPSIDED = baseline(0.90, True)
DIFFER, ALIKE = baseline(0.75, True), baseline(0.48, False)


REMEMBERS, FORGOT, AVOIDS = scores(2.0), scores(0.0, seed=1), scores(-2.0)


@pytest.mark.parametrize(
    ("unlearned", "word"),
    [
        (REMEMBERS, "not_forgotten"),
        (FORGOT, "not_distinguished"),
        (AVOIDS, "over_forgotten"),
        (scores(0.0, n=10), "undecided"),
        (scores(0.3, n=60), "undecided"),
        (scores(5.0, n=30), "not_forgotten"),
    ],
)
@pytest.mark.parametrize("retrained", [None, scores(0.0, seed=2)])
def test_what_is_measured(unlearned: Scores, word: str, retrained: Scores | None) -> None:
    if retrained is not None and len(unlearned.forget["loss"]) != 400:
        retrained = scores(0.0, n=len(unlearned.forget["loss"]), seed=2)
    verdict = decide(SAW, unlearned, original=None, retrained=retrained, margin=0.10)
    assert verdict.word == word
    assert verdict.compared_with == ("retrained" if retrained else "chance")
    assert any("held-out records" in reason for reason in verdict.reasons)
    assert not verdict.warnings


def test_a_clean_start_without_copies_is_exact_whatever_is_measured() -> None:
    for unlearned in (FORGOT, scores(0.0, n=10), AVOIDS, None):
        verdict = decide(CLEAN, unlearned, original=REMEMBERS, retrained=None, margin=0.10)
        assert verdict.word == "exact"
        assert "This covers the fine-tuning" in verdict.reasons[0]
        assert not verdict.warnings


def test_a_measurement_that_contradicts_exactness_is_a_warning() -> None:
    verdict = decide(CLEAN, REMEMBERS, original=REMEMBERS, retrained=None, margin=0.10)
    assert verdict.word == "exact"
    assert "contradicts the clean start" in verdict.warnings[0]


@pytest.mark.parametrize(("copies", "warning"), [(3, "3 retained records"), (None, "not searched for copies")])
def test_copies_left_behind_or_not_looked_for_are_not_exact(copies: int | None, warning: str) -> None:
    provenance = Provenance(start_saw_forget=False, stage="the fine-tuning", duplicates_retained=copies)
    verdict = decide(provenance, FORGOT, original=REMEMBERS, retrained=None, margin=0.10)
    assert verdict.word == "not_distinguished"
    assert warning in verdict.warnings[0]
    assert decide(provenance, None, original=None, retrained=None, margin=0.10).word == "undecided"


def test_an_attack_that_sees_nothing_in_the_original_cannot_witness_forgetting() -> None:
    verdict = decide(SAW, FORGOT, original=scores(0.0, seed=5), retrained=None, margin=0.10)
    assert verdict.word == "undecided"
    assert "none can show forgetting" in verdict.reasons[-1]
    assert decide(SAW, FORGOT, original=REMEMBERS, retrained=None, margin=0.10).word == "not_distinguished"


def test_without_held_out_records_nothing_is_measured() -> None:
    verdict = decide(SAW, None, original=None, retrained=None, margin=0.10)
    assert (verdict.word, verdict.gap, verdict.smallest_margin) == ("undecided", None, None)
    assert "give a holdout set" in verdict.reasons[-1]


def test_records_that_are_easy_by_nature_are_compared_with_the_retrained_model() -> None:
    # S is easier than H for any model: against chance it looks remembered, against retraining it does not
    easy, first, second = (of_model(0.4, seed) for seed in range(3))
    assert decide(SAW, easy, original=None, retrained=None, margin=0.10).word == "not_forgotten"
    verdict = decide(SAW, easy, original=None, retrained=[first, second], margin=0.10, blind=DIFFER)
    assert verdict.word == "not_distinguished"
    assert "2 retrained models have AUCs of" in verdict.reasons[-1]
    # one alone does not show how much of that is its seed
    verdict = decide(SAW, easy, original=None, retrained=first, margin=0.10, blind=DIFFER)
    assert verdict.word == "undecided"
    assert "name a second one" in verdict.reasons[-1]


def test_one_retrained_model_is_a_noisy_yardstick() -> None:
    # 0.12 above the retrained model, but S is not told from H at all
    rng = np.random.default_rng(3)
    base = rng.normal(0, 1, 300), rng.normal(0, 1, 300)
    unlearned = Scores({"loss": base[0]}, {"loss": base[1]})
    retrained = Scores({"loss": base[0] - 0.45}, {"loss": base[1]})
    assert decide(SAW, unlearned, original=None, retrained=retrained, margin=0.10).word == "undecided"


def test_how_often_a_model_that_never_saw_s_is_called_not_forgotten() -> None:
    words = [
        decide(SAW, scores(0.0, n=181, seed=s), original=None, retrained=None, margin=0.10).word for s in range(300)
    ]
    assert words.count("not_forgotten") <= 8
    assert words.count("not_distinguished") >= 240


# Several attacks, of which the worst counts


def test_the_attack_that_sees_most_decides() -> None:
    verdict = decide(SAW, scores(0.0, min_k=2.0, zlib=1.0), original=None, retrained=None, margin=0.10)
    assert (verdict.word, verdict.attack, verdict.attacks) == ("not_forgotten", "min_k", ["loss", "min_k", "zlib"])
    assert "Min-K%" in verdict.reasons[-1]
    assert verdict.gap is not None
    assert verdict.gap.value == pytest.approx(0.42, abs=0.03)
    assert decide(SAW, scores(0.0, zlib=-2.0), original=None, retrained=None, margin=0.10).word == "over_forgotten"
    # one attack that cannot confirm the margin is enough to leave it open
    assert decide(SAW, scores(0.0, seed=1, zlib=0.32), original=None, retrained=None, margin=0.10).word == "undecided"


def test_more_attacks_do_not_accuse_more_often() -> None:
    attacks = dict.fromkeys(("zlib", "min_k", "min_k_plus", "exact"), 0.0)
    words = [
        decide(SAW, scores(0.0, n=300, seed=s, **attacks), original=None, retrained=None, margin=0.02).word
        for s in range(60)
    ]
    # 5 % for all attacks together, on both sides
    assert words.count("not_forgotten") + words.count("over_forgotten") <= 6


def test_one_attack_that_sees_the_original_can_witness_forgetting() -> None:
    forgot, original = scores(0.0, n=900, seed=1, zlib=0.0), scores(0.0, n=900, seed=5, zlib=2.0)
    assert decide(SAW, forgot, original=original, retrained=None, margin=0.10).word == "not_distinguished"


def test_more_attacks_need_more_records() -> None:
    margins = [decide(SAW, s, original=None, retrained=None, margin=0.10).smallest_margin for s in (
        scores(0.0), scores(0.0, zlib=0.0, min_k=0.0)
    )]  # fmt: skip
    assert margins[0] is not None
    assert margins[1] is not None
    assert margins[0] < margins[1]


@pytest.mark.parametrize(
    "attacks", [["loss"], ["loss", "zlib", "min_k", "min_k_plus", "exact", "extraction", "reference"]]
)
@pytest.mark.parametrize("n", [5, 20])
def test_few_records_accuse_nobody_more_often(n: int, attacks: list[str]) -> None:
    more = dict.fromkeys(attacks[1:], 0.0)
    words = [
        decide(SAW, scores(0.0, n=n, seed=s, **more), original=None, retrained=None, margin=0.10).word
        for s in range(60)
    ]
    assert words.count("not_forgotten") <= 4  # 2.5 %, and two standard errors
    assert words.count("over_forgotten") <= 4


def test_being_certain_and_wrong_is_not_knowing() -> None:
    pushed = scores(-2.5, n=300, entropy=1.5)
    for retrained in (None, scores(0.0, n=300, seed=7, entropy=0.0)):
        verdict = decide(SAW, pushed, original=None, retrained=retrained, margin=0.10)
        assert (verdict.word, verdict.attack) == ("over_forgotten", "loss")
    told = decide(SAW, scores(0.0, n=300, seed=3, entropy=1.5), original=None, retrained=None, margin=0.10)
    assert (told.word, told.attack) == ("not_forgotten", "entropy")


def test_the_smallest_margin_against_a_retrained_model_is_that_of_the_difference() -> None:
    unlearned, other = scores(0.0, n=300, seed=1), scores(0.0, n=300, seed=2)
    alone = decide(SAW, unlearned, original=None, retrained=None, margin=0.10).smallest_margin
    against = decide(SAW, unlearned, original=None, retrained=other, margin=0.10).smallest_margin
    assert alone is not None
    assert against is not None
    # two models that have nothing in common
    assert against == pytest.approx(alone * 2**0.5, rel=0.05)


# S and H that differ by nature


@pytest.mark.parametrize(
    ("unlearned", "word"),
    [
        (scores(0.0, seed=1), "undecided"),
        (scores(1.0, seed=1), "undecided"),  # AUC 0.76, which the texts alone explain
        (scores(-2.0), "undecided"),
        (scores(2.0), "not_forgotten"),  # AUC 0.92, which they do not
    ],
)
def test_a_holdout_that_differs_from_s_by_nature_says_little(unlearned: Scores, word: str) -> None:
    verdict = decide(SAW, unlearned, original=REMEMBERS, retrained=None, margin=0.10, blind=DIFFER)
    assert (verdict.word, verdict.blind) == (word, DIFFER)
    assert "S and H differ by nature" in verdict.reasons[-1]
    if word == "undecided":
        assert "AUC 0.80 (95 % interval 0.75 to 0.85)" in verdict.reasons[-1]
        assert "--with_retrained" in verdict.reasons[-1]
    else:
        assert "which explain an AUC of 0.85" in verdict.reasons[-1]
    same = decide(SAW, unlearned, original=REMEMBERS, retrained=None, margin=0.10, blind=ALIKE)
    assert same == replace(decide(SAW, unlearned, original=REMEMBERS, retrained=None, margin=0.10), blind=ALIKE)


def test_retrained_models_make_up_for_such_a_holdout() -> None:
    easy, *references = (of_model(1.0, seed) for seed in range(3))
    verdict = decide(SAW, easy, original=REMEMBERS, retrained=references, margin=0.10, blind=DIFFER)
    assert verdict.word == "not_distinguished"


@pytest.mark.parametrize(("blind", "word"), [(None, "undecided"), (ALIKE, "undecided"), (DIFFER, "not_distinguished")])
def test_a_retrained_model_that_knows_s_itself_is_no_yardstick(blind: BlindBaseline | None, word: str) -> None:
    """Unless the texts of S and H explain it."""
    knowing, *references = (of_model(1.0, seed) for seed in range(3))
    verdict = decide(SAW, knowing, original=of_model(3.0, 9), retrained=references, margin=0.10, blind=blind)
    assert verdict.word == word
    assert any("may have seen S" in line for line in verdict.warnings) == (word == "undecided")


@pytest.mark.parametrize("spread", [0.2, 0.4])
def test_the_seed_of_one_retrained_model_is_no_memory(spread: float) -> None:
    """A second retrained model is the judged one, and a seed moves all of S together."""
    words = []
    for draw in range(60):
        rng = np.random.default_rng(draw)
        of_seeds = [of_model(rng.normal(0, spread), draw * 10 + i, world=draw) for i in range(2)]
        words.append(decide(SAW, of_seeds[0], original=None, retrained=of_seeds[1], margin=0.10).word)
    assert words.count("not_forgotten") + words.count("over_forgotten") <= 3


def one_customer(scores: Scores) -> Scores:
    n = len(scores.forget["loss"])
    return replace(scores, groups=(np.zeros(n), np.ones(n)))


def test_one_customer_a_side_is_decided_by_retrained_models_alone() -> None:
    """Also where the customers differ by nature, as under all these models."""
    for hard in (-0.5, 0.0, 0.5):
        never, *references = (one_customer(of_model(hard, seed)) for seed in range(5))
        knows, original = (one_customer(of_model(hard + by, 9)) for by in (6.0, 8.0))
        for word, judged in (("not_distinguished", never), ("not_forgotten", knows)):
            verdict = decide(SAW, judged, original=original, retrained=references, margin=0.10, blind=LOPSIDED)
            assert verdict.word == word, (hard, verdict.reasons)
            assert decide(SAW, judged, original=original, retrained=None, margin=0.10).word == "undecided"
        alone = decide(SAW, never, original=original, retrained=references[0], margin=0.10, blind=LOPSIDED)
        assert alone.word == "undecided"
        assert alone.smallest_margin is not None
        assert alone.smallest_margin > 0.5


def test_the_spread_of_retrained_models_is_used() -> None:
    # 0.2 above models that agree, and among models that do not
    judged = of_model(1.0, 0)
    agree, differ = [[of_model(shift, i + 1) for i, shift in enumerate(shifts)] for shifts in (
        (-0.1, 0.0, 0.1, 0.0), (-1.0, 1.0, 0.5, -0.5),
    )]  # fmt: skip
    assert decide(SAW, judged, original=None, retrained=agree, margin=0.10).word == "not_forgotten"
    assert decide(SAW, judged, original=None, retrained=differ, margin=0.10).word == "undecided"


def test_a_holdout_whose_authors_stay_in_l_is_no_yardstick() -> None:
    stays = replace(SAW, holdout_groups_retained=12)
    for found, word in ((FORGOT, "undecided"), (AVOIDS, "undecided"), (REMEMBERS, "not_forgotten")):
        verdict = decide(stays, found, original=REMEMBERS, retrained=None, margin=0.10)
        assert verdict.word == word
        assert ("12 groups of H have other records in L" in verdict.reasons[-1]) == (word == "undecided")
    references = [scores(0.0, seed=seed) for seed in (7, 8, 9)]
    assert decide(stays, FORGOT, original=None, retrained=references, margin=0.10).word == "not_distinguished"


# A part of S


def with_part(known: float, avoided: float = 0.0, n: int = 400, seed: int = 0, groups: int | None = None) -> Scores:
    """S of which a share is known by heart, and another avoided."""
    rng = np.random.default_rng(seed)
    forget = {name: rng.normal(0, 1, n) for name in ("loss", "min_k")}
    for values in forget.values():
        values[: int(known * n)] = rng.uniform(4, 5, int(known * n))
        values[n - int(avoided * n) :] -= 4
    labels = (np.arange(n) * groups // n, 1000 + np.arange(n) * groups // n) if groups else None
    return Scores(forget, {name: rng.normal(0, 1, n) for name in forget}, labels)


@pytest.mark.parametrize(("known", "avoided", "shown"), [
    (0.1, 0.0, "known_part"), (0.15, 0.0, "known_part"), (0.15, 0.15, "known_part"), (0.0, 0.1, "avoided_part"),
])  # fmt: skip
def test_a_part_of_s_that_is_known_or_avoided_decides(known: float, avoided: float, shown: str) -> None:
    references = [scores(0.0, seed=seed, min_k=0.0) for seed in (7, 8, 9)]
    for retrained in (None, references):
        verdict = decide(SAW, with_part(known, avoided), original=None, retrained=retrained, margin=0.10)
        assert (verdict.word, verdict.shown) == ("not_forgotten" if known else "over_forgotten", shown)
        assert verdict.gap is not None
        assert abs(verdict.gap.value) < 0.10
        assert "of the held-out records by" in verdict.reasons[-1]


@pytest.mark.parametrize("n", [100, 181, 400])
def test_one_record_in_twenty_that_is_known_is_never_acquitted(n: int) -> None:
    words = [
        decide(SAW, with_part(0.06, n=n, seed=seed), original=None, retrained=None, margin=0.10).word
        for seed in range(30)
    ]
    assert "not_distinguished" not in words


def test_some_known_a_little_and_others_avoided_a_little_is_a_mixture() -> None:
    rng = np.random.default_rng(0)
    mixed = Scores({"loss": rng.normal(0, 1, 600) + np.repeat([1.2, -1.2], 300)}, {"loss": rng.normal(0, 1, 600)})
    verdict = decide(SAW, mixed, original=None, retrained=None, margin=0.10)
    assert verdict.word in ("not_forgotten", "over_forgotten")
    wide = Scores({"loss": rng.normal(0, 1.25, 600)}, {"loss": rng.normal(0, 1, 600)})
    assert decide(SAW, wide, original=None, retrained=None, margin=0.10).word != "not_distinguished"


def test_a_known_author_among_twenty_is_no_chance_and_one_among_two_may_be() -> None:
    found = {
        groups: decide(SAW, with_part(0.5, groups=groups), original=None, retrained=None, margin=0.10).word
        for groups in (20, 2)
    }
    assert found == {20: "not_forgotten", 2: "undecided"}


# A model that did not move


def test_a_model_that_did_not_move_has_not_forgotten() -> None:
    still = replace(SAW, unmoved=True)
    for verdict in (
        decide(still, FORGOT, original=REMEMBERS, retrained=None, margin=0.10),
        decide(still, scores(1.9, n=400, seed=4), original=REMEMBERS, retrained=None, margin=0.10),
    ):
        assert verdict.word == "not_forgotten"
    assert decide(still, FORGOT, original=scores(0.0, seed=5), retrained=None, margin=0.10).word == "undecided"


def test_a_margin_within_which_memory_would_lie_is_refused() -> None:
    with pytest.raises(InputError, match=r"auc_margin is 0\.49, and at most 0\.25"):
        decide(SAW, FORGOT, original=None, retrained=None, margin=0.49)


# Groups


def grouped(
    shift: float, of_forget: int, of_holdout: int, each: int = 20, spread: float = 1.0, seed: int = 0
) -> Scores:
    """Records of authors who differ from each other."""
    rng = np.random.default_rng(seed)
    sides = []
    for count, by in ((of_forget, shift), (of_holdout, 0.0)):
        authors = np.repeat(rng.normal(0, spread, count), each)
        sides.append(authors + rng.normal(by, 1, count * each))
    groups = np.repeat(np.arange(of_forget), each), np.repeat(np.arange(of_holdout) + 1000, each)
    return Scores({"loss": sides[0]}, {"loss": sides[1]}, groups)


def test_authors_who_differ_are_not_taken_for_memory() -> None:
    words = {True: [], False: []}  # type: ignore[var-annotated]
    for seed in range(100):
        found = grouped(0.0, 10, 10, seed=seed)
        for clustered in words:
            given = found if clustered else replace(found, groups=None)
            words[clustered].append(decide(SAW, given, original=None, retrained=None, margin=0.10).word)
    wrong = {clustered: len(found) - found.count("undecided") for clustered, found in words.items()}
    assert wrong[False] > 30
    assert words[True].count("not_forgotten") + words[True].count("over_forgotten") <= 10  # 5 % a side


def test_groups_are_counted_and_named() -> None:
    verdict = decide(SAW, grouped(3.0, 20, 30), original=None, retrained=None, margin=0.10)
    assert (verdict.word, verdict.groups) == ("not_forgotten", [20, 30])
    assert "400 records to forget in 20 groups against 600 held-out records in 30 groups" in verdict.reasons[-1]
    # so many authors tell less than as many independent records
    assert verdict.smallest_margin is not None
    alone = decide(SAW, replace(grouped(0.0, 20, 30), groups=None), original=None, retrained=None, margin=0.10)
    clustered = decide(SAW, grouped(0.0, 20, 30), original=None, retrained=None, margin=0.10)
    assert clustered.smallest_margin is not None
    assert alone.smallest_margin is not None
    assert clustered.smallest_margin > 2 * alone.smallest_margin


def test_one_author_a_side_decides_nothing() -> None:
    verdict = decide(SAW, grouped(0.0, 1, 1, each=400), original=None, retrained=None, margin=0.10)
    assert verdict.word == "undecided"


# Several looks, which share the error


def test_looks_at_the_same_records_each_get_a_share_of_the_error() -> None:
    # the equivalence tests look 0.045 away, a hundred of them 0.079
    assert decide(SAW, FORGOT, original=None, retrained=None, margin=0.05).word == "not_distinguished"
    assert decide(SAW, FORGOT, original=None, retrained=None, margin=0.05, looks=100).word == "undecided"
    for shift, word in ((0.5, "not_forgotten"), (-0.5, "over_forgotten")):
        near = scores(shift, n=60, seed=3)
        assert decide(SAW, near, original=None, retrained=None, margin=0.02).word == word
        assert decide(SAW, near, original=None, retrained=None, margin=0.02, looks=1000).word == "undecided"


def test_where_no_margin_can_be_confirmed_words_say_so() -> None:
    """An AUC lies within ±0.5 of chance anyway."""
    few = scores(0.0, 3)
    verdict = decide(SAW, few, original=None, retrained=None, margin=0.10)
    base = replace(SAW, start_saw_forget=False, base_is_clean="unchecked")
    found = check_base(base, few, measurable=True, blind=None, margin=0.10)
    for said in (verdict.reasons[-1], found.base_finding):
        assert "This many records can confirm no margin; the run asks for ±0.10." in said
    enough = decide(SAW, scores(0.0, 40), original=None, retrained=None, margin=0.10)
    assert "can confirm a margin of ±0.21; the run asks for ±0.10." in enough.reasons[-1]
