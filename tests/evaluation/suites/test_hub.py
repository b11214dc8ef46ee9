"""The suites from the Hub: configurations and splits as their authors uploaded them."""

import random
from pathlib import Path

import pytest
from datasets import Dataset
from huggingface_hub import HfApi

from hf_unlearn.cli import main
from hf_unlearn.evaluation.benchmarks.suites.suite import SUITE_FILE, SuiteReport

from ...conftest import TOKEN
from ...support.suites import sentence


def test_muse_and_knowundo_come_from_the_hub(
    owner: HfApi, unlearned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    draw = random.Random(6)

    def rows(*columns: str) -> Dataset:
        return Dataset.from_list([{column: sentence(draw, 5) for column in columns} for _ in range(3)])

    def push(repo: str, config: str, split: str, part: Dataset) -> None:
        part.push_to_hub(f"owner/{repo}", config, split=split, token=TOKEN)

    push("muse", "verbmem", "forget", rows("prompt", "gt"))
    for split in ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"):
        push("muse", "knowmem", split, rows("question", "answer"))
    for split in ("forget", "holdout"):
        push("muse", "privleak", split, rows("text"))
    for split in ("unlearn", "retention"):
        lists = {part: rows("text", "labels").to_list() for part in ("train", "val")}
        push("knowundo", "privacy", split, Dataset.from_list([lists]))
    argv = ["--model_name_or_path", str(unlearned), "--use_cpu", "--output_dir"]
    assert main(["suite", "muse", "--data", "owner/muse", *argv, str(tmp_path / "muse")]) == 0
    assert (
        main(["suite", "knowundo", "--domain", "privacy", "--data", "owner/knowundo", *argv, str(tmp_path / "k")]) == 0
    )
    for name, repo in (("muse", "owner/muse"), ("k", "owner/knowundo")):
        report = SuiteReport.load(tmp_path / name / SUITE_FILE)
        commit = owner.dataset_info(repo).sha
        assert (report.data.name, report.data.revision) == (repo, commit)
        assert {score.records for score in report.scores["unlearned"]} <= {3, 6}
