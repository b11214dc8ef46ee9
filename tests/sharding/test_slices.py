"""A late record costs the later slices of its shard, and what was made before its slice never saw it."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from safetensors.torch import load_file

from hf_unlearn import InputError, Records, load_sharded, split_retained
from hf_unlearn.cli import main
from hf_unlearn.jobs.finished_run import audit
from hf_unlearn.lifecycle.erase import erase
from hf_unlearn.lifecycle.erase_plan import plan_erasure
from hf_unlearn.lifecycle.hub_repository import HubRepo
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import RECORD_FILE, load_record
from hf_unlearn.publishing.ledger_of_model import ledger_of
from hf_unlearn.sharding.deletion import Deletion, plan_deletion
from hf_unlearn.sharding.layout import SHARDING_FILE, WEIGHTS, deal, number_of, owner_digests, passes, slice_of

from ..conftest import write_rows
from .conftest import (
    CLASSIFIER,
    KEY,
    ROWS_EACH,
    Delete,
    Train,
    adapters,
    deleted_in_a_row,
    killed,
    question_rows,
    same_files,
    sharding_of,
    ticket_rows,
    without,
)

# Each slice of the first shard has an owner, and the third slice of the second has none.
OWNERS = [f"c-{number:02d}" for number in range(12)]
SHARDS, SLICES = 2, 3
SLICED: dict[str, Any] = {"shards": SHARDS, "slices": SLICES}


def places(owners: list[str], shards: int = SHARDS, slices: int = SLICES) -> dict[str, tuple[int, int]]:
    """The shard and the slice of each owner."""
    digests = owner_digests(bytes.fromhex(KEY), "customer", owners)
    return {o: (number_of(d, shards), slice_of(d, slices)) for o, d in zip(owners, digests, strict=True)}


def owner_in(shard: int, slice_: int) -> str:
    return next(owner for owner, place in places(OWNERS).items() if place == (shard, slice_))


@pytest.fixture(scope="session")
def sliced(train_shards: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model in two shards of three slices; not to be changed."""
    return train_shards(tmp_path_factory.mktemp("sliced") / "model", question_rows(), **SLICED)


def of_slice(shard: int, slice_: int) -> str:
    """The folder of the weights after a slice."""
    return f"shards/{shard:04d}" + (f"/slices/{slice_:02d}" if slice_ < SLICES else "")


