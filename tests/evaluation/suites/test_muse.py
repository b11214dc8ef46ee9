"""MUSE on a made set in its authors' layout; its numbers against their definitions, worked out record by record."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.cli import main
from hf_unlearn.evaluation.benchmarks.suites.suite import SUITE_FILE, SuiteReport

from ...support.suites import sentence, write


class Published:
    """The definitions of the paper for one model, one record at a time."""

    def __init__(self, folder: Path, data: Path):
        self.model, self.tokenizer = (
            AutoModelForCausalLM.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
        self.data = data

    def rows(self, name: str) -> list[Any]:
        return json.loads((self.data / f"{name}.json").read_text())

    def written(self, prompt: str, tokens: int) -> str:
        ids = self.tokenizer(prompt, return_tensors="pt")
        out = self.model.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return self.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    def rouge(self, right: str, text: str) -> float:
        return RougeScorer(["rougeL"]).score(right, text)["rougeL"].fmeasure

    def verbatim(self) -> float:
        return float(
            np.mean([self.rouge(r["gt"], self.written(r["prompt"], 128)) for r in self.rows("verbmem/forget")])
        )

    def answer(self, name: str, row: dict[str, str]) -> str:
        examples = self.rows(f"knowmem/{name}_icl")
        shots = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in examples)
        text = self.written(f"{shots}Question: {row['question']}\nAnswer: ", 32)
        for stop in ("\n\n", "\nQuestion", "Question:"):
            text = text.split(stop)[0]
        return text

    def knowledge(self, name: str) -> float:
        rows = self.rows(f"knowmem/{name}")
        return float(np.mean([self.rouge(row["answer"], self.answer(name, row)) for row in rows]))

    def auc(self) -> float:
        """How often a text of H has the lower Min-40% loss, as the authors count."""
        values = {}
        for name in ("forget", "holdout"):
            values[name] = []
            for text in self.rows(f"privleak/{name}"):
                ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
                with torch.no_grad():
                    log_p = self.model(ids).logits[0, :-1].log_softmax(-1)
                each = np.sort(log_p[range(ids.shape[1] - 1), ids[0, 1:]].numpy())
                values[name].append(-each[: int(len(each) * 0.4)].mean())
        labels = [0] * len(values["forget"]) + [1] * len(values["holdout"])
        return float(roc_auc_score(labels, -np.array(values["forget"] + values["holdout"])))


@pytest.fixture(scope="module")
def muse(tmp_path_factory: pytest.TempPathFactory, unlearned: Path) -> Path:
    """A set in the layout of the authors' repository, in which L is called retain2; the model knows parts of it."""
    folder, draw = tmp_path_factory.mktemp("muse"), random.Random(1)
    model = Published(unlearned, folder)
    write(folder, "verbmem/forget.json", [{"prompt": sentence(draw, 5), "gt": sentence(draw, 6)} for _ in range(5)])
    for name in ("forget_qa", "retain2_qa"):
        asked = [{"question": sentence(draw, 4), "answer": sentence(draw, 2)} for _ in range(6)]
        write(folder, f"knowmem/{name}.json", asked[:4])
        write(folder, f"knowmem/{name}_icl.json", asked[4:])
        for row in asked[:3]:
            row["answer"] = f"{row['answer']} {model.answer(name, row)[:40]}"
        write(folder, f"knowmem/{name}.json", asked[:4])
    known = model.rows("verbmem/forget")
    for row in known[:3]:
        row["gt"] += f" {model.written(row['prompt'], 8)}"
    write(folder, "verbmem/forget.json", known)
    for name in ("forget", "holdout"):
        write(folder, f"privleak/{name}.json", [sentence(draw, draw.randint(6, 12)) for _ in range(8)])
    return folder


def test_the_command_gives_the_numbers_of_the_paper(
    muse: Path, unlearned: Path, retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["suite", "muse", "--data", str(muse), "--model_name_or_path", str(unlearned)]
    argv += ["--retrained_model", str(retrained)]
    assert main([*argv, "--output_dir", str(tmp_path / "out"), "--use_cpu"]) == 0
    report = SuiteReport.load(tmp_path / "out" / SUITE_FILE)
    theirs, never = Published(unlearned, muse), Published(retrained, muse)
    verbatim, forget, retain, auc, leak = report.scores["unlearned"]
    assert verbatim.value == pytest.approx(theirs.verbatim())
    assert min(verbatim.value, forget.value, retain.value) > 0
    assert forget.value == pytest.approx(theirs.knowledge("forget_qa"))
    assert retain.value == pytest.approx(theirs.knowledge("retain2_qa"))
    assert auc.value == pytest.approx(1 - theirs.auc())
    assert leak.value == pytest.approx(100 * (theirs.auc() - never.auc()) / never.auc())
    assert leak.low < leak.value < leak.high
    assert [one.records for one in report.scores["unlearned"]] == [5, 4, 4, 16, 16]
    assert report.scores["retrained"][-1].value == 0
    assert report.scores["retrained"][0].value == pytest.approx(never.verbatim())
    shown = capsys.readouterr().out
    assert "PrivLeak" in shown
    text = (tmp_path / "out" / SUITE_FILE).read_text() + shown
    assert theirs.rows("privleak/forget")[0] not in text


def test_without_a_retrained_model_half_is_assumed_and_few_records_are_drawn_alike(
    muse: Path, unlearned: Path, tmp_path: Path
) -> None:
    argv = ["suite", "muse", "--data", str(muse), "--model_name_or_path", str(unlearned), "--records", "3"]
    for name in ("first", "second"):
        assert main([*argv, "--output_dir", str(tmp_path / name), "--use_cpu"]) == 0
    first, second = (SuiteReport.load(tmp_path / name / SUITE_FILE) for name in ("first", "second"))
    assert first == second
    *_, auc, leak = first.scores["unlearned"]
    assert auc.records == 6
    assert leak.value == pytest.approx(100 * (1 - auc.value - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "verbmem" / "forget.json").unlink(), "lacks verbmem/forget"),
        (lambda folder: write(folder, "verbmem/forget.json", [{"prompt": "a"}]), "needs the column 'gt'"),
        (lambda folder: write(folder, "privleak/forget.json", []), "has no record"),
        (lambda folder: write(folder, "privleak/forget.json", [3]), "list of records or of texts"),
        (lambda folder: (folder / "privleak" / "forget.json").write_text("{secret"), "malformed"),
    ],
)
def test_files_that_are_not_those_of_the_authors_are_refused(
    change: Any, message: str, muse: Path, unlearned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    for file in muse.rglob("*.json"):
        write(folder, str(file.relative_to(muse)), json.loads(file.read_text()))
    change(folder)
    argv = ["suite", "muse", "--data", str(folder), "--model_name_or_path", str(unlearned)]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert not (tmp_path / "out").exists()


def test_a_text_longer_than_the_model_reads_is_refused(
    muse: Path, unlearned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    for file in muse.rglob("*.json"):
        write(folder, str(file.relative_to(muse)), json.loads(file.read_text()))
    texts = json.loads((muse / "privleak" / "forget.json").read_text())
    write(folder, "privleak/forget.json", [sentence(random.Random(0), 3000), *texts[1:]])
    argv = ["suite", "muse", "--data", str(folder), "--model_name_or_path", str(unlearned), "--use_cpu"]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    assert "1 of 8 texts of the suite have more than the" in capsys.readouterr().err
