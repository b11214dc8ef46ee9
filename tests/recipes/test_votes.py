"""What the votes of classifiers know beside joint models: F1 from counts, and paired intervals."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from seqeval.metrics import f1_score

SHARDS = Path(__file__).parents[2] / "recipes" / "benchmarks" / "shards"
TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SHARDS))


def test_counts_of_entities_give_the_f1_of_seqeval(monkeypatch: pytest.MonkeyPatch) -> None:
    import votes

    draw = random.Random(1)
    true = [draw.choices(TAGS, k=draw.randint(1, 9)) for _ in range(50)]
    said = [draw.choices(TAGS, k=len(tags)) for tags in true]
    # A cut sentence is judged by the words that were read.
    said[0] = said[0][:1]
    monkeypatch.setattr(votes, "predictions", lambda table: [[TAGS.index(tag) for tag in tags] for tags in said])
    model = SimpleNamespace(score=lambda *_, **__: None, sharding=SimpleNamespace(labels=TAGS))
    quality = votes.Quality([{"ner_tags": tags} for tags in true])
    counts = quality.counts(model, [None] * len(true))
    expected = f1_score([tags[: len(one)] for tags, one in zip(true, said, strict=True)], said)
    assert quality.of(counts[None])["all"] == pytest.approx(expected)


def test_arrangements_are_counted_apart_and_the_mean_is_over_models() -> None:
    import votes

    quality = votes.Quality([{"label": label} for label in ("a", "priority", "b", "a")])
    one, two = (np.array([[hit, 1, 1] for hit in hits]) for hits in ((1, 1, 0, 1), (0, 0, 0, 1)))
    found = quality.of(np.stack([one, two]))
    assert found == {"all": (3 / 4 + 1 / 4) / 2, "ordinary": (2 / 3 + 1 / 3) / 2, "arrangements": 1 / 2}


def test_an_interval_of_a_difference_is_paired() -> None:
    import votes

    hits = np.random.default_rng(3).random(400) < 0.8
    joint = np.stack([hits, np.ones(400), np.ones(400)], axis=1)[None]
    same = votes.less(joint, joint)
    # Unpaired, the difference of equal models would have an interval.
    assert same == {"value": 0, "low": 0, "high": 0}
    other = joint.copy()
    other[0, np.flatnonzero(hits)[:20], 0] = 0
    found = votes.less(joint, other)
    assert found["value"] == pytest.approx(20 / 400)
    # The difference of each record is 0 or 1, so its share has a normal interval.
    half = 1.96 * np.sqrt(0.05 * 0.95 / 400)
    assert [found["low"], found["high"]] == pytest.approx([0.05 - half, 0.05 + half], abs=0.006)
