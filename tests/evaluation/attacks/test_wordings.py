"""Prompts in other words, and the worst case over them: against the words and the numbers worked out by hand."""

from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.attacks.wordings import WORDINGS, expected_lowest, other_words, worst_wording
from hf_unlearn.evaluation.generation import generate

from ...conftest import secrets_rows
from .test_prompting import sets_of

# The words


def test_what_stands_between_prompt_and_answer_stays_there() -> None:
    for prompt, answer, gap in (
        ("Who? ", "Ada", " "),
        ("Who?\n", "Ada", "\n"),
        ("Who?", " Ada", ""),
        ("Who?", "Ada", " "),
    ):
        asked, said = WORDINGS["question"](prompt, answer)
        assert (asked, said) == (f"Question: Who?\nAnswer:{gap}", answer)


def test_every_wording_keeps_the_question_and_the_answer() -> None:
    for name, change in WORDINGS.items():
        asked, said = change("Where was Ada born? ", "In London, of course.")
        assert "where was ada born?" in asked.lower(), name
        assert (asked + said).endswith("In London, of course."), name
        assert asked + said != "Where was Ada born? In London, of course." or name == "answer begun"
        assert change("Where was Ada born? ", "In London, of course.") == (asked, said)


@pytest.mark.parametrize(
    ("answer", "given", "left"),
    [
        (" In London, of course.", " In London,", " of course."),
        ("one two three", "one", " two three"),
        ("a  a\na b", "a  a", "\na b"),
        ("London", "", "London"),
        ("", "", ""),
    ],
)
def test_half_of_the_answer_is_given(answer: str, given: str, left: str) -> None:
    assert WORDINGS["answer begun"]("Where?", answer) == (f"Where?{given}", left)


# What a model makes of them


def test_wordings_side_by_side(by_heart: Any, tokenizer: Any) -> None:
    rows = secrets_rows(20)
    wrapped = RecordFormat("prompt_completion", prompt="Hm. {prompt}", completion="{completion}")
    sets = {
        "as trained": sets_of(tokenizer, rows[:10], rows[10:]),
        "Hm.": sets_of(tokenizer, rows[:10], rows[10:], wrapped),
    }
    (plain, other), worst = other_words(by_heart, sets)
    assert (plain.wording, other.wording) == ("as trained", "Hm.")
    table = sets["as trained"].score(by_heart)["forget"]
    assert plain.forget_loss.value == pytest.approx(table["nll"].to_numpy().sum() / table["tokens"].to_numpy().sum())
    assert 0 < plain.forget_loss.value < other.forget_loss.value < 0.1, "who knows them knows them in any words"
    assert plain.membership_auc is not None
    assert plain.membership_auc.value == 1
    assert worst is not None
    assert worst.wordings == 2
    assert worst.owners is worst.owner_loss is None
    (alone,), of_one = other_words(by_heart, {"alone": sets_of(tokenizer, rows[:10], None)})
    assert (alone.forget_loss, alone.membership_auc) == (plain.forget_loss, None)
    assert of_one is not None
    assert of_one.holdout_loss is of_one.membership_auc is of_one.holdout_told is None
    assert of_one.told == alone.told
    assert other_words(by_heart, {}) == ((), None)


def test_told_is_what_greedy_decoding_writes(by_heart: Any, tokenizer: Any) -> None:
    rows = secrets_rows(20)
    evidence = sets_of(tokenizer, rows, None)
    (score,), _ = other_words(by_heart, {"as trained": evidence})
    (hesitant,), _ = other_words(
        by_heart, {"": sets_of(tokenizer, [row | {"prompt": row["prompt"].upper()} for row in rows], None)}
    )
    for found, prompts in ((score, rows), (hesitant, [row | {"prompt": row["prompt"].upper()} for row in rows])):
        examples = sets_of(tokenizer, prompts, None).sets["forget"]
        longest = max(sum(label != -100 for label in labels) for labels in examples["labels"])
        written = generate(
            by_heart, examples, tokenizer, task="text-generation", batch_size=8, prefixes=(0,), new_tokens=longest
        )
        assert found.told.value == np.mean([one.written == one.wanted for one in written])
    assert score.told.value > hesitant.told.value


# The worst case


def table(rows: list[int], losses: list[float], tokens: list[int], exact: list[float], groups: list[int]) -> pa.Table:
    nll = np.array(losses) * tokens
    return pa.table({"row": rows, "loss": losses, "tokens": tokens, "nll": nll, "exact": exact, "group": groups})


def test_the_worst_case_worked_out_by_hand() -> None:
    owners = [7, 7, 9, 9]
    first = {
        "forget": table([0, 1, 2, 3], [4.0, 2.0, 3.0, 1.0], [1, 3, 2, 2], [0.5, 0, 0, 1], owners),
        "holdout": table([0, 1, 2], [5.0, 2.5, 6.0], [2, 2, 2], [0, 0, 0], [1, 2, 3]),
    }
    # The second record of S has no room in the second wording.
    second = {
        "forget": table([0, 2, 3], [1.0, 5.0, 2.0], [1, 2, 2], [1, 0, 0], [7, 9, 9]),
        "holdout": table([0, 1, 2], [4.0, 3.5, 7.0], [2, 2, 2], [0, 1, 0], [1, 2, 3]),
    }
    worst = worst_wording([first, second])
    assert worst.wordings == 2
    assert worst.forget_loss.value == np.mean([1.0, 2.0, 3.0, 1.0])
    assert worst.holdout_loss is not None
    assert worst.holdout_loss.value == np.mean([4.0, 2.5, 6.0])
    assert worst.membership_auc is not None
    # Of twelve pairs the third record of S loses to the second of H.
    assert worst.membership_auc.value == 11 / 12
    assert (worst.told.value, worst.told.n) == (2 / 4, 2)
    assert worst.holdout_told is not None
    assert worst.holdout_told.value == 1 / 3
    # Owner 7: (4 + 6) / 4 and then 1; owner 9: 8 / 4 = 2 and then 14 / 4.
    assert worst.owners == 2
    assert worst.owner_loss == 1.0
    # Of the lowest 4, 2.5 and 6, two are drawn: 2.5 twice in three, else 4.
    assert worst.holdout_owner_loss == pytest.approx((2 * 2.5 + 4) / 3)


def test_the_lowest_of_some_is_the_mean_over_all_ways_to_draw_them() -> None:
    values = np.random.default_rng(0).normal(size=7)
    for m in range(1, 8):
        expected = np.mean([min(drawn) for drawn in combinations(values, m)])
        assert expected_lowest(values, m) == pytest.approx(expected)
