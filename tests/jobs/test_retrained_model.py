"""A model that is named as retrained: its own record is asked before any model is loaded."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import HfApi

from hf_unlearn import InputError, Records, RetainedSplit, UnlearningReport, split_retained
from hf_unlearn.data.arrow_tables import AnyDataset
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.files import save_json
from hf_unlearn.jobs.preparation import prepare_run
from hf_unlearn.models.location import ModelSource, locate
from hf_unlearn.models.training_record import RECORD_FILE, DataSource, LeftOut, TrainingRecord, load_record
from hf_unlearn.training.retrained_model import Retraining

from ..conftest import secrets_rows
from ..training.test_trainer import trainer
from .test_jobs import command  # noqa: F401

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
DATA = DataSource("acme/messages", None, "train", "a" * 40)
ORIGINAL = ModelSource("acme/router", "b" * 40)
RECORD = TrainingRecord(
    "text-generation", None, "acme/base", "c" * 40, DATA, {}, None, 0, 3.0, 30, 1, 1000, 1e9, 1.0
)  # fmt: skip


def rows(first: int, last: int) -> Records:
    return Records.rows(list(range(first, last)))


def split(dataset: AnyDataset, request: Records, key: bytes = KEY, **more: Any) -> RetainedSplit:
    return split_retained(dataset, request, digest_key=key, duplicates=None, **more)


@pytest.fixture
def saw(tmp_path: Path) -> Callable[..., str]:
    """What is said against a record beside a model, empty where nothing is."""

    def said(asked: RetainedSplit, **of_record: Any) -> str:
        save_json(replace(RECORD, **of_record), tmp_path / RECORD_FILE)
        try:
            Retraining.on(asked, DATA, ORIGINAL).check(ModelSource(str(tmp_path)))
        except InputError as refused:
            return str(refused)
        return ""

    return said


def trained_on(part: AnyDataset, **more: Any) -> DataSource:
    assert isinstance(part, Dataset)
    return replace(DATA, fingerprint=part._fingerprint, rows=len(part), **more)


def left_out(parts: RetainedSplit) -> LeftOut:
    assert parts.forgotten is not None
    return LeftOut(parts.audit.forget_rows, parts.forgotten.records, parts.forgotten.key_check)


@pytest.mark.parametrize("holdout", [None, rows(50, 60)])
def test_a_training_on_all_of_the_data_is_told_by_its_fingerprint_or_its_rows(saw: Any, holdout: Any) -> None:
    whole = Dataset.from_list(secrets_rows())
    asked = split(whole, rows(0, 10), holdout=holdout)
    seen = [trained_on(whole)]
    if holdout is not None:
        without_holdout = split(whole, holdout).retained
        seen.append(trained_on(without_holdout))
    for data in seen:
        assert "trained on all of the data" in saw(asked, dataset=data)
        # another name, and another machine
        assert "trained on all of the data" in saw(asked, dataset=replace(data, name="copy", revision=None))
        elsewhere = replace(data, fingerprint="0" * 16)
        assert "trained on all of the data" in saw(asked, dataset=elsewhere, left_out=LeftOut())
    assert "60 rows of the data" in saw(asked, dataset=replace(DATA, rows=60))
    assert saw(asked, dataset=replace(DATA, rows=60, revision="d" * 40)) == "", "another version of the data"
    assert saw(asked, dataset=DataSource(rows=60)) == "", "nobody knows which data"
    streamed = replace(DATA, rows=None)
    assert "trained on all of the data" in saw(asked, dataset=streamed, left_out=LeftOut())
    assert saw(asked, dataset=streamed) == ""


def test_a_training_on_the_retained_records_is_one_however_they_are_named(saw: Any) -> None:
    whole = Dataset.from_list(secrets_rows())
    asked = split(whole, rows(0, 10), holdout=rows(50, 60))
    assert saw(asked, dataset=trained_on(asked.retained)) == ""
    assert saw(asked, dataset=replace(DATA, rows=40)) == ""
    assert saw(asked, dataset=replace(DATA, rows=50)) == "", "H was trained on, and not S"
    by_id = split(whole, Records.ids("id", [f"p-{i:03d}" for i in range(10)]))
    assert saw(asked, dataset=replace(DATA, rows=50), left_out=left_out(by_id)) == ""


def test_a_training_without_other_records_saw_these(saw: Any) -> None:
    whole = Dataset.from_list(secrets_rows())
    asked = split(whole, rows(0, 10))
    for request in (rows(10, 20), rows(0, 9), rows(5, 15)):
        other = split(whole, request)
        data = trained_on(other.retained)
        assert "left out other records" in saw(asked, dataset=data, left_out=left_out(other))
        # without the digest only its size can tell
        assert ("51 rows of the data" in saw(asked, dataset=data)) == (len(other.retained) == 51)
        unknown = left_out(split(whole, request, OTHER_KEY))
        assert ("51 rows" in saw(asked, dataset=data, left_out=unknown)) == (len(other.retained) == 51)


def test_a_training_that_began_at_the_original_saw_what_it_saw(saw: Any) -> None:
    asked = split(Dataset.from_list(secrets_rows()), rows(0, 10))
    began = {"base_model": ORIGINAL.name, "base_revision": ORIGINAL.revision}
    assert "began at the original" in saw(asked, dataset=trained_on(asked.retained), **began)


@pytest.mark.parametrize(
    ("job", "more"),
    [("run", {}), ("run", {"method": "auto"}), ("run", {"method": "dial"}), ("evaluate", {}), ("attack", {})],
)
def test_no_command_takes_a_model_that_was_trained_on_all(
    command: Any,  # noqa: F811
    lm_settings: dict[str, Any],
    without_weights: Path,
    tmp_path: Path,
    job: str,
    more: dict[str, Any],
) -> None:
    values = {**lm_settings, **more, "retrained_model": str(without_weights), "output_dir": str(tmp_path / "out")}
    code, _, err = command(job, values)
    assert code == 2
    assert f"The model '{without_weights}' is no retrained one: by its {RECORD_FILE} it was trained on all" in err
    assert "name a model that was trained on the retained records of this request" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_references_is_asked_too(
    command: Any,  # noqa: F811
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
) -> None:
    made = {**lm_settings, "max_steps": 1, "output_dir": str(tmp_path / "made")}
    assert command("references", made, "--seeds", "1")[0] == 0
    (reference,) = (tmp_path / "made" / "references").glob("retrained-*")
    record = load_record(locate(str(reference)))
    assert record is not None
    assert record.left_out is not None
    assert record.left_out.rows == 10
    shutil.copy(lm_original / RECORD_FILE, reference)
    values = {**lm_settings, "references": str(reference.parent), "output_dir": str(tmp_path / "out")}
    for job in ("run", "evaluate"):
        code, _, err = command(job, values)
        assert code == 2
        assert f"The model '{reference}' is no retrained one" in err


def test_what_train_writes_tells_one_request_from_another(
    command: Any,  # noqa: F811
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "others.txt").write_text("".join(f"p-{i:03d}\n" for i in range(10, 20)))
    for name, more in (("same", {}), ("other", {"forget_ids": str(tmp_path / "others.txt")})):
        training = {"output_dir": str(tmp_path / name), "train_on": "retained", "max_steps": 1}
        made = {**lm_settings, **more, "original": {**lm_settings["original"], **training}}
        code, _, err = command("train", made)
        assert code == 0, err
    values = {**lm_settings, "output_dir": str(tmp_path / "out")}
    code, _, err = command("evaluate", {**values, "retrained_model": str(tmp_path / "other")})
    assert code == 2
    assert "its training left out other records than those to forget" in err
    assert not (tmp_path / "out").exists()
    assert prepare_run(lm_settings).retraining.check(locate(str(tmp_path / "same"))) is not None
    (tmp_path / "same" / RECORD_FILE).unlink()
    assert command("evaluate", {**values, "retrained_model": str(tmp_path / "same")})[0] == 0
    warnings = UnlearningReport.load(tmp_path / "out" / REPORT_FILE).verdict.warnings
    assert warnings == ["Nothing shows what the retrained model was trained on: it has no training_record.json."]


def test_a_model_on_the_hub_is_asked_too(
    owner: HfApi,
    command: Any,  # noqa: F811
    lm_settings: dict[str, Any],
    without_weights: Path,
    tmp_path: Path,
) -> None:
    name = owner.create_repo("owner/not-retrained").repo_id
    owner.upload_folder(repo_id=name, folder_path=without_weights, allow_patterns=["*.json"])
    code, _, err = command("run", {**lm_settings, "retrained_model": name, "output_dir": str(tmp_path / "out")})
    assert code == 2
    assert f"The model '{name}' is no retrained one" in err


def test_a_trainer_asks_too(lm_base: Path, without_weights: Path, tmp_path: Path) -> None:
    parts = split(Dataset.from_list(secrets_rows(50)), rows(0, 10))
    report = trainer(tmp_path / "out", str(lm_base), parts).report
    data, named = DataSource("secrets.jsonl", None, "train"), str(without_weights)
    for retrained in ({"retrained": named}, {"more_retrained": [named]}):
        with pytest.raises(InputError, match="is no retrained one"):
            report(audit=parts.audit, dataset=data, **retrained)  # type: ignore[arg-type]
