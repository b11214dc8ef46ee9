"""WMDP on a made set in its authors' layout, asked by the harness; its accuracy against the likeliest letter."""

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.cli import main
from hf_unlearn.evaluation.benchmarks.suites.suite import SUITE_FILE, SuiteReport

from ...support.suites import sentence, write

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs lm_eval; pip install 'hf_unlearn[lm-eval]'"
)
SUBJECTS = {"wmdp-bio": "biology", "wmdp-chem": "chemistry", "wmdp-cyber": "cybersecurity"}


@pytest.fixture(scope="module")
def wmdp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("wmdp"), random.Random(3)
    for number, name in enumerate(SUBJECTS):
        rows = [
            {
                "question": sentence(draw, 4),
                "choices": [sentence(draw, 1) for _ in range(4)],
                "answer": draw.randrange(4),
            }
            for _ in range(8 + 4 * number)
        ]
        write(folder, f"{name}/test.json", rows)
    return folder


def description(config: str) -> str:
    """What the harness says before the questions."""
    import lm_eval

    file = Path(lm_eval.__file__).parent / "tasks" / "wmdp" / f"{config.replace('-', '_')}.yaml"
    return yaml.safe_load(file.read_text())["description"]


def likeliest_letter(model: Any, tokenizer: Any, prompt: str) -> int:
    found, given = [], len(tokenizer(prompt)["input_ids"])
    for letter in "ABCD":
        ids = tokenizer(f"{prompt} {letter}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            log_p = model(ids).logits[0, :-1].log_softmax(-1)
        found.append(float(log_p[range(given - 1, ids.shape[1] - 1), ids[0, given:]].sum()))
    return int(np.argmax(found))


@needs_lm_eval
def test_the_accuracy_by_subject_is_that_of_the_likeliest_letter(
    wmdp: Path, unlearned: Path, retrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    argv = ["suite", "wmdp", "--data", str(wmdp), "--model_name_or_path", str(unlearned), "--use_cpu"]
    argv += ["--original_model", str(retrained), "--output_dir", str(tmp_path / "out")]
    assert main(argv) == 0
    report = SuiteReport.load(tmp_path / "out" / SUITE_FILE)
    assert list(report.scores) == ["original", "unlearned"]
    for arm, folder in (("original", retrained), ("unlearned", unlearned)):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        found = []
        for config, subject in SUBJECTS.items():
            hits = []
            for row in json.loads((wmdp / config / "test.json").read_text()):
                listed = "".join(f"{letter}. {text}\n" for letter, text in zip("ABCD", row["choices"], strict=True))
                prompt = f"{description(config)}{row['question']}\n{listed}Answer:"
                hits.append(likeliest_letter(model, tokenizer, prompt) == row["answer"])
            found.append((f"{subject}: accuracy", sum(hits), len(hits)))
        found.append(("all questions: accuracy", sum(one[1] for one in found), sum(one[2] for one in found)))
        for score, (name, right, n) in zip(report.scores[arm], found, strict=True):
            exact = stats.binomtest(right, n).proportion_ci(method="exact")
            assert (score.name, score.records) == (name, n)
            assert (score.value, score.low, score.high) == pytest.approx((right / n, exact.low, exact.high))
        assert 0 < found[-1][1] < found[-1][2]


def test_without_the_harness_or_with_other_questions_it_is_refused(
    wmdp: Path,
    unlearned: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    there = True
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: (find("json") if there else None) if name == "lm_eval" else find(name, *rest),
    )
    for name in SUBJECTS:
        write(tmp_path, f"data/{name}.json", [{"question": "a", "choices": ["b", "c"], "answer": 0}])
    argv = ["suite", "wmdp", "--data", str(tmp_path / "data"), "--model_name_or_path", str(unlearned)]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    assert "four choices" in capsys.readouterr().err
    there = False
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    assert "pip install 'hf_unlearn[lm-eval]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
