"""Tasks of lm-evaluation-harness, an extra: local tasks on local data, so that no test needs the network."""

import importlib.util
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.cli import main
from hf_unlearn.data.encoding import RecordEncoder
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.harness import HarnessScore, harness_scores
from hf_unlearn.evaluation.report import UnlearningReport
from hf_unlearn.evaluation.statistics import Estimate

from ..conftest import WORDS, write_rows
from ..publishing.test_card import example_report
from ..support.texts import losses_of_texts

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs lm_eval; pip install 'hf_unlearn[lm-eval]'"
)


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {"question": f"The code of {i} is", "choices": [f" {word}" for word in draw.sample(WORDS, 3)], "answer": i % 3}
        for i in range(20)
    ]


@pytest.fixture
def colours(tmp_path: Path, questions: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of twenty questions with three answers each."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    settings = {
        "task": "colours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(write_rows(folder / "colours.jsonl", questions))}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "colours.yaml").write_text(yaml.safe_dump(settings))
    return folder / "colours.yaml"


@needs_lm_eval
def test_the_accuracy_is_that_of_the_likeliest_answer(
    lm_original: Path, colours: Path, questions: list[dict[str, Any]]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_original).train()
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    state = torch.get_rng_state()
    found = harness_scores(model, tokenizer, [str(colours)], batch_size=8, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    prompts, choices = ([row[name] for row in questions] for name in ("question", "choices"))

    class NoEnd(RecordEncoder):
        """The harness asks for the answer without the end of the text."""

        def __call__(self, batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
            out = super().__call__(batch, rows)
            for name in ("input_ids", "attention_mask", "labels"):
                out[name] = [values[:-1] for values in out[name]]
            return out

    encoder = NoEnd(tokenizer, RecordFormat("prompt_completion"), 128)
    losses = losses_of_texts(model, prompts, choices, encoder, batch_size=8)
    right = float(np.mean(losses.argmin(1) == [row["answer"] for row in questions]))
    (score,) = found
    assert (score.task, score.metric, score.value, score.n) == ("colours", "acc", right, 20)
    half = 1.959964 * math.sqrt(right * (1 - right) / 19)
    assert score.estimate is not None
    assert (score.estimate.low, score.estimate.high) == pytest.approx((right - half, right + half), abs=1e-6)


@needs_lm_eval
def test_a_tasks_own_settings_and_the_seed_count(
    lm_original: Path, colours: Path, questions: list[dict[str, Any]]
) -> None:
    """Open-unlearning reads its settings of the harness from where they are not, so that none has an effect."""
    settings = yaml.safe_load(colours.read_text())
    shown = [{**row, "question": f"Shown is {i}"} for i, row in enumerate(questions)]
    settings["dataset_kwargs"]["data_files"]["train"] = str(write_rows(colours.parent / "shown.jsonl", shown))
    colours.write_text(yaml.safe_dump({**settings, "num_fewshot": 2, "fewshot_split": "train"}))
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    tokenizer = AutoTokenizer.from_pretrained(lm_original)

    def read(seed: int) -> list[str]:
        texts: list[str] = []
        hook = model.register_forward_pre_hook(lambda _, args: texts.extend(tokenizer.batch_decode(args[0])))
        harness_scores(model, tokenizer, [str(colours)], batch_size=8, seed=seed)
        hook.remove()
        return texts

    first = read(5)
    assert {(text.count("Shown is"), text.count("The code of")) for text in first} == {(2, 1)}
    assert read(5) == first
    assert read(6) != first


@needs_lm_eval
def test_the_command_puts_each_model_to_the_tasks(
    lm_settings: dict[str, Any],
    lm_original: Path,
    lm_base: Path,
    colours: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**lm_settings, "lm_eval_tasks": [str(colours)], "use_cpu": True, "budget": 0.05}
    flags = ["--config", str(recipe(**settings)), "--output_dir"]
    assert main(["evaluate", *flags, str(tmp_path / "evaluation"), "--original_model", str(lm_base)]) == 0
    report = UnlearningReport.load(tmp_path / "evaluation" / "unlearning_report.json")
    assert list(report.harness) == ["original", "unlearned"]
    assert report.harness["original"] != report.harness["unlearned"]
    assert main(["run", *flags, str(tmp_path / "run")]) == 0
    ran = UnlearningReport.load(tmp_path / "run" / "unlearning_report.json")
    assert ran.harness["original"] == report.harness["unlearned"]
    assert "colours, n=20: acc" in capsys.readouterr().out
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| colours, n=20: acc | 0." in card
    assert str(tmp_path) not in card.split("## How to reproduce it")[0] + json.dumps(ran.to_dict())
    # a run that was cut off before the tasks goes on with them
    without = {**json.loads((tmp_path / "run" / "unlearning_report.json").read_text()), "harness": {}}
    (tmp_path / "run" / "unlearning_report.json").write_text(json.dumps(without))
    assert main(["run", *flags, str(tmp_path / "run")]) == 0
    assert UnlearningReport.load(tmp_path / "run" / "unlearning_report.json").harness == ran.harness


@needs_lm_eval
def test_a_task_that_there_is_not(
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**lm_settings, "lm_eval_tasks": ["no_such_task_"], "output_dir": str(tmp_path / "out")}
    for command in ("run", "evaluate"):
        assert main([command, "--config", str(recipe(**settings))]) == 2
        assert "knows no task 'no_such_task_'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_extra_or_for_a_classifier_it_is_refused(
    lm_settings: dict[str, Any],
    lm_original: Path,
    classifier_settings: dict[str, Any],
    classifier_original: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {"lm_eval_tasks": ["hellaswag"], "output_dir": str(tmp_path / "out")}
    assert main(["run", "--config", str(recipe(**classifier_settings, **asked))]) == 2
    assert "needs a causal language model" in capsys.readouterr().err
    # As if it were not installed.
    monkeypatch.delitem(sys.modules, "lm_eval", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else find(name, *rest)
    )
    assert main(["evaluate", "--config", str(recipe(**lm_settings, **asked))]) == 2
    assert "pip install 'hf_unlearn[lm-eval]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_card_and_the_report_hold_the_scores(tmp_path: Path) -> None:
    from dataclasses import replace

    from hf_unlearn.publishing.card import render_card

    scores = [
        HarnessScore("colours", "acc", 0.4, Estimate(0.4, 0.18, 0.62, 20), 20),
        HarnessScore("x", "f1", 1.0, None, 3),
    ]
    report = replace(example_report("text-generation"), harness={"original": scores, "unlearned": scores})
    report.save(tmp_path / "report.json")
    assert UnlearningReport.load(tmp_path / "report.json").harness == report.harness
    card = render_card(report, "name")
    assert (
        "| colours, n=20: acc | 0.400 [0.180, 0.620] | 0.400 [0.180, 0.620] |\n| x, n=3: f1 | 1.000 | 1.000 |" in card
    )
    assert "lm-evaluation-harness" not in render_card(example_report("text-generation"), "name")
