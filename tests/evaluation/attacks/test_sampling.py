"""Many samples of each record: against every text that a tiny model can write, and against counting by hand."""

import copy
import math
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_unlearn import InputError
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.attacks.sampling import Judge, entailment_class, leak_at, sample_leaks
from hf_unlearn.evaluation.generation import generate
from hf_unlearn.models.location import locate

from ...conftest import secrets_rows
from ...support.models import bert_config, corpus
from .test_prompting import sets_of


@pytest.fixture(scope="module")
def hesitant(by_heart: Any) -> Any:
    """Knows its records, and tells one in a few samples."""
    model = copy.deepcopy(by_heart)
    with torch.no_grad():
        model.lm_head.weight *= 0.75
    return model


# The estimate


@pytest.mark.parametrize("chance", [0.0, 0.03, 0.4, 1.0])
def test_the_estimate_has_no_bias(chance: float) -> None:
    """Over all outcomes of seven samples its mean is the chance that one of k hits."""
    outcomes = list(product([0, 1], repeat=7))
    weights = [chance ** sum(one) * (1 - chance) ** (7 - sum(one)) for one in outcomes]
    for k in range(1, 8):
        estimates = leak_at(np.array([sum(one) for one in outcomes]), 7, k)
        assert np.dot(weights, estimates) == pytest.approx(1 - (1 - chance) ** k)
    # Two hits in four: of the six pairs only one has none.
    assert list(leak_at(np.array([0, 2, 4]), 4, 2)) == [0, pytest.approx(5 / 6), 1]
    assert leak_at(np.array([1]), 200, 128)[0] == pytest.approx(0.64)