def moved(before: Path, after: Path) -> set[str]:
    """The folders below ``shards`` with other weights, or settings, than before."""
    old, new = adapters(before), adapters(after)
    return {str(Path(name).parent) for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def test_late_records_cost_the_later_slices_and_the_end_is_a_training_without_them(
    sliced: Path, train_shards: Train, delete: Delete, tmp_path: Path
) -> None:
    last, second = owner_in(0, 3), owner_in(0, 2)
    first = delete(sliced, tmp_path / "one", [last])
    after = delete(tmp_path / "one", tmp_path / "two", [second])
    same_files(tmp_path / "two", train_shards(tmp_path / "never", without(last, second), **SLICED))
    assert moved(sliced, tmp_path / "one") == {of_slice(0, 3)}
    assert moved(tmp_path / "one", tmp_path / "two") == {of_slice(0, 2), of_slice(0, 3)}
    # A record with its seconds is of one training alone.
    for name in (of_slice(0, 1), of_slice(1, 2), of_slice(1, 3)):
        assert (sliced / name / RECORD_FILE).read_bytes() == (tmp_path / "two" / name / RECORD_FILE).read_bytes()
    assert [report.verdict.word for report in (first, after)] == ["exact", "exact"]
    rows = Counter({place: ROWS_EACH * count for place, count in Counter(places(OWNERS).values()).items()})
    rows[0, 3] -= ROWS_EACH
    stages = {(s, k): sum(rows[s, j] for j in range(1, k + 1)) for s in range(SHARDS) for k in range(1, SLICES + 1)}
    assert first.shards is not None
    assert first.cost is not None
    assert first.cost.training_ratio is not None
    assert first.shards.price == pytest.approx(stages[0, 3] / sum(stages.values()))
    assert first.cost.training_ratio == pytest.approx(first.shards.price, abs=0.1)
    assert first.cost.training_ratio < 0.45
    card = (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    assert "1 was trained again from a checkpoint before the first slice with a record of S" in card
    assert f"Trained again: {first.shards.price:.1%} of the record passes" in card
    # The checkpoints are under the ledger.
    forged = tmp_path / "two" / of_slice(0, 1) / WEIGHTS
    assert ledger_of(locate(str(tmp_path / "two"))) is not None
    forged.write_bytes((tmp_path / "two" / of_slice(0, 2) / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="The weights of 'two' are not those that unlearning_ledger.jsonl"):
        ledger_of(locate(str(tmp_path / "two")))


def test_the_rows_of_a_later_slice_reach_no_earlier_checkpoint(
    sliced: Path, train_shards: Train, tmp_path: Path
) -> None:
    rows = [
        one
        for row in question_rows()
        for one in (
            [row, {**row, "completion": row["completion"] * 9}] if row["customer"] == owner_in(0, 3) else [row]
        )
    ]
    assert moved(sliced, train_shards(tmp_path / "other", rows, **SLICED)) == {of_slice(0, 3)}


def test_a_stage_goes_on_from_the_checkpoint_before_with_its_share_of_the_epochs(sliced: Path) -> None:
    seeds, rows = set(), Counter(places(OWNERS).values())
    for shard in range(SHARDS):
        found = [load_file(sliced / of_slice(shard, number) / WEIGHTS) for number in range(1, SLICES + 1)]
        drawn = [
            torch.cat([w.flatten() for name, w in sorted(weights.items()) if "lora_A" in name]) for weights in found
        ]
        # Each stage draws new weights by its own seed, and puts those of the checkpoint in their place.
        assert torch.cosine_similarity(drawn[0], drawn[1], dim=0) > 0.8
        assert torch.cosine_similarity(drawn[1], drawn[2], dim=0) > 0.8
        assert not torch.equal(drawn[1], drawn[2])
        until = 0
        for number in range(1, SLICES + 1):
            record = load_record(locate(str(sliced / of_slice(shard, number))))
            assert record is not None
            until += ROWS_EACH * rows[shard, number]
            assert (record.dataset.rows, record.asked_epochs) == (until, pytest.approx(2 / (SLICES + 1)))
            seeds.add(record.seed)
    assert len(seeds) == SHARDS * SLICES
    whole = load_record(locate(str(sliced)))
    assert whole is not None
    assert whole.asked_epochs == pytest.approx(1)


def test_equal_slices_are_read_as_often_as_no_slices() -> None:
    for slices in (1, 2, 4, 9):
        stages = [10 * number for number in range(1, slices + 1)]
        assert passes(stages) == pytest.approx(10 * slices)
        mean = sum(passes(stages, number) for number in range(slices)) / slices
        assert mean / passes(stages) == pytest.approx((2 * slices + 1) / (3 * slices))
    assert passes([7]) == 7.0


def test_the_slice_of_an_owner_depends_on_the_owner_alone(sliced: Path) -> None:
    sharding, key, rows = sharding_of(sliced), bytes.fromhex(KEY), question_rows()
    for change in (lambda rows: rows, lambda rows: rows[::-1], lambda rows: rows[::5]):
        for number, mine in deal(Dataset.from_list(change(rows)), sharding, key, {}).items():
            for slice_, part in enumerate(mine.stages, 1):
                there = [row["customer"] for row in change(rows) if places(OWNERS)[row["customer"]][0] == number]
                assert part["customer"][:] == [owner for owner in there if places(OWNERS)[owner][1] <= slice_]
    many = Counter(places([f"owner {number}" for number in range(6000)], 4, 3).values())
    assert len(many) == 12
    assert all(abs(count - 500) < 5 * 500**0.5 for count in many.values())


# What a deletion may go on from


def planned(model: Path, rows: list[dict[str, Any]], *owners: str, request: Records | None = None) -> Deletion:
    request = request or Records.ids("customer", owners)
    parts = split_retained(Dataset.from_list(rows), request, near_duplicates=None)
    return plan_deletion(sharding_of(model), parts, bytes.fromhex(KEY), locate(str(model)), drop=False)


def begun(model: Path, rows: list[dict[str, Any]], *owners: str) -> list[int]:
    """The checkpoints that a deletion from shard 0 goes on from."""
    return sorted(planned(model, rows, *owners).begun[0])


def test_a_checkpoint_is_gone_on_from_only_where_its_record_shows_the_rows_that_stay(sliced: Path) -> None:
    last, rows = owner_in(0, 3), question_rows()
    assert begun(sliced, rows, last) == [1, 2]
    assert begun(sliced, rows, owner_in(0, 2)) == [1]
    assert begun(sliced, rows, owner_in(0, 1)) == []
    assert begun(sliced, rows, last, owner_in(0, 2)) == [1]
    # The request in the other shard does not matter.
    assert begun(sliced, rows, last, owner_in(1, 1)) == [1, 2]
    for slice_, left in ((1, []), (2, [1]), (3, [1, 2])):
        owner = next(o for o, place in places(OWNERS).items() if place == (0, slice_) and o != last)
        place = next(i for i, row in enumerate(rows) if row["customer"] == owner)
        others = rows[:place] + [{**rows[place], "prompt": "Something else"}] + rows[place + 1 :]
        for changed in (others, rows[:place] + rows[place + 1 :], [*rows, rows[place]]):
            assert begun(sliced, changed, last) == left
    # The slice of a row of S is never passed, even if the rows that stay read as in the record.
    copied = next(row for row in rows if row["customer"] == owner_in(0, 2))
    assert planned(sliced, [*rows, copied], request=Records.rows([len(rows)])).begun[0].keys() == {1}


def test_checkpoints_that_are_exchanged_or_gone_are_noticed(sliced: Path, tmp_path: Path) -> None:
    model, rows = shutil.copytree(sliced, tmp_path / "model"), question_rows()
    ours, theirs = model / of_slice(0, 2), model / of_slice(0, 1)
    for path, other in ((ours, theirs), (ours, model / of_slice(1, 2)), (theirs, ours)):
        kept = (path / WEIGHTS).read_bytes()
        (path / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
        with pytest.raises(InputError, match="is not the one that sharding.json names; restore it from its history"):
            planned(model, rows, owner_in(0, 3))
        # A shard that stays would hand it on to the next deletion.
        with pytest.raises(InputError, match="The checkpoint shards/0000/slices"):
            planned(model, rows, owner_in(1, 2)).folders(locate(str(model)))
        (path / WEIGHTS).write_bytes(kept)
    # Whoever writes the digest of other weights into the record, too, has no key to seal it.
    text = (model / SHARDING_FILE).read_text()
    named, other = (json.loads(text)["parts"][0]["slices"][one]["weights"] for one in (1, 0))
    (model / SHARDING_FILE).write_text(text.replace(named, other))
    kept = (ours / WEIGHTS).read_bytes()
    (ours / WEIGHTS).write_bytes((theirs / WEIGHTS).read_bytes())
    assert begun(model, rows, owner_in(0, 3)) == [1]
    (ours / WEIGHTS).write_bytes(kept)
    (model / SHARDING_FILE).write_text(text)
    assert begun(model, rows, owner_in(0, 3)) == [1, 2]
    ours.rename(tmp_path / "away")
    assert begun(model, rows, owner_in(0, 3)) == [1]
    theirs.rename(tmp_path / "too")
    (tmp_path / "away").rename(ours)
    assert begun(model, rows, owner_in(0, 3)) == []
    (model / SHARDING_FILE).write_text(text.replace('"slices": 3', '"slices": 4'))
    with pytest.raises(InputError, match=r"tells of 4 slices in each shard, and its shards have others"):
        planned(model, rows, owner_in(0, 3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"slices": 0}, "--slices 0 is not possible; it must be between 1 and 99"),
        ({"shards": None}, "--slices needs --shards"),
        ({"max_steps": 3}, "--max_steps does not go together with --slices"),
    ],
)
def test_slices_that_cannot_be_are_told(
    settings: dict[str, Any], words: str, train_shards: Train, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        train_shards(tmp_path / "model", question_rows(), **(SLICED | settings))
    assert not (tmp_path / "model").exists()


def test_another_number_of_slices_is_refused(
    sliced: Path, train_shards: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(sliced, tmp_path / "model")
    shutil.copyfile(sliced.with_suffix(".jsonl"), tmp_path / "model.jsonl")
    before = adapters(model)
    with pytest.raises(InputError, match="slices"):
        train_shards(model, question_rows(), shards=SHARDS, slices=2)
    assert adapters(model) == before
    assert main(["run", "--model_name_or_path", str(model), "--slices", "2"]) == 2
    assert "does not use --slices; leave it out" in capsys.readouterr().err


# What takes longer


@pytest.mark.slow
def test_slices_may_be_empty_and_owners_may_leave_them_so(train_shards: Train, delete: Delete, tmp_path: Path) -> None:
    owners, sizes = OWNERS[1:4], {"shards": 1, "slices": 6}
    of_owner = sorted(places(owners, 1, 6).items(), key=lambda one: one[1])
    assert of_owner[0][1] < of_owner[1][1] < of_owner[2][1]
    rows = question_rows(owners)
    model = train_shards(tmp_path / "model", rows, **sizes)
    assert sum(not one.weights for one in sharding_of(model).parts[0].slices) == of_owner[0][1][1] - 1
    data, left = model.with_suffix(".jsonl"), [*owners]
    for number, (owner, (_, slice_)) in enumerate(reversed(of_owner[1:])):
        after = tmp_path / str(number)
        report = delete(model, after, [owner], data=data)
        assert report.verdict.word == "exact"
        kept = {name for name in adapters(model) if f"/slices/{slice_:02d}" > name[len("shards/0000") :]}
        assert all(adapters(after)[name] == adapters(model)[name] for name in kept if "/slices/" in name)
        left.remove(owner)
        mine = [row for row in rows if row["customer"] in left]
        same_files(after, train_shards(tmp_path / f"never {number}", mine, **sizes))
        model = after


@pytest.mark.slow
def test_a_missing_checkpoint_is_made_again_to_the_same_bits(sliced: Path, delete: Delete, tmp_path: Path) -> None:
    model = shutil.copytree(sliced, tmp_path / "model")
    shutil.rmtree(model / of_slice(0, 1))
    report = delete(model, tmp_path / "one", [owner_in(0, 3)])
    whole = delete(sliced, tmp_path / "whole", [owner_in(0, 3)])
    same_files(tmp_path / "one", tmp_path / "whole")
    assert report.shards is not None
    assert whole.shards is not None
    assert report.shards.price > whole.shards.price
    assert "1 was trained again from the seed" in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_classifier_s_head_is_in_its_checkpoints(
    train_shards: Train, delete: Delete, encoder_base: Path, tmp_path: Path
) -> None:
    settings = {"model_name_or_path": str(encoder_base), **CLASSIFIER, **SLICED, "shard_processes": 2}
    model = train_shards(tmp_path / "model", ticket_rows(), **settings)
    for slice_ in range(1, SLICES + 1):
        assert any("classifier" in name for name in load_file(model / of_slice(0, slice_) / WEIGHTS))
    data = model.with_suffix(".jsonl")
    gone = [owner_in(0, 2), owner_in(1, 2)]
    report = delete(model, tmp_path / "out", gone, data=data, shard_processes=2)
    assert report.verdict.word == "exact"
    assert report.shards is not None
    assert report.shards.retrained == [0, 1]
    rest = [row for row in ticket_rows() if row["customer"] not in gone]
    same_files(tmp_path / "out", train_shards(tmp_path / "never", rest, **settings))
    assert moved(model, tmp_path / "out") == {
        f"shards/{shard:04d}{rest}" for shard in (0, 1) for rest in ("", "/slices/02")
    }


@pytest.mark.slow
def test_processes_train_slices_to_the_same_bits(sliced: Path, train_shards: Train, tmp_path: Path) -> None:
    same_files(train_shards(tmp_path / "two", question_rows(), **SLICED, shard_processes=2), sliced)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"moments": "files:24"}, {"moments": "random:4", "shard_processes": 2}])
def test_a_training_in_slices_that_is_killed_ends_in_the_same_bits(
    settings: dict[str, Any], lm_base: Path, key_file: Path, tmp_path: Path
) -> None:
    moments = settings.pop("moments")
    data = write_rows(tmp_path / "data.jsonl", question_rows())
    flags = {
        "model_name_or_path": lm_base, "dataset_name": data, "shard_column": "customer", "digest_key_file": key_file,
        "learning_rate": 1e-2, "num_train_epochs": 3, "save_steps": 2, "use_cpu": True,
        "per_device_train_batch_size": 4, **SLICED, **settings,
    }  # fmt: skip
    folders = killed(tmp_path / "out", moments, "train", flags)
    # At random moments one folder may take all kills.
    assert len(folders) > (2 if moments.startswith("files") else 0)
    for folder in folders:
        same_files(folder, tmp_path / "out" / "whole")
        assert not (folder / "training").exists()


@pytest.mark.slow
def test_deletions_in_a_row_that_are_killed_end_where_a_training_without_the_owners_ends(
    train_shards: Train, key_file: Path, tmp_path: Path
) -> None:
    many = [f"m-{number:02d}" for number in range(16)]
    gone, rows = random.Random(4).sample(many, 8), question_rows(many)
    model = train_shards(tmp_path / "model", rows, **SLICED)
    flags = {
        "dataset_name": model.with_suffix(".jsonl"), "digest_key_file": key_file, "near_duplicates": "ignore",
        "use_cpu": True, "disable_tqdm": True, "save_steps": 1, "shard_processes": 2,
    }  # fmt: skip
    folders, kills = deleted_in_a_row(tmp_path / "row", model, gone, flags)
    assert kills >= 2
    same_files(folders[-1], train_shards(tmp_path / "never", [r for r in rows if r["customer"] not in gone], **SLICED))


@pytest.mark.slow
def test_a_checkpoint_that_saw_the_owner_leaves_the_hub_and_the_next_deletion_goes_on_from_the_others(
    owner: HfApi, lm_base: Path, train_shards: Train, delete: Delete, key_file: Path, tmp_path: Path
) -> None:
    base, name = "owner/base-of-slices", "owner/sliced"
    owner.create_repo(base, private=True)
    owner.upload_folder(repo_id=base, folder_path=lm_base)
    settings = {**SLICED, "model_name_or_path": base}
    model = train_shards(tmp_path / "model", question_rows(), **settings)
    owner.create_repo(name, private=True)
    owner.upload_folder(repo_id=name, folder_path=model)
    push = {"push": True, "hub_model_id": name, "push_to_existing": True, "push_anyway": True}
    gone = [owner_in(0, 2), owner_in(1, 2)]
    delete(Path(name), tmp_path / "one", gone[:1], **push)
    there = {file.rfilename: file.lfs and file.lfs.sha256 for file in files_of(owner, name)}
    for folder in ("model", "one"):
        for shard in range(SHARDS):
            for slice_ in range(1, SLICES + 1):
                saw = folder == "model" and shard == 0 and slice_ >= 2
                digest = weights_digest_of(tmp_path / folder, shard, slice_)
                assert (there[f"{of_slice(shard, slice_)}/{WEIGHTS}"] == digest) != saw
    plan = plan_erasure(HubRepo(name, "model"))
    assert plan.refusals == []
    erased = {old.sha256 for old in erase(HubRepo(name, "model"), plan).objects}
    assert erased == {weights_digest_of(tmp_path / "model", 0, slice_) for slice_ in (2, 3)}
    report = delete(Path(name), tmp_path / "two", gone[1:])
    assert report.verdict.word == "exact"
    assert moved(tmp_path / "one", tmp_path / "two") == {of_slice(1, 2), of_slice(1, 3)}
    same_files(tmp_path / "two", train_shards(tmp_path / "never", without(*gone), **settings))
    served = load_sharded(str(tmp_path / "two"), digest_key_file=str(key_file))
    assert served.shards_of(gone) == [None, None]
    audit(str(tmp_path / "two"), tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert weights_digest_of(tmp_path / "two", 0, 1)[:12] in page
    assert "The code of" not in page


def files_of(hub: HfApi, name: str) -> list[Any]:
    return hub.model_info(name, files_metadata=True).siblings or []


def weights_digest_of(model: Path, shard: int, slice_: int) -> str:
    """As sharding.json says."""
    part = json.loads((model / SHARDING_FILE).read_text())["parts"][shard]
    found: str = part["weights"] if slice_ == SLICES else part["slices"][slice_ - 1]["weights"]
    return found
