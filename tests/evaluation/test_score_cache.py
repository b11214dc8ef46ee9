"""Tables that are read instead of made again: the same weights and records only, and whole ones only."""

import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.cli import main
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.measured_sets import EvidenceSets, evidence_sets
from hf_unlearn.evaluation.report import UnlearningReport
from hf_unlearn.evaluation.score_cache import _read, _write, data_digest, score_once, tables_folder

from ..conftest import secrets_rows


@pytest.fixture
def evidence(lm_base: Path) -> EvidenceSets:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    encoder = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128)
    rows: Any = {
        "forget": Dataset.from_list(secrets_rows(6)),
        "holdout": Dataset.from_list(secrets_rows(12)).select(range(6, 12)),
    }
    collator = PaddingCollator(0)
    return evidence_sets(rows, encoder, collator, "text-generation", 4, seed=0, tokenizer=tokenizer)


@pytest.fixture
def model(lm_base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lm_base)


def adapted(model: Any) -> PeftModel:
    """The model with an adapter that does something."""
    torch.manual_seed(1)
    found = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2))
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    assert isinstance(found, PeftModel)
    return found


def test_the_same_weights_are_scored_once_wherever_they_lie(
    evidence: EvidenceSets, lm_base: Path, tmp_path: Path
) -> None:
    tables, tokens = score_once(evidence, AutoModelForCausalLM.from_pretrained(lm_base))
    assert tokens == evidence.tokens > 0
    copy = shutil.copytree(lm_base, tmp_path / "another_name")
    again, tokens = score_once(evidence, AutoModelForCausalLM.from_pretrained(copy))
    assert tokens == 0
    assert list(again) == ["forget", "holdout"]
    assert all(again[name].equals(tables[name]) for name in tables)
    fresh = evidence.score(AutoModelForCausalLM.from_pretrained(lm_base))
    assert all(again[name].equals(fresh[name]) for name in tables), "columns and their types are those of a scoring"