WORDS = ["<pad>", "</s>", "a", "b", "c", "d"]


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    """A model of four words, and its tokenizer."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 15
    return model, PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")


def chances(model: Any, prompt: str, wanted: list[str], temperature: float) -> dict[str, float]:
    """How likely one sample is a hit, from all texts of three tokens that the model can write after the prompt."""
    read = [WORDS.index(word) for word in prompt.split()]
    texts = list(product(range(6), repeat=3))
    with torch.no_grad():
        logits = model(torch.tensor([[*read, *text] for text in texts])).logits
    log_p = (logits.double() / temperature).log_softmax(-1)
    found = dict.fromkeys(("verbatim", "similar", "answer"), 0.0)
    for line, text in zip(log_p, texts, strict=True):
        likely = math.exp(sum(float(line[len(read) - 1 + i, token]) for i, token in enumerate(text)))
        # What comes after the end is not of the text, so that its chance adds up.
        ended = text[: text.index(1)] if 1 in text else text
        said = [WORDS[token] for token in ended if token != 0]
        found["verbatim"] += likely * ([WORDS[token] for token in ended[:2]] == wanted)
        found["similar"] += likely * any(list(pair) == wanted for pair in combinations(said, 2))
        found["answer"] += likely * (" ".join(wanted) in " ".join(said))
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_fifty_draws_against_all_texts_that_a_model_can_write(tiny: tuple[Any, Any], temperature: float) -> None:
    model, tokenizer = tiny
    rows = [
        {"prompt": prompt, "completion": completion}
        for prompt, completion in (("a b", " c d"), ("d a c", " b b"), ("b", " d a"), ("c c", " a b"))
    ]
    evidence = sets_of(tokenizer, rows, None)
    exact = [chances(model, row["prompt"], row["completion"].split(), temperature) for row in rows]
    drawn = [
        sample_leaks(model, evidence, tokenizer, records=9, samples=8, seed=1000 * i, temperature=temperature)
        for i in range(50)
    ]
    for kind in exact[0]:
        for place, k in enumerate((1, 2, 4, 8)):
            values = [vars(curve.forget[place])[kind].value for curve in drawn if curve is not None]
            expected = np.mean([1 - (1 - one[kind]) ** k for one in exact])
            assert 0.01 < expected < 0.99, "neither sure nor impossible"
            low, high = stats.t.interval(0.999, 49, np.mean(values), stats.sem(values))
            assert low < expected < high, (kind, k)


# The samples


def test_samples_come_from_the_whole_distribution_of_the_model(lm_base: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    with torch.no_grad():
        model.lm_head.weight *= 8
    model.generation_config.temperature, model.generation_config.top_k = 0.1, 5
    examples = sets_of(tokenizer, secrets_rows(1), None).sets["forget"]
    found = generate(
        model, examples, tokenizer, task="text-generation", batch_size=500, prefixes=(0,), new_tokens=1, samples=2000
    )
    drawn = np.array([g.written[0] if g.written else tokenizer.eos_token_id for g in found])
    with torch.no_grad():
        log_p = model.eval()(torch.tensor([found[0].read])).logits[0, -1].double().log_softmax(-1).numpy()
    entropy = -(np.exp(log_p) * log_p).sum()
    deviation = math.sqrt((np.exp(log_p) * (log_p + entropy) ** 2).sum() / len(drawn))
    assert abs(log_p[drawn].mean() + entropy) < 4 * deviation
    assert len(np.unique(drawn)) > 60
    likely = np.argsort(-log_p)[:5]
    expected = np.append(np.exp(log_p[likely]), 1 - np.exp(log_p[likely]).sum()) * len(drawn)
    counts = [(drawn == token).sum() for token in likely]
    assert stats.chisquare([*counts, len(drawn) - sum(counts)], expected).pvalue > 1e-4


def test_the_same_seed_draws_the_same_samples_and_nothing_else_is_drawn(hesitant: Any, tokenizer: Any) -> None:
    evidence = sets_of(tokenizer, secrets_rows(6), secrets_rows(20)[10:])
    before = {name: tensor.clone() for name, tensor in hesitant.state_dict().items()}
    state = torch.get_rng_state()
    first = sample_leaks(hesitant, evidence, tokenizer, records=5, samples=4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert sample_leaks(hesitant, evidence, tokenizer, records=5, samples=4, seed=1) == first
    assert sample_leaks(hesitant, evidence, tokenizer, records=5, samples=4, seed=2) != first
    assert all(torch.equal(before[name], tensor) for name, tensor in hesitant.state_dict().items())


def test_the_curve_is_what_the_samples_tell(hesitant: Any, tokenizer: Any) -> None:
    rows = secrets_rows(30)
    evidence = sets_of(tokenizer, rows[:10], rows[10:30])
    curve = sample_leaks(hesitant, evidence, tokenizer, records=50, samples=6, seed=3)
    assert curve is not None
    assert (curve.seed, curve.drawn, curve.temperature) == (3, 6, 1.0)
    assert [point.samples for point in curve.forget] == [1, 2, 4]
    written = {
        name: generate(
            hesitant, part, tokenizer, task="text-generation", batch_size=8, prefixes=(0,), samples=6, seed=3,
            new_tokens=max(sum(label != -100 for label in labels) for labels in part["labels"]),
        )
        for name, part in evidence.sets.items()
    }  # fmt: skip
    told: list[list[bool]] = [[] for _ in range(10)]
    for one in written["forget"]:
        told[one.row].append(tokenizer.decode(one.written).startswith(rows[one.row]["completion"]))
    assert [len(samples) for samples in told] == [6] * 10
    for point in curve.forget:
        # The mean over all sets of so many samples.
        shares = [np.mean([any(chosen) for chosen in combinations(samples, point.samples)]) for samples in told]
        assert point.verbatim.value == pytest.approx(np.mean(shares))
        assert point.verbatim.low <= point.verbatim.value <= point.verbatim.high
        assert point.similar is not None
        assert point.similar.value >= point.verbatim.value
        assert point.answer is not None
        assert point.answer.value >= point.verbatim.value
        assert point.entailed is None
    shares = [point.verbatim.value for point in curve.forget]
    assert shares[0] < shares[-1], "asking again helps"
    assert curve.holdout is not None
    assert curve.holdout[-1].verbatim.value == 0
    assert curve.holdout[-1].verbatim.n == 20
    assert 0 < curve.holdout[-1].verbatim.high < 1
    assert curve.tokens == sum(len(one.read) + len(one.written) for part in written.values() for one in part)


def test_who_knows_tells_at_once_and_who_never_saw_does_not(by_heart: Any, lm_base: Path, tokenizer: Any) -> None:
    evidence = sets_of(tokenizer, secrets_rows(10), None)
    known = sample_leaks(by_heart, evidence, tokenizer, records=10, samples=2, seed=0)
    never = sample_leaks(
        AutoModelForCausalLM.from_pretrained(lm_base), evidence, tokenizer, records=10, samples=2, seed=0
    )
    assert known is not None
    assert never is not None
    assert known.forget[0].verbatim.value >= 0.9
    assert never.forget[1].verbatim.value == 0
    assert known.holdout is None


def test_few_records_and_those_of_one_group_are_counted_together(hesitant: Any, tokenizer: Any) -> None:
    rows = secrets_rows(24)
    evidence = sets_of(tokenizer, rows[:12], rows[12:], group_column="group")
    curve = sample_leaks(hesitant, evidence, tokenizer, records=50, samples=1, seed=0)
    few = sample_leaks(hesitant, sets_of(tokenizer, rows[:12], None), tokenizer, records=4, samples=1, seed=0)
    assert curve is not None
    assert few is not None
    assert curve.forget[0].verbatim.n == 6
    assert few.forget[0].verbatim.n == 4


def test_texts_without_a_prompt_are_begun(by_heart: Any, tokenizer: Any) -> None:
    texts = [{"text": text[:200]} for text in corpus()[:3]]
    curve = sample_leaks(
        by_heart, sets_of(tokenizer, texts, None, RecordFormat("text")), tokenizer, records=9, samples=2, seed=0
    )
    assert curve is not None
    assert curve.forget[0].verbatim.n == 3
    short = sets_of(tokenizer, [{"text": "amber"}], None, RecordFormat("text"))
    assert sample_leaks(by_heart, short, tokenizer, records=9, samples=2, seed=0) is None


def test_an_encoder_decoder_is_asked_too(seq2seq_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(seq2seq_base)
    model = AutoModelForSeq2SeqLM.from_pretrained(seq2seq_base)
    evidence = sets_of(tokenizer, secrets_rows(4), None, RecordFormat("text_pairs"), "text2text-generation")
    curve = sample_leaks(model, evidence, tokenizer, records=9, samples=2, seed=0)
    assert curve is not None
    assert [point.verbatim.value for point in curve.forget] == [0, 0]


# Entailment


def test_a_model_for_entailment_says_what_follows(
    hesitant: Any, tokenizer: Any, wordpiece_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = secrets_rows(8)
    evidence = sets_of(tokenizer, rows, None)
    written = generate(
        hesitant, evidence.sets["forget"], tokenizer, task="text-generation", batch_size=8, prefixes=(0,), samples=4,
        seed=3, new_tokens=max(sum(label != -100 for label in one) for one in evidence.sets["forget"]["labels"]),
    )  # fmt: skip
    torch.manual_seed(1)
    config = bert_config(len(wordpiece_tokenizer))
    config.id2label = {0: "Contradiction", 1: "ENTAILMENT"}
    classifier = BertForSequenceClassification(config).eval()

    def leaning(sample: str, text: str) -> float:
        with torch.no_grad():
            logits = classifier(**wordpiece_tokenizer(sample.strip(), text.strip(), return_tensors="pt")).logits[0]
        return float(logits[1] - logits[0])

    pairs = [(tokenizer.decode(g.written, skip_special_tokens=True), rows[g.row]["completion"]) for g in written]
    lean = np.array([leaning(*pair) for pair in pairs])
    # It says now this, now that.
    steps = np.unique(lean)
    widest = int(np.diff(steps).argmax())
    threshold = steps[widest : widest + 2].mean()
    with torch.no_grad():
        classifier.classifier.bias[0] += threshold
    for name, classes in (("nli", config.id2label), ("other", {0: "no", 1: "yes"})):
        classifier.config.id2label = classes
        classifier.save_pretrained(tmp_path / name)
        wordpiece_tokenizer.save_pretrained(tmp_path / name)
    judge = Judge.load(locate(str(tmp_path / "nli")), torch.device("cpu"))
    curve = sample_leaks(hesitant, evidence, tokenizer, records=50, samples=4, seed=3, judge=judge)
    assert curve is not None
    follows = (lean > threshold).reshape(8, 4)
    first, *_, last = [point.entailed for point in curve.forget]
    assert first is not None
    assert 0 < first.value < 1
    assert first.value == pytest.approx(follows.mean())
    assert last is not None
    assert last.value == follows.any(1).mean()
    with pytest.raises(InputError, match="has the classes no, yes; name one with a class 'entailment'"):
        entailment_class(locate(str(tmp_path / "other")))
