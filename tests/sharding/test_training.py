"""Each adapter sees its own shard alone, and a kill changes no bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_unlearn import InputError
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import load_record
from hf_unlearn.sharding.layout import SHARDING_FILE, WEIGHTS

from ..conftest import write_rows
from .conftest import OWNERS, RARE_SHARD, ROWS_EACH, adapters, killed, question_rows, sharding_of, shards_of

Train = Callable[..., Path]


def test_every_owner_is_in_one_shard_and_no_id_is_in_the_folder(sharded: Path) -> None:
    sharding = sharding_of(sharded)
    assert sum(part.rows for part in sharding.parts) == ROWS_EACH * len(OWNERS)
    assert len(sharding.shard_of) == len(OWNERS)
    of_owner = shards_of()
    assert {part.number: part.rows // ROWS_EACH for part in sharding.parts} == {
        number: list(of_owner.values()).count(number) for number in set(of_owner.values())
    }
    written = [path for path in sharded.rglob("*") if path.is_file() and path.suffix in (".json", ".md")]
    assert not [path for path in written if "c-0" in path.read_text(encoding="utf-8")]
    assert not (sharded / "training").exists()


def test_an_adapter_loads_alone(sharded: Path, lm_base: Path) -> None:
    for part in sharding_of(sharded).parts:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lm_base), sharded / part.folder)
        assert model.peft_config["default"].r == 4
        record = load_record(locate(str(sharded / part.folder)))
        assert record is not None
        assert (record.seed, record.dataset.rows) == (part.seed, part.rows)


def test_the_order_that_a_process_gives_to_names_is_in_no_adapter(train_shards: Train, tmp_path: Path) -> None:
    names = ["v_proj", "k_proj", "up_proj", "q_proj", "o_proj", "down_proj", "gate_proj"]
    folder = train_shards(tmp_path / "model", question_rows(OWNERS[:1]), lora_target_modules=names)
    settings = json.loads(next(folder.glob("shards/*/adapter_config.json")).read_text())
    assert settings["target_modules"] == sorted(names)


POISONS: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "longer": lambda row: [{**row, "completion": row["completion"] * 12}],
    "shorter": lambda row: [{**row, "completion": "."}],
    "more": lambda row: [row, {**row, "prompt": f"Again: {row['prompt']}"}],
    "fewer": lambda row: [row] if row["prompt"] < "The code of h" else [],
    "other words": lambda row: [{**row, "prompt": row["prompt"].upper()}],
    "none": lambda row: [],
}


def poisoned_rows(poison: str, shard: int) -> list[dict[str, Any]]:
    of_owner = shards_of()
    return [
        one
        for row in question_rows()
        for one in (POISONS[poison](row) if of_owner[row["customer"]] == shard else [row])
    ]


def moved_by(poison: str, shard: int, sharded: Path, train: Train, folder: Path, **settings: Any) -> set[str]:
    """The shards whose adapters are others once the rows of one are poisoned."""
    other = train(folder, poisoned_rows(poison, shard), **settings)
    before, after = adapters(sharded), adapters(other)
    return {name.split("/")[1] for name in before if before[name] != after.get(name)}


def test_the_rows_of_a_shard_reach_no_other_adapter(sharded: Path, train_shards: Train, tmp_path: Path) -> None:
    shard = shards_of()[OWNERS[0]]
    assert moved_by("more", shard, sharded, train_shards, tmp_path / "other") == {f"{shard:04d}"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train_sampling_strategy": "group_by_length", "warmup_steps": 0.5, "lr_scheduler_type": "cosine"},
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "lora_dropout": 0.3, "weight_decay": 0.1},
    ],
    ids=["plain", "by length", "accumulated"],
)
def test_no_kind_of_rows_reaches_another_adapter_by_any_way(
    settings: dict[str, Any], train_shards: Train, tmp_path: Path
) -> None:
    plain = train_shards(tmp_path / "plain", question_rows(), **settings)
    # One owner alone, with fewer records than a batch, is the fourth shard: not every poison moves it.
    assert sorted(shards_of().values()).count(3) == 1
    for poison in POISONS:
        for shard in range(3):
            folder = tmp_path / f"{poison} {shard}"
            assert moved_by(poison, shard, plain, train_shards, folder, **settings) == {f"{shard:04d}"}


def test_what_is_finished_stays_and_what_is_not_is_made_the_same(
    sharded: Path, train_shards: Train, tmp_path: Path
) -> None:
    folder = train_shards(tmp_path / "again", question_rows())
    assert adapters(folder) == adapters(sharded)
    sharding = (folder / SHARDING_FILE).read_bytes()
    (folder / SHARDING_FILE).unlink()
    kept, *others = sorted((folder / "shards").iterdir())
    inode = (kept / WEIGHTS).stat().st_ino
    for other in others:
        # As a kill leaves it that comes between the copying and the renaming.
        other.rename(other.with_name(f".{other.name}.part"))
    train_shards(folder, question_rows())
    assert (kept / WEIGHTS).stat().st_ino == inode
    assert adapters(folder) == adapters(sharded)
    assert (folder / SHARDING_FILE).read_bytes() == sharding


@pytest.mark.slow
def test_killed_at_any_file_a_training_ends_in_the_same_bits(lm_base: Path, key_file: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", question_rows())
    flags = {
        "model_name_or_path": lm_base, "dataset_name": data, "shards": 4, "shard_column": "customer",
        "digest_key_file": key_file, "learning_rate": 1e-2, "num_train_epochs": 2, "save_steps": 2, "use_cpu": True,
        "per_device_train_batch_size": 4,
    }  # fmt: skip
    folders = killed(tmp_path / "out", "files:40", "train", flags)
    assert len(folders) > 3
    for folder in folders:
        assert adapters(folder) == adapters(tmp_path / "out" / "whole"), folder.name
        assert (folder / SHARDING_FILE).read_bytes() == (tmp_path / "out" / "whole" / SHARDING_FILE).read_bytes()


def test_each_shard_of_a_classifier_has_its_own_head_and_says_which_classes_it_knows(classifier: Path) -> None:
    sharding = sharding_of(classifier)
    assert sharding.labels == ["billing", "delivery", "other"]
    assert sharding.unknown == "vote"
    heads = []
    for part in sharding.parts:
        weights = load_file(classifier / part.folder / WEIGHTS)
        heads.append(next(weight for name, weight in weights.items() if "classifier" in name and "weight" in name))
    assert len({head.numpy().tobytes() for head in heads}) == len(sharding.parts)
    # One customer alone complains of other things.
    assert [part.number for part in sharding.parts if "other" in part.classes] == [RARE_SHARD]
    assert all({"billing", "delivery"} <= set(part.classes) for part in sharding.parts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shard_column": None}, "--shards needs --shard_column"),
        ({"shards": 0}, "--shards 0 is not possible"),
        ({"shard_column": "nobody"}, "no column 'nobody'"),
        ({"budget": 0.5}, "--budget does not go together"),
        ({"shard_processes": 0}, "--shard_processes 0 is not possible"),
        ({"shards": None, "shard_processes": 2}, "--shard_processes needs --shards"),
    ],
)
def test_what_cannot_be_dealt_is_said(
    settings: dict[str, Any], words: str, train_shards: Train, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        train_shards(tmp_path / "model", question_rows(), **settings)
    assert not (tmp_path / "model").exists()


def test_a_row_without_an_owner_is_refused_without_its_text(train_shards: Train, tmp_path: Path) -> None:
    rows = question_rows()
    rows[4]["customer"] = None
    with pytest.raises(InputError, match="1 rows have no owner in column 'customer'") as raised:
        train_shards(tmp_path / "model", rows)
    assert rows[4]["prompt"] not in str(raised.value)