def test_other_weights_under_the_same_name_are_scored(evidence: EvidenceSets, lm_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(lm_base, folder)
    score_once(evidence, AutoModelForCausalLM.from_pretrained(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    model.save_pretrained(folder)
    found, tokens = score_once(evidence, AutoModelForCausalLM.from_pretrained(folder))
    assert tokens == evidence.tokens
    assert found["forget"].equals(evidence.score(model)["forget"])


def other_buffer(model: Any) -> Any:
    model.model.rotary_emb.inv_freq.mul_(2)
    return model


def other_layer(model: Any) -> Any:
    model.model.norm.variance_epsilon = 0.5
    return model


def other_setting(model: Any) -> Any:
    model.config.rms_norm_eps = 0.5
    return model


def two_weights_exchanged(model: Any) -> Any:
    first, second = (layer.self_attn.q_proj for layer in model.model.layers)
    first.weight.data, second.weight.data = second.weight.data, first.weight.data
    return model


def hooked(model: Any) -> Any:
    model.model.norm.register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def patched(model: Any) -> Any:
    forward = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 2 * forward(hidden)
    return model


class Doubled(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def of_other_code(model: Any) -> Any:
    model.lm_head.__class__ = Doubled
    return model


CHANGES = [
    other_buffer, other_layer, other_setting, two_weights_exchanged, hooked, patched, of_other_code, adapted,
    lambda model: model.to(torch.bfloat16),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_never_reads_an_old_table(
    evidence: EvidenceSets, model: Any, change: Callable[[Any], Any]
) -> None:
    score_once(evidence, model)
    found, tokens = score_once(evidence, change(model))
    assert tokens == evidence.tokens
    assert found["forget"].equals(evidence.score(model)["forget"])


def halved(model: PeftModel) -> None:
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.scaling["default"] /= 2


@pytest.mark.parametrize("change", [halved, lambda m: m.base_model.disable_adapter_layers()])
def test_an_adapter_that_acts_otherwise_is_another_model(
    evidence: EvidenceSets, model: Any, change: Callable[[PeftModel], Any]
) -> None:
    wrapped = adapted(model)
    first, _ = score_once(evidence, wrapped)
    assert score_once(evidence, wrapped)[1] == 0
    change(wrapped)
    second, tokens = score_once(evidence, wrapped)
    assert tokens == evidence.tokens
    assert not second["forget"].equals(first["forget"])


def test_a_merged_adapter_is_another_model(evidence: EvidenceSets, model: Any) -> None:
    wrapped = adapted(model)
    score_once(evidence, wrapped)
    wrapped.merge_adapter()
    assert score_once(evidence, wrapped)[1] == evidence.tokens
    wrapped.unmerge_adapter()
    assert score_once(evidence, wrapped.merge_and_unload())[1] == evidence.tokens


def ours(collator: PaddingCollator) -> Any:
    return lambda examples: collator(examples)


@pytest.mark.parametrize(
    "make",
    [
        hooked, patched, of_other_code,
        lambda model: get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
    ],
)  # fmt: skip
def test_what_cannot_be_told_apart_is_not_kept(evidence: EvidenceSets, model: Any, make: Callable[[Any], Any]) -> None:
    made = make(model)
    for _ in range(2):
        assert score_once(evidence, made)[1] == evidence.tokens
    assert not tables_folder().exists()


def test_with_a_collator_of_the_users_own_nothing_is_kept(evidence: EvidenceSets, model: Any) -> None:
    own = replace(evidence, collator=ours(PaddingCollator(0)))
    assert [score_once(own, model)[1] for _ in range(2)] == [evidence.tokens] * 2


def test_each_set_is_found_by_what_it_holds(evidence: EvidenceSets, model: Any) -> None:
    score_once(evidence, model)
    holdout = evidence.sets["holdout"]
    fewer = replace(evidence, sets={"holdout": evidence.sets["forget"], "forget": holdout.select(range(5))})
    found, tokens = score_once(fewer, model)
    assert tokens == sum(len(ids) for ids in holdout["input_ids"][:5])
    assert [(name, table.num_rows) for name, table in found.items()] == [("holdout", 6), ("forget", 5)]
    fresh = fewer.score(model)
    assert all(found[name].equals(fresh[name]) for name in fresh)


def test_other_records_or_another_way_to_score_find_nothing(evidence: EvidenceSets, model: Any) -> None:
    score_once(evidence, model)
    forget = evidence.sets["forget"]
    hidden = forget.map(lambda example: {"labels": [-100, *example["labels"][1:-1], -100]})
    for changed in (hidden, forget.select([1, 0, 2, 3, 4, 5]), forget.map(lambda e: {"zlib": e["zlib"] + 1})):
        sets = replace(evidence, sets={"forget": changed})
        assert score_once(sets, model)[1] == sets.tokens
    assert score_once(replace(evidence, batch_size=3), model)[1] == evidence.tokens
    steep = replace(evidence, gradients=True)
    for expected in (steep.tokens, 0):
        tables, tokens = score_once(steep, model)
        assert tokens == expected
        assert "gradient_norm" in tables["holdout"].column_names

    def bf16() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    assert score_once(evidence, model, bf16)[1] == evidence.tokens
    assert score_once(evidence, model, bf16)[1] == 0
    assert score_once(evidence, model, nullcontext)[1] == 0


def test_the_digest_of_records_is_of_what_they_hold(evidence: EvidenceSets) -> None:
    forget = evidence.sets["forget"]
    moved = forget.select([5, 0, 1, 2, 3, 4]).select(range(1, 6))
    assert data_digest(moved) == data_digest(forget.select(range(5))) != data_digest(forget)
    assert data_digest(Dataset.from_list(list(moved), features=moved.features)) == data_digest(moved)


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[: len(whole) // 2]])
def test_a_damaged_table_is_made_again(evidence: EvidenceSets, model: Any, damage: Callable[[bytes], bytes]) -> None:
    forget = replace(evidence, sets={"forget": evidence.sets["forget"]})
    tables, _ = score_once(forget, model)
    (path,) = tables_folder().iterdir()
    path.write_bytes(damage(path.read_bytes()))
    again, tokens = score_once(forget, model)
    assert tokens == forget.tokens
    assert again["forget"].equals(tables["forget"])
    assert score_once(forget, model)[1] == 0


def test_no_bit_of_a_table_can_flip_unseen(tmp_path: Path) -> None:
    place, table = tmp_path / "name.parquet", pa.table({"row": [0, 1, 2], "loss": [0.1, 0.2, 0.3]})
    _write(place, table)
    whole = place.read_bytes()
    for i in range(len(whole)):
        place.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        found = _read(place)
        assert found is None or found.equals(table)


def test_what_cannot_be_written_is_not_kept(evidence: EvidenceSets, model: Any) -> None:
    tables_folder().parent.mkdir(exist_ok=True)
    tables_folder().write_text("in the way")
    try:
        assert score_once(evidence, model)[1] == evidence.tokens
    finally:
        tables_folder().unlink()


def test_a_table_is_never_there_by_half_whoever_writes_it(tmp_path: Path) -> None:
    place, table = tmp_path / "tables" / "name.parquet", pa.table({"loss": np.random.default_rng(0).random(10**5)})
    _write(place, table)
    writers = [threading.Thread(target=lambda: [_write(place, table) for _ in range(10)]) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = _read(place)
        assert found is not None
        assert found.equals(table)
    assert [path.name for path in place.parent.iterdir()] == ["name.parquet"]


def test_no_text_and_no_name_lies_in_the_folder(evidence: EvidenceSets, model: Any) -> None:
    score_once(evidence, model)
    paths = list(tables_folder().iterdir())
    assert len(paths) == 2
    assert tables_folder().stat().st_mode & 0o777 == 0o700
    for path in paths:
        assert len(path.stem) == 32
        for column in pq.read_schema(path):
            kind = column.type.value_type if pa.types.is_list(column.type) else column.type
            assert pa.types.is_integer(kind) or pa.types.is_floating(kind)


def test_a_run_reads_what_another_has_measured_and_does_not_count_it(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    settings = {key: value for key, value in lm_settings.items() if key != "original"} | {"budget": 0.05}

    def run(name: str, **more: Any) -> UnlearningReport:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**settings, "output_dir": str(tmp_path / name), **more}))
        assert main(["run", "--config", str(path)]) == 0
        return UnlearningReport.load(tmp_path / name / "unlearning_report.json")

    first, second = run("first"), run("second", method="toward_base")
    assert first.cost is not None
    assert second.cost is not None
    assert first.cost.kept_flops == 0 < second.cost.kept_flops
    assert second.cost.measuring_flops == first.cost.measuring_flops - second.cost.kept_flops
    assert second.cost.retraining_flops is not None
    spent = second.cost.flops + second.cost.measuring_flops
    assert second.cost.total_ratio == spent / second.cost.retraining_flops
    assert second.arms["original"] == first.arms["original"]
    assert second.arms["unlearned"] != first.arms["unlearned"]
    card = (tmp_path / "second" / "README.md").read_text()
    assert f"{second.cost.kept_flops:.3g} more in an earlier run" in card
    assert "in an earlier run" not in (tmp_path / "first" / "README.md").read_text()
