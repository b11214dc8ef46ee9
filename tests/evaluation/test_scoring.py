"""One forward pass, one table: against the formula, whatever the batches."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from hf_unlearn.data.encoding import IGNORED, PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.measured_sets import EvidenceSets, attack_scores, evidence_sets
from hf_unlearn.evaluation.scoring import _statistics, best_windows, preserved_rng, score
from hf_unlearn.evaluation.utility.metrics import predictions

from ..conftest import secrets_rows, tickets_rows
from ..support.models import corpus


def examples_of(folder: Path, rows: list[dict[str, Any]], max_length: int = 128, **fmt: Any) -> tuple[Any, Dataset]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = RecordEncoder(tokenizer, RecordFormat(**fmt), max_length, {"billing": 0, "delivery": 1, "other": 2})
    examples = encode(Dataset.from_list(rows), encoder, "test")
    assert isinstance(examples, Dataset)
    return PaddingCollator(0), examples


def by_hand(model: Any, examples: Dataset) -> dict[int, list[float]]:
    """Tokens, NLL and hits of each record: one example at a time, in numpy and float64."""
    found: dict[int, list[float]] = {}
    for example in examples:
        with torch.no_grad():
            logits = model(torch.tensor([example["input_ids"]])).logits[0].double().numpy()
        sums = found.setdefault(example["row"], [0.0, 0.0, 0.0])
        for position, label in enumerate(example["labels"][1:]):
            if label != IGNORED:
                row = logits[position]
                highest = row.max()
                sums[0] += 1
                sums[1] += highest + np.log(np.exp(row - highest).sum()) - row[label]
                sums[2] += int(row.argmax() == label)
    return found


def memory_by_hand(model: Any, example: dict[str, Any]) -> dict[str, float]:
    """The statistics of memory of one example, from sorted lists and loops."""
    with torch.no_grad():
        logits = model(torch.tensor([example["input_ids"]])).logits[0].double()
    log_p, z, hits = [], [], []
    for position, label in enumerate(example["labels"][1:]):
        if label == IGNORED:
            continue
        row = logits[position].log_softmax(-1)
        mean = float((row.exp() * row).sum())
        deviation = max(float((row.exp() * (row - mean) ** 2).sum()), 1e-6) ** 0.5
        log_p.append(float(row[label]))
        z.append((float(row[label]) - mean) / deviation)
        hits.append(int(row.argmax()) == label)
    k = max(1, int(0.4 * len(log_p)))
    text = hits[: len(hits) - example["tail"]]
    run = next((i for i, hit in enumerate(reversed(text)) if not hit), len(text))
    return {
        "min_k": sum(sorted(log_p)[:k]) / k,
        "min_k_plus": sum(sorted(z)[:k]) / k,
        "exact": sum(text) / len(text),
        "extraction": run / len(text),
    }


def test_memory_against_the_formula(lm_original: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    encoder = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128)
    rows: Any = {"forget": Dataset.from_list(secrets_rows(60))}
    sets = evidence_sets(rows, encoder, PaddingCollator(0), "text-generation", 7, seed=0, tokenizer=tokenizer)
    examples = sets.sets["forget"]
    assert set(examples["tail"]) == {1}, "the end of the text is no text"
    model = AutoModelForCausalLM.from_pretrained(lm_original).eval()
    table = sets.score(model)["forget"].to_pylist()
    for example, found in zip(examples, table, strict=True):
        for name, value in memory_by_hand(model, example).items():
            assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        text = secrets_rows(60)[found["row"]]["completion"]
        assert found["zlib"] == len(zlib.compress(text.encode()))
    assert 0.5 < np.mean([found["extraction"] for found in table]) < 1, "the model knows some by heart, and not all"


def test_what_is_missed_at_the_end_has_no_strength() -> None:
    labels = torch.tensor([[IGNORED, 1, 2, 3], [IGNORED, 1, 2, 0], [IGNORED, 1, 2, 3]])
    guessed = torch.tensor([[1, 2, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]])
    logits = 20.0 * torch.nn.functional.one_hot(guessed, 4).float()
    found = _statistics(logits, labels, np.array([0, 1, 0]), "text-generation")
    assert found["exact"].tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert found["extraction"].tolist() == pytest.approx([0, 1 / 2, 0])
    assert found["correct"].tolist() == [2, 2, 0]


def test_a_token_that_is_ruled_out_leaves_numbers() -> None:
    logits = torch.tensor([[[-torch.inf, 1.0, 2.0], [0.0, 0.0, 0.0]]])
    found = _statistics(logits, torch.tensor([[0, 2]]), np.array([0]), "text-generation")
    found["log_p"] = np.concatenate(list(found["log_p"]))
    assert all(np.isfinite(values).all() for values in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_part_of_the_logits_is_held_in_float32(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    held = []

    def predictions(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        held.append(logits.numel())
        return torch.ones(6, len(wanted))

    monkeypatch.setattr("hf_unlearn.evaluation.scoring._predictions", predictions)
    logits = torch.zeros(2, 128, 64_000, dtype=dtype)
    _statistics(logits, torch.zeros(2, 128, dtype=torch.int64), np.zeros(2, int), "text-generation")
    assert sum(held) == logits.numel() * 254 // 256, "all of the labelled ones"
    assert max(held) <= logits.numel() / 50


def assert_alike(table: pa.Table, other: pa.Table) -> None:
    for name in other.column_names:
        own, expected = (
            np.concatenate(part[name].to_pylist()) if name == "log_p" else part[name].to_numpy()
            for part in (table, other)
        )
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)


def test_the_best_windows_are_those_of_every_place() -> None:
    rng = np.random.default_rng(0)
    lengths = [3, 5, 17, 40, 1]
    records = [rng.normal(-2, 1, length) for length in lengths]
    found = best_windows(np.concatenate(records), np.array(lengths))
    assert list(found) == ["window_5", "window_20"]
    for name, size in zip(found, (5, 20), strict=True):
        expected = [
            max(np.mean(record[i : i + size]) for i in range(max(1, len(record) - size + 1))) for record in records
        ]
        np.testing.assert_allclose(found[name], expected)


def test_a_passage_that_the_base_finds_hard_shows_against_it(lm_base: Path, lm_original: Path) -> None:
    collator, examples = examples_of(lm_base, secrets_rows(9), kind="prompt_completion")
    sets = EvidenceSets("text-generation", {"forget": examples, "holdout": examples}, collator, 4)
    own, base = (sets.score(AutoModelForCausalLM.from_pretrained(folder)) for folder in (lm_original, lm_base))
    scores = attack_scores(own, base)
    assert scores is not None
    pairs = zip(*(table["forget"]["log_p"].to_pylist() for table in (own, base)), strict=True)
    gains = [np.array(mine) - np.array(other) for mine, other in pairs]
    expected = [max(np.mean(gain[i : i + 5]) for i in range(max(1, len(gain) - 4))) for gain in gains]
    np.testing.assert_allclose(scores.forget["window_5"], expected, rtol=1e-5)
    alone = attack_scores(own)
    assert alone is not None
    np.testing.assert_allclose(alone.forget["window_5"], own["forget"]["window_5"].to_numpy())
    # the pieces of a document are put together in their order
    rows = [{"text": "one two three four five six seven eight nine ten " * 6}]
    collator, pieces = examples_of(lm_base, rows, 16, kind="text")
    assert len(pieces) > 2
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    whole = score(model, pieces, collator, task="text-generation", batch_size=2)
    each = [
        score(model, pieces.select([i]), collator, task="text-generation", batch_size=1) for i in range(len(pieces))
    ]
    np.testing.assert_allclose(
        whole["log_p"].to_pylist()[0], np.concatenate([one["log_p"].to_pylist()[0] for one in each]), rtol=1e-4
    )
    assert whole["window_20"].to_pylist()[0] == pytest.approx(
        max(one["window_20"].to_pylist()[0] for one in each), rel=1e-4
    )


@pytest.mark.parametrize("size", [1, 7, 10**9])
def test_parts_of_a_batch_do_not_matter(lm_base: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    collator, examples = examples_of(lm_base, secrets_rows(9), kind="prompt_completion")
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    whole = score(model, examples, collator, task="text-generation", batch_size=4)
    monkeypatch.setattr("hf_unlearn.evaluation.scoring.CHUNK", size)
    parts = score(model, examples, collator, task="text-generation", batch_size=4)
    assert_alike(parts, whole)


@pytest.mark.parametrize("max_length", [128, 12])
def test_language_models_against_the_formula(lm_base: Path, max_length: int) -> None:
    collator, examples = examples_of(lm_base, secrets_rows(12), max_length, kind="prompt_completion")
    model = AutoModelForCausalLM.from_pretrained(lm_base).eval()
    table = score(model, examples, collator, task="text-generation", batch_size=5)
    expected = by_hand(model, examples)
    assert table["row"].to_pylist() == sorted(expected)
    names = ("row", "tokens", "nll", "loss", "correct")
    for row, tokens, nll, loss, correct in zip(*(table[name].to_pylist() for name in names), strict=True):
        assert (tokens, correct) == (expected[row][0], expected[row][2])
        assert nll == pytest.approx(expected[row][1], rel=1e-5)
        assert loss == pytest.approx(nll / tokens)


def test_classifiers_against_the_formula(encoder_base: Path) -> None:
    collator, examples = examples_of(encoder_base, tickets_rows(9), kind="classification")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(encoder_base, num_labels=3).eval()
    table = score(model, examples, collator, task="text-classification", batch_size=4)
    for example, loss, tokens, correct in zip(examples, table["loss"], table["tokens"], table["correct"], strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([example["input_ids"]])).logits[0].double().numpy()
        expected = np.log(np.exp(logits).sum()) - logits[example["labels"]]
        assert loss.as_py() == pytest.approx(expected, rel=1e-4)
        assert (tokens.as_py(), correct.as_py()) == (1, int(logits.argmax() == example["labels"]))
        p = np.exp(logits) / np.exp(logits).sum()
        line = table.to_pylist()[example["row"]]
        assert line["predicted"] == [int(logits.argmax())]
        assert line["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
        own = p[example["labels"]]
        assert line["margin"] == pytest.approx(np.log(own / (1 - own)), rel=1e-3, abs=1e-5)


def test_the_predictions_of_a_record_in_pieces_stand_in_their_order(wordpiece_base: Path) -> None:
    """The pieces of a record are scored by their length, the longest first."""
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(wordpiece_base, num_labels=5).eval()
    lengths, rows = [3, 9, 6, 2, 8], [1, 0, 1, 1, 0]
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 60, n).tolist() for n in lengths]
    labels = [[-100, *rng.integers(0, 5, n - 1).tolist()] for n in lengths]
    examples = Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * n for n in lengths], "labels": labels, "row": rows}
    )
    table = score(model, examples, PaddingCollator(0), task="token-classification", batch_size=2)
    expected: dict[int, list[int]] = {0: [], 1: []}
    for one, row in zip(ids, rows, strict=True):
        with torch.no_grad():
            expected[row] += model(torch.tensor([one])).logits[0].argmax(-1).tolist()[1:]
    assert table["predicted"].to_pylist() == [expected[0], expected[1]]
    sets: Any = {"forget": examples}
    evidence = EvidenceSets("token-classification", sets, PaddingCollator(0), 2, classes=tuple("abcde"))
    truth = evidence.truth()["forget"]
    wanted = [[label for i in pieces for label in labels[i][1:]] for pieces in ((1, 4), (0, 2, 3))]
    assert [one.tolist() for one in truth.classes] == wanted
    right = [(a == b).sum() for a, b in zip(truth.classes, predictions(table), strict=True)]
    assert right == table["correct"].to_pylist()


def test_batches_do_not_matter(lm_base: Path) -> None:
    collator, examples = examples_of(lm_base, [{"text": text} for text in corpus()[:30]], 64, kind="text")
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    tables = [score(model, examples, collator, task="text-generation", batch_size=b) for b in (1, 7, 64)]
    for table in tables[1:]:
        assert_alike(table, tables[0])
        assert table["row"].to_pylist() == tables[0]["row"].to_pylist() == list(range(30))


def test_half_precision_is_scored_in_float32(lm_base: Path) -> None:
    collator, examples = examples_of(lm_base, secrets_rows(8), kind="prompt_completion")
    full = AutoModelForCausalLM.from_pretrained(lm_base)
    half = AutoModelForCausalLM.from_pretrained(lm_base, dtype=torch.bfloat16)
    tables = [score(m, examples, collator, task="text-generation", batch_size=4) for m in (full, half)]
    np.testing.assert_allclose(tables[1]["loss"].to_numpy(), tables[0]["loss"].to_numpy(), rtol=0.02)
    alone = score(half, examples, collator, task="text-generation", batch_size=1)
    expected = [nll for _, nll, _ in by_hand(half, examples).values()]
    np.testing.assert_allclose(alone["nll"].to_numpy(), expected, rtol=1e-5)


def test_scoring_leaves_the_model_and_the_random_numbers_alone(lm_base: Path) -> None:
    collator, examples = examples_of(lm_base, secrets_rows(8), kind="prompt_completion")
    model = AutoModelForCausalLM.from_pretrained(lm_base).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = score(model, examples, collator, task="text-generation", batch_size=4)
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert score(model, examples, collator, task="text-generation", batch_size=4).equals(first), "dropout must be off"


def test_every_generator_is_preserved() -> None:
    import random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with preserved_rng():
        draw()
    assert draw() == expected


# Sets


def sets_of(lm_base: Path, n: int = 60) -> EvidenceSets:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    encoder = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128)
    rows = Dataset.from_list(secrets_rows(n))
    parts: Any = {
        "forget": rows.select(range(10)),
        "holdout": rows.select(range(10, 31)),
        "retained": rows,
        "test": None,
    }
    return evidence_sets(parts, encoder, PaddingCollator(0), "text-generation", 8, seed=0)


def test_groups_travel_with_the_records(lm_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    rows = Dataset.from_list([{"text": text, "who": who} for text, who in (
        ("a" * 40, "x"), ("b", None), ("c" * 70, "y"), ("d", None), ("e" * 30, "x"), ("f", "z"),
    )])  # fmt: skip
    encoder = RecordEncoder(tokenizer, RecordFormat("text"), 16)
    parts: Any = {"forget": rows.select(range(4)), "holdout": rows.select([4, 5, 2]), "retained": rows}
    sets = evidence_sets(parts, encoder, PaddingCollator(0), "text-generation", 8, seed=0, group_column="who")
    assert len(sets.sets["forget"]) > 4, "long texts are in pieces"
    tables = sets.score(AutoModelForCausalLM.from_pretrained(lm_base))
    forget, holdout = (tables[name]["group"].to_pylist() for name in ("forget", "holdout"))  # type: ignore[index]
    assert len(set(forget)) == 4, "without a name each record stands for itself"
    assert holdout[0] == forget[0]
    assert holdout[2] == forget[2]
    assert holdout[1] not in forget
    assert "group" not in tables["retained"].column_names
    first, second = sets.halves(seed=0)
    assert not set(first.sets["forget"]["group"]) & set(second.sets["forget"]["group"])
    alone: Any = {**parts, "forget": rows.select([0, 4])}
    halves = evidence_sets(
        alone, encoder, PaddingCollator(0), "text-generation", 8, seed=0, group_column="who"
    ).halves(0)
    assert all(len(set(half.sets["forget"]["row"])) == 1 for half in halves), "of one author the records are dealt"

    tokenised: Any = {name: part.add_column("group", [5] * len(part)) for name, part in sets.sets.items()
                      if name == "retained"}  # fmt: skip
    tokenised["forget"] = tokenised["retained"]
    own = evidence_sets(tokenised, None, PaddingCollator(0), "text-generation", 8, seed=0)
    assert "group" not in own.sets["forget"].column_names
    with pytest.raises(InputError, match="no column 'author'"):
        evidence_sets(parts, encoder, PaddingCollator(0), "text-generation", 8, seed=0, group_column="author")


def test_halves_share_no_record_of_s_and_h(lm_base: Path) -> None:
    sets = sets_of(lm_base)
    first, second = sets.halves(seed=1)
    for name in ("forget", "holdout"):
        rows = [set(part.sets[name]["row"]) for part in (first, second)]  # type: ignore[index]
        assert not rows[0] & rows[1]
        assert rows[0] | rows[1] == set(sets.sets[name]["row"])  # type: ignore[index]
        assert abs(len(rows[0]) - len(rows[1])) <= 1
    assert first.sets["retained"]["row"][:] == second.sets["retained"]["row"][:] == sets.sets["retained"]["row"][:]
    again, _ = sets.halves(seed=1)
    assert again.sets["forget"]["row"][:] == first.sets["forget"]["row"][:]


def test_a_part_of_large_sets_is_enough(lm_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_unlearn.evaluation.measured_sets.SAMPLE_ROWS", 20)
    sets = sets_of(lm_base)
    assert {name: len(part) for name, part in sets.sets.items()} == {"forget": 10, "holdout": 21, "retained": 20}
    assert sets.sampled == {"retained"}
    assert {name: len(part) for name, part in sets.at_most(12, 0).sets.items()} == {
        "forget": 10,
        "holdout": 12,
        "retained": 12,
    }
    assert list(sets.score(AutoModelForCausalLM.from_pretrained(lm_base))) == ["forget", "holdout", "retained"]


@pytest.mark.filterwarnings("error")
def test_a_loss_that_is_no_number_is_told_before_a_largest_value_hides_it(lm_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    # Only where this token stands, and after it.
    collator, examples = examples_of(lm_base, secrets_rows(4), 16, kind="prompt_completion")
    hit = examples[0]["input_ids"][-2]
    with torch.no_grad():
        model.get_input_embeddings().weight[hit] = torch.nan
    bad = {example["row"] for example in examples if hit in example["input_ids"][:-1]}
    with pytest.raises(InputError) as raised:
        score(model, examples, collator, task="text-generation", batch_size=2, name="forget")
    assert f"The loss of {len(bad)} of 4 forget records is no number" in str(raised.value)
