"""Worlds of scores whose truth is known, drawn many times and judged: groups, seeds, parts, passages and mixtures.

Each draws what the attacks would make of S and H, so that no model is trained. The words that are false in a world
are counted as wrong; how often the right one is said is its power.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from calibration_rates import MARGIN, WORLDS_FILE
from tqdm.auto import tqdm

from hf_unlearn.evaluation.scoring import _language_statistics
from hf_unlearn.evaluation.verdict import Provenance, Scores, decide
from hf_unlearn.files import write_text

PROVENANCE = Provenance(start_saw_forget=None, stage="", duplicates_retained=None)
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus", "exact", "extraction", "reference")
ACCUSED, ACQUITTED = ("not_forgotten", "over_forgotten"), ("not_distinguished",)

# The scores of the judged model, of the original, and of retrained models.
World = Callable[[np.random.Generator], tuple[Scores, Scores | None, list[Scores]]]


@dataclass(frozen=True)
class Row:
    """A world with the words that would be wrong in it, and the one that would be right."""

    world: str
    sizes: str
    draw: World
    wrong: tuple[str, ...]
    right: str


def alike(rng: np.random.Generator, m: int, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """What all attacks make of a record, most of it the same: shapes (m, attacks) and (n, attacks)."""
    sides = []
    for size, by in ((m, shift), (n, 0.0)):
        own = np.sqrt(0.8) * rng.normal(0, 1, size)[:, None] + np.sqrt(0.2) * rng.normal(0, 1, (size, len(ATTACKS)))
        sides.append(own + by)
    return sides[0], sides[1]


def as_scores(forget: np.ndarray, holdout: np.ndarray, groups: Any = None) -> Scores:
    return Scores(dict(zip(ATTACKS, forget.T, strict=True)), dict(zip(ATTACKS, holdout.T, strict=True)), groups)


def of_customers(of_forget: int, of_holdout: int, each: int, icc: float, shift: float) -> World:
    """Customers who differ from each other; their share of the variance is icc."""

    def draw(rng: np.random.Generator) -> tuple[Scores, Scores | None, list[Scores]]:
        sides = alike(rng, of_forget * each, of_holdout * each)
        groups = np.repeat(np.arange(of_forget), each), 10_000 + np.repeat(np.arange(of_holdout), each)
        moved = [
            np.sqrt(1 - icc) * side + np.sqrt(icc) * np.repeat(rng.normal(0, 1, count), each)[:, None] + by
            for side, count, by in zip(sides, (of_forget, of_holdout), (shift, 0.0), strict=True)
        ]
        return as_scores(moved[0], moved[1], groups), None, []

    return draw


def of_seeds(spread: float, references: int, shift: float) -> World:
    """Retrained models in which the seed moves all of S; the judged one is a further one, or knows S."""

    def draw(rng: np.random.Generator) -> tuple[Scores, Scores | None, list[Scores]]:
        hard = rng.normal(0, 1, 600)

        def model(by: float) -> Scores:
            own = hard[:, None] + 0.5 * rng.normal(0, 1, 600)[:, None] + 0.3 * rng.normal(0, 1, (600, len(ATTACKS)))
            return as_scores(own[:300] + rng.normal(0, spread) + by, own[300:])

        return model(shift), None, [model(0.0) for _ in range(references)]

    return draw


def of_parts(n: int, known: float, avoided: float) -> World:
    """S of which a share is known by heart and a share is pushed away; the original knows all of it."""

    def side(rng: np.random.Generator, known: float, avoided: float) -> dict[str, np.ndarray]:
        hard = rng.normal(2.0, 0.5, n)
        loss, by_heart, pushed = hard.copy(), round(known * n), round(avoided * n)
        loss[:by_heart] = rng.uniform(0.01, 0.05, by_heart)
        loss[by_heart : by_heart + pushed] += 2.5
        extraction = np.where(loss < 0.1, 0.95, 0.05) + rng.normal(0, 0.02, n)
        return {
            "loss": -loss,
            "zlib": -loss / rng.integers(60, 200, n),
            "min_k": -1.8 * loss + rng.normal(0, 0.1, n),
            "min_k_plus": -loss + rng.normal(0, 0.1, n),
            "exact": np.clip(1 - loss / 4 + rng.normal(0, 0.03, n), 0, 1),
            "extraction": np.clip(extraction, 0, 1),
            "reference": hard + rng.normal(0, 0.2, n) - loss,
        }

    def draw(rng: np.random.Generator) -> tuple[Scores, Scores | None, list[Scores]]:
        holdout = side(rng, 0.0, 0.0)
        return Scores(side(rng, known, avoided), holdout), Scores(side(rng, 1.0, 0.0), holdout), []

    return draw


def of_passages(tokens: int, passage: int, *, known: bool) -> World:
    """Long records of which one passage, such as a number, may be known by heart in each record of S."""

    def side(rng: np.random.Generator, n: int, by_heart: bool) -> dict[str, np.ndarray]:
        lengths = rng.integers(tokens // 2, tokens * 3 // 2, n)
        hard = np.exp(rng.normal(0, 0.25, n))
        log_p = [-rng.gamma(0.55, 3.6 * hard[i], length) for i, length in enumerate(lengths)]
        for record in log_p:
            start = rng.integers(0, len(record) - passage)
            # A number is harder to guess than prose.
            new = rng.uniform(0, 0.02, passage) if by_heart else rng.gamma(2.0, 1.5, passage)
            record[start : start + passage] = -new
        flat = np.concatenate(log_p)
        z, which = (flat + 2) / 1.8 + rng.normal(0, 0.2, len(flat)), np.repeat(np.arange(n), lengths)
        loss = np.array([-record.mean() for record in log_p])
        found = _language_statistics(flat, z, flat > -0.6, which, lengths, np.zeros(n, int))
        return {"loss": -loss, "zlib": -loss / (lengths * 2.2 + rng.normal(0, 8, n)), **found}

    def draw(rng: np.random.Generator) -> tuple[Scores, Scores | None, list[Scores]]:
        forget, holdout = side(rng, 400, known), side(rng, 400, False)
        return Scores(forget, holdout), Scores({k: v + 3 for k, v in forget.items()}, holdout), []

    return draw


def rows() -> list[Row]:
    found = []
    for icc in (0.05, 0.2, 0.4):
        for each in (10, 100):
            one = of_customers(1, 1, each, icc, 0.0)
            found.append(Row(f"one customer a side, ICC {icc}", f"{each} records each", one, ACCUSED, "undecided"))
    for groups in ((2, 20), (3, 100), (10, 10), (20, 20)):
        sizes = f"{groups[0]} against {groups[1]} groups of 20"
        for icc in (0.05, 0.4):
            never = of_customers(*groups, 20, icc, 0.0)
            found.append(Row(f"S never seen, ICC {icc}", sizes, never, ACCUSED, "not_distinguished"))
            knows = of_customers(*groups, 20, icc, 2.0)
            found.append(Row(f"S known, ICC {icc}", sizes, knows, ACQUITTED, "not_forgotten"))
    for references in (1, 3):
        for spread in (0.0, 0.2, 0.4):
            world = f"{references} retrained, the seed moves S by {spread} SD"
            never, knows = (of_seeds(spread, references, shift) for shift in (0.0, 2.5))
            found.append(Row(f"{world}, S never seen", "300 and 300", never, ACCUSED, "not_distinguished"))
            found.append(Row(f"{world}, S known", "300 and 300", knows, ACQUITTED, "not_forgotten"))
    for n in (180, 300, 1000):
        never = of_parts(n, 0.0, 0.0)
        found.append(Row("S never seen", f"{n} and {n}", never, ACCUSED, "not_distinguished"))
        for known in (0.05, 0.10, 0.15, 0.30):
            part = of_parts(n, known, 0.0)
            found.append(Row(f"{known:.0%} of S known by heart", f"{n} and {n}", part, ACQUITTED, "not_forgotten"))
        for both in (0.10, 0.30, 0.50):
            mixed = of_parts(n, both, both)
            found.append(
                Row(f"{both:.0%} known, {both:.0%} pushed away", f"{n} and {n}", mixed, ACQUITTED, "not_forgotten")
            )
    for tokens, passage in ((200, 6), (500, 12), (1000, 6), (1000, 25)):
        sizes = f"400 and 400 of {tokens} tokens"
        never, knows = (of_passages(tokens, passage, known=known) for known in (False, True))
        found.append(Row(f"no passage of {passage} tokens known", sizes, never, ACCUSED, "not_distinguished"))
        found.append(Row(f"{passage} tokens of each record known", sizes, knows, ACQUITTED, "not_forgotten"))
    return found


def draw_worlds(draws: int, output: Path) -> None:
    """Draw each world so often, judge it, and write how often each word was said; the seeds are the draws' numbers."""
    found = []
    for row in tqdm(rows(), desc="Worlds"):
        words: Counter[str] = Counter()
        for seed in range(draws):
            judged, original, retrained = row.draw(np.random.default_rng(seed))
            words[decide(PROVENANCE, judged, original=original, retrained=retrained, margin=MARGIN).word] += 1
        found.append(
            {
                "world": row.world,
                "sizes": row.sizes,
                "wrong": list(row.wrong),
                "right": row.right,
                "words": dict(words.most_common()),
            }
        )
    write_text(output / WORLDS_FILE, json.dumps({"draws": draws, "rows": found}, indent=1) + "\n")
