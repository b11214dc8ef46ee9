"""KnowUnDo on a made set in its authors' layout; its numbers against their definitions, record by record."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.cli import main
from hf_unlearn.evaluation.benchmarks.suites.suite import SUITE_FILE, SuiteReport

from ...support.suites import sentence, write


@pytest.fixture(scope="module")
def knowundo(tmp_path_factory: pytest.TempPathFactory, unlearned: Path) -> Path:
    """One row with two lists, as on the Hub; the model writes a part of some answers. One request is too long."""
    folder, draw = tmp_path_factory.mktemp("knowundo"), random.Random(4)
    model = Model(unlearned)
    for name in ("unlearn", "retention"):
        rows = [{"text": f"{sentence(draw, 4)}?", "labels": sentence(draw, draw.randint(3, 6))} for _ in range(5)]
        for row in rows[:3]:
            row["labels"] = model.written(f"{row['text']}\n\n", 6) + f" {row['labels']}"
        rows.append({"text": sentence(draw, 200), "labels": "never read"})
        content = {"train": [{"text": "unused", "labels": "unused"}], "val": rows}
        write(folder, f"privacy/{name}.json", content if name == "unlearn" else [content])
    return folder


class Model:
    """One record at a time."""

    def __init__(self, folder: Path):
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def written(self, prompt: str, tokens: int) -> str:
        ids = self.tokenizer(prompt, return_tensors="pt")
        out = self.model.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return self.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    def told(self, text: str, labels: str) -> tuple[float, float] | None:
        """The mean log-likelihood of the tokens after the request, and the share of them that is the likeliest."""
        ids = self.tokenizer(f"{text}\n\n{labels}", return_tensors="pt")["input_ids"][:, :256]
        given = len(self.tokenizer(text)["input_ids"])
        if given >= ids.shape[1]:
            return None
        with torch.no_grad():
            log_p = self.model(ids).logits[0, given - 1 : -1].double().log_softmax(-1)
        wanted = ids[0, given:]
        own = log_p[range(len(wanted)), wanted]
        return float(own.mean()), float((log_p.argmax(-1) == wanted).double().mean())


def test_success_and_perplexity_are_those_of_the_paper(knowundo: Path, unlearned: Path, tmp_path: Path) -> None:
    argv = ["suite", "knowundo", "--data", str(knowundo), "--domain", "privacy", "--use_cpu"]
    assert main([*argv, "--model_name_or_path", str(unlearned), "--output_dir", str(tmp_path / "out")]) == 0
    report, model = SuiteReport.load(tmp_path / "out" / SUITE_FILE), Model(unlearned)
    scores = {score.name: score for score in report.scores["unlearned"]}
    for name, letter in (("unlearn", "S"), ("retention", "L")):
        content = json.loads((knowundo / "privacy" / f"{name}.json").read_text())
        rows = (content if name == "unlearn" else content[0])["val"]
        found = [one for row in rows if (one := model.told(row["text"], row["labels"])) is not None]
        assert len(found) == 5
        log_p, accuracy = (np.mean(part) for part in zip(*found, strict=True))
        assert 0 < accuracy < 1
        assert scores[f"{name} success ({letter})"].value == pytest.approx(
            1 - accuracy if name == "unlearn" else accuracy
        )
        perplexity = scores[f"perplexity of {letter}"]
        assert perplexity.value == pytest.approx(math.exp(-log_p), rel=1e-5)
        assert perplexity.low < perplexity.value < perplexity.high
        scorer = RougeScorer(["rougeL"])
        texts = [(row["labels"], model.written(f"{row['text']}\n\n", 128)) for row in rows]
        rouge = np.mean([scorer.score(*pair)["rougeL"].fmeasure for pair in texts])
        assert rouge > 0
        assert scores[f"answers about {letter}, ROUGE-L F1"].value == pytest.approx(rouge)


def test_a_sentence_before_the_request_comes_from_a_file(knowundo: Path, unlearned: Path, tmp_path: Path) -> None:
    write(tmp_path, "prompts.json", {"privacy": "Be discreet.\n{query}"})
    argv = ["suite", "knowundo", "--data", str(knowundo), "--domain", "privacy", "--use_cpu", "--records", "4"]
    argv += ["--model_name_or_path", str(unlearned), "--prompts", str(tmp_path / "prompts.json")]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 0
    report, model = SuiteReport.load(tmp_path / "out" / SUITE_FILE), Model(unlearned)
    rows = json.loads((knowundo / "privacy" / "unlearn.json").read_text())["val"]
    found = [model.told(f"Be discreet.\n{row['text']}", row["labels"]) for row in rows]
    drawn = np.sort(np.random.default_rng(42).choice(len(rows), 4, replace=False))
    accuracy = np.mean([found[i][1] for i in drawn if found[i] is not None])
    assert report.scores["unlearned"][0].value == pytest.approx(1 - accuracy)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--domain: copyright or privacy"),
        (["--domain", "copyright"], "lacks copyright/unlearn"),
        (["--domain", "privacy", "--records", "0"], "--records 0 must be at least 1"),
        (["--domain", "privacy", "--prompts", "none.json"], "none.json"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(
    flags: list[str],
    message: str,
    knowundo: Path,
    unlearned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    argv: list[Any] = ["suite", "knowundo", "--data", str(knowundo), "--model_name_or_path", str(unlearned), *flags]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_and_anothers_domain_are_refused(
    knowundo: Path,
    seq2seq_base: Path,
    unlearned: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--data", str(knowundo), "--domain", "privacy"]
    assert main(["suite", "knowundo", *argv, "--model_name_or_path", str(seq2seq_base)]) == 2
    assert "language models that write" in capsys.readouterr().err
    assert main(["suite", "muse", *argv, "--model_name_or_path", str(unlearned)]) == 2
    assert "--domain is for knowundo" in capsys.readouterr().err
