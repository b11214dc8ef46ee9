"""When a training first used each row, and what a rewind to a checkpoint may claim because of it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from safetensors import safe_open
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_unlearn import Records, UnlearningReport, UnlearningTrainer, split_retained
from hf_unlearn.cli import main
from hf_unlearn.evaluation.verdict import Verdict
from hf_unlearn.models.training_record import DataSource
from hf_unlearn.training.first_use_of_rows import FIRST_USE_FILE, NEVER

from ..conftest import note_rows, secrets_rows
from .test_processes import ROOT, launched
from .test_trainer import StopAt, config

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

ROWS = 50
SAVED = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 20}


def first_use(checkpoint: Path) -> np.ndarray:
    with safe_open(checkpoint / FIRST_USE_FILE, framework="numpy") as file:
        return file.get_tensor("steps")


def checkpoints(folder: Path) -> dict[int, Path]:
    return {int(path.name.rpartition("-")[2]): path for path in sorted(folder.glob("checkpoint-*"))}


def plain(folder: Path, base: Path, data: Dataset | None = None, **settings: Any) -> UnlearningTrainer:
    own = {name: settings.pop(name) for name in ("callbacks",) if name in settings}
    data = data or Dataset.from_list(secrets_rows()[:ROWS])
    return UnlearningTrainer(str(base), config(folder, **{**SAVED, **settings}), data, **own)


# What is noted


@pytest.mark.parametrize("sampling", ["sequential", "random"])
def test_what_is_noted_is_what_the_model_read(lm_base: Path, tmp_path: Path, sampling: str) -> None:
    run = plain(
        tmp_path, lm_base, train_sampling_strategy=sampling, gradient_accumulation_steps=2, max_steps=9,
        dataloader_num_workers=1,
    )  # fmt: skip
    ids = {tuple(example["input_ids"]): example["row"] for example in run.train_dataset}
    expected = np.full(ROWS, NEVER)
    compute_loss = run.compute_loss

    def spy(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        assert set(inputs) == {"input_ids", "attention_mask", "labels"}
        for read, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            row = ids[tuple(read[mask.bool()].tolist())]
            expected[row] = min(expected[row], run.state.global_step + 1)
        return compute_loss(model, inputs, *args, **kwargs)

    run.compute_loss = spy  # type: ignore[method-assign]
    run.train()
    found = checkpoints(tmp_path)
    assert sorted(found) == list(range(1, 10))
    for step, folder in found.items():
        assert (first_use(folder) == np.where(expected <= step, expected, NEVER)).all()
    assert (first_use(found[9]) <= 7).all(), "an epoch of 50 rows in steps of 8"
    if sampling == "sequential":
        assert (first_use(found[9]) == np.arange(ROWS) // 8 + 1).all()


def test_a_row_that_makes_several_examples_counts_from_the_first(wordpiece_base: Path, tmp_path: Path) -> None:
    notes = [{"text": " ".join(row["text"] for row in note_rows()[i : i + 10])} for i in range(2)]
    run = UnlearningTrainer(
        AutoModelForMaskedLM.from_pretrained(wordpiece_base),
        config(
            tmp_path,
            **SAVED,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=1,
            max_steps=-1,
            num_train_epochs=1,
        ),
        Dataset.from_list(notes),
        processing_class=AutoTokenizer.from_pretrained(wordpiece_base),
    )
    parts = run.train_dataset["row"][:]
    assert parts.count(0) > 1
    run.train()
    assert first_use(tmp_path / "checkpoint-1").tolist() == [1, NEVER]
    assert first_use(tmp_path / f"checkpoint-{run.state.max_steps}")[1] == parts.count(0) + 1


def test_an_order_that_follows_from_the_records_proves_nothing(lm_base: Path, tmp_path: Path) -> None:
    plain(tmp_path / "lengths", lm_base, train_sampling_strategy="group_by_length", max_steps=1).train()
    stream = Dataset.from_list(secrets_rows()[:ROWS]).to_iterable_dataset()
    plain(tmp_path / "stream", lm_base, stream, max_steps=1).train()  # type: ignore[arg-type]
    for name in ("lengths", "stream"):
        assert (tmp_path / name / "checkpoint-1" / "model.safetensors").is_file()
        assert not (tmp_path / name / "checkpoint-1" / FIRST_USE_FILE).exists()


def test_an_interruption_changes_nothing_in_it(lm_base: Path, tmp_path: Path) -> None:
    plain(tmp_path / "whole", lm_base).train()
    with pytest.raises(KeyboardInterrupt):
        plain(tmp_path / "cut", lm_base, callbacks=[StopAt(3)]).train()
    plain(tmp_path / "cut", lm_base).train(resume_from_checkpoint=True)
    for step, folder in checkpoints(tmp_path / "whole").items():
        again = tmp_path / "cut" / folder.name / FIRST_USE_FILE
        assert again.read_bytes() == (folder / FIRST_USE_FILE).read_bytes(), step
    # What a checkpoint of another training had used by then is not known here.
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "other" / "checkpoint-3")
    plain(tmp_path / "other", lm_base, learning_rate=1e-3).train(resume_from_checkpoint=True)
    assert not (tmp_path / "other" / "checkpoint-6" / FIRST_USE_FILE).exists()


@pytest.mark.slow
def test_killed_the_same_command_notes_the_same(
    lm_settings: dict[str, Any], tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    original = {**lm_settings["original"], "num_train_epochs": 3, **SAVED, "use_cpu": True}
    path = recipe(**{**lm_settings, "original": original})
    done = launched(
        str(ROOT / "tests" / "support" / "killed.py"), str(tmp_path), "random:2", "train", "--config", str(path)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folders = int(re.findall(r"killed in (\d+) folders", done.stdout)[0])
    for i in range(folders):
        for folder in (tmp_path / "whole").glob("checkpoint-*"):
            again = tmp_path / str(i) / folder.name / FIRST_USE_FILE
            assert again.read_bytes() == (folder / FIRST_USE_FILE).read_bytes()


# What it proves


def recorded(folder: Path, base: Path, data: Dataset, **settings: Any) -> Path:
    """The folder of an original with its record, trained for one pass in five steps, all of them kept."""
    run = plain(folder, base, data, **{"max_steps": 5, "per_device_train_batch_size": 10, **settings})
    run.train()
    run.record = run.training_record(DataSource(fingerprint=data._fingerprint, rows=len(data)))
    run.save_model()
    return folder


def rewound(
    checkpoint: Path, data: Dataset, forget: list[int], out: Path, original: Path | None = None, **settings: Any
) -> Verdict:
    """What a rewind to a checkpoint may say."""
    split = split_retained(data, Records.rows(forget), **settings)
    named = {"method": "rewind", "rewind_checkpoint": str(checkpoint), "max_steps": 1}
    run = UnlearningTrainer(str(original or checkpoint.parent), config(out, **named), split.retained, split.forget)
    run.train()
    assert run.report(audit=split.audit).verdict.word == "undecided", "nobody says which rows S are"
    return run.report(audit=split.audit, forget_rows=split.forget_rows).verdict


@pytest.mark.parametrize("sampling", [pytest.param("sequential", marks=pytest.mark.slow), "random"])
def test_a_checkpoint_is_exact_up_to_the_step_that_used_a_row_of_s(
    lm_base: Path, tmp_path: Path, sampling: str
) -> None:
    data = Dataset.from_list(secrets_rows()[:ROWS])
    original = recorded(tmp_path / "original", lm_base, data, train_sampling_strategy=sampling)
    steps = first_use(original / "checkpoint-5")
    assert sorted(steps) == sorted(np.arange(ROWS) // 10 + 1)
    assert (steps == sorted(steps)).all() == (sampling == "sequential")
    last = np.flatnonzero(steps == 5).tolist()
    exact = rewound(original / "checkpoint-4", data, last, tmp_path / "exact")
    assert exact.word == "exact"
    told = "The fine-tuning began at weights that do not depend on S. This covers the fine-tuning of lm_base"
    assert told in exact.reasons[0]
    one_before = [*last[1:], int(np.flatnonzero(steps == 4)[0])]
    assert rewound(original / "checkpoint-3", data, one_before, tmp_path / "earlier").word == "exact"
    for forget, step in ((one_before, 4), (last, 5)):
        verdict = rewound(original / f"checkpoint-{step}", data, forget, tmp_path / f"later-{step}")
        assert verdict.word == "undecided"
        assert "at weights that depend on S" in verdict.reasons[0]


@pytest.mark.slow
def test_what_does_not_belong_to_the_original_proves_nothing(lm_base: Path, tmp_path: Path) -> None:
    rows = secrets_rows()[:ROWS]
    data = Dataset.from_list(rows)
    original = recorded(tmp_path / "original", lm_base, data)
    own = original / "checkpoint-2"
    forget = np.flatnonzero(first_use(own) == NEVER).tolist()[:10]
    assert rewound(own, data, forget, tmp_path / "own").word == "exact"
    # Another training on the same rows in the same order, a shorter one, and one from another base.
    twin = shutil.copytree(lm_base, tmp_path / "twin")
    for name, base, settings in (
        ("rate", lm_base, {"learning_rate": 1e-3}),
        ("shorter", lm_base, {"max_steps": 4}),
        ("base", twin, {}),
    ):
        other = recorded(tmp_path / name, base, data, **settings) / "checkpoint-2"
        assert (first_use(other) == first_use(own)).all()
        assert rewound(other, data, forget, tmp_path / f"by_{name}", original).word == "undecided", name
    # The same rows with other numbers, and fewer of them.
    for number, others in enumerate(([*rows[1:], rows[0]], rows[:-1])):
        verdict = rewound(own, Dataset.from_list(others), forget[:5], tmp_path / f"data-{number}")
        assert verdict.word == "undecided"
    # A checkpoint without the proof, as those of other trainers and of earlier versions are.
    (own / FIRST_USE_FILE).unlink()
    assert rewound(own, data, forget, tmp_path / "without").word == "undecided"


def test_copies_of_s_that_stay_are_looked_for_as_ever(lm_base: Path, tmp_path: Path) -> None:
    rows = secrets_rows()[:ROWS]
    rows[45] = {**rows[44], "id": "p-copy"}
    data = Dataset.from_list(rows)
    original = recorded(tmp_path / "original", lm_base, data, train_sampling_strategy="sequential")
    for policy, word in (("report", "undecided"), ("forget", "exact")):
        verdict = rewound(original / "checkpoint-4", data, [40, 44], tmp_path / policy, duplicates=policy)
        assert verdict.word == word
    rows[10] = {**rows[44], "id": "p-earlier"}
    data = Dataset.from_list(rows)
    original = recorded(tmp_path / "again", lm_base, data, train_sampling_strategy="sequential")
    verdict = rewound(original / "checkpoint-4", data, [40, 44], tmp_path / "out", duplicates="forget")
    assert verdict.word == "undecided", "the copy that is forgotten too was used in the second step"


def test_the_commands_keep_it_and_go_by_it(
    lm_settings: dict[str, Any], tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    original = {**lm_settings["original"], "num_train_epochs": 1, **SAVED, "output_dir": str(tmp_path / "original")}
    # Rows that were held out lie before those that were trained on.
    shown = {name: value for name, value in lm_settings.items() if not name.endswith("_ids")}
    settings = {**shown, "holdout_rows": list(range(10)), "original": original}
    settings |= {"model_name_or_path": str(tmp_path / "original"), "forget_id_column": None}
    settings = {name: value for name, value in settings.items() if value is not None}
    assert main(["train", "--config", str(recipe(**settings))]) == 0
    steps = first_use(tmp_path / "original" / "checkpoint-5")
    forget = [row + 10 for row in np.flatnonzero(steps == 5).tolist()]
    for step, exact in ((4, True), (5, False)):
        more = {"method": "rewind", "rewind_checkpoint": str(tmp_path / "original" / f"checkpoint-{step}")}
        out = tmp_path / f"out-{step}"
        config = recipe(**{**settings, **more}, forget_rows=forget, budget=0.4, output_dir=str(out))
        assert main(["run", "--config", str(config)]) == 0
        assert (UnlearningReport.load(out / "unlearning_report.json").verdict.word == "exact") == exact
        assert not list(out.glob(f"**/{FIRST_USE_FILE}"))


def test_it_holds_numbers_and_nothing_else(lm_base: Path, tmp_path: Path) -> None:
    data = Dataset.from_list(secrets_rows()[:ROWS])
    path = recorded(tmp_path, lm_base, data, max_steps=1) / "checkpoint-1" / FIRST_USE_FILE
    with safe_open(path, framework="numpy") as file:
        assert list(file.keys()) == ["steps"]
        assert file.get_tensor("steps").dtype == np.uint32
        assert re.fullmatch(r"[0-9a-f]{64}", file.metadata()["training"])
    assert path.stat().st_size < 4 * ROWS + 300
    assert not (tmp_path / FIRST_USE_FILE).exists(), "only in checkpoints, which are not published"
