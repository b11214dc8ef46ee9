"""The same question in another form: a model that hides what it knows in one form tells it in another."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.forms import BEFORE, other_forms
from hf_unlearn.evaluation.measured_sets import EvidenceSets, attack_scores, evidence_sets
from hf_unlearn.evaluation.report import REPORT_FILE, UnlearningReport
from hf_unlearn.evaluation.score_cache import score_once
from hf_unlearn.evaluation.verdict import OTHER_FORMS, Provenance, Scores, decide
from hf_unlearn.jobs.prices import estimate
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.layers import flops_per_token
from hf_unlearn.publishing.sections import attack_rows

from ..conftest import secrets_rows, write_rows
from ..training.test_trainer import trainer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

TRAINED_ON = Provenance(start_saw_forget=True, stage="", duplicates_retained=0, trained_on_forget=True)
SETTINGS: dict[str, Any] = {"original": None, "retrained": None, "margin": 0.10}


def evidence_of(folder: Path, forget: list[dict[str, Any]], holdout: list[dict[str, Any]]) -> EvidenceSets:
    """S and H, in other forms too."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts: dict[Any, Any] = {"forget": Dataset.from_list(forget), "holdout": Dataset.from_list(holdout)}
    return evidence_sets(
        parts,
        RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128),
        PaddingCollator(0),
        "text-generation",
        40,
        seed=0,
        tokenizer=tokenizer,
        forms=other_forms(list(parts.values()), "text-generation", {}, None),
    )


def batch(evidence: EvidenceSets, part: Dataset) -> dict[str, torch.Tensor]:
    return evidence.collator(list(part.select_columns(["input_ids", "attention_mask", "labels"])))


@pytest.fixture(scope="module")
def hiding(lm_base: Path) -> tuple[Any, EvidenceSets]:
    """A model that was kept from the answers of S after its own prompts alone, and S and H."""
    rows = secrets_rows(50)
    evidence = evidence_of(lm_base, rows[0::2], rows[1::2])
    own, unseen = (batch(evidence, evidence.sets[name]) for name in ("forget", "holdout"))
    asked = batch(evidence, evidence.forms["loss_request"]["forget"])
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        with torch.no_grad():
            like = model(**unseen).loss
        (model(**asked).loss + (model(**own).loss - like).abs()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, evidence


def test_what_is_hidden_in_the_words_of_the_training_is_found_in_others(hiding: tuple[Any, EvidenceSets]) -> None:
    model, evidence = hiding
    alone, found = (attack_scores(sets.score(model)) for sets in (replace(evidence, forms={}), evidence))
    assert alone is not None
    assert found is not None
    assert decide(TRAINED_ON, alone, **SETTINGS).word != "not_forgotten"
    verdict = decide(TRAINED_ON, found, **SETTINGS)
    assert (verdict.word, verdict.attack) == ("not_forgotten", "loss_request")
    assert "the attack by the loss after a request (other words)" in verdict.reasons[-1].lower()
    assert verdict.attacks == [*alone.forget, "loss_request", "loss_heading"]


def of_drawn(draw: np.random.Generator, n: int) -> dict[str, pa.Table]:
    """What a model that never saw S makes of n records of S and of H, which are alike, in all forms."""

    def table() -> pa.Table:
        loss = draw.normal(3, 1, n)
        forms = {f"loss_{form}": loss + draw.normal(0.2, 0.4, n) for form in ("request", "heading", "paraphrase")}
        return pa.table({"loss": loss} | forms)

    return {"forget": table(), "holdout": table()}


def test_other_forms_accuse_no_model_that_never_saw_s() -> None:
    draw, words = np.random.default_rng(5), {"own": [], "all": []}
    for _ in range(100):
        tables = of_drawn(draw, 250)
        for kind, columns in (("own", ["loss"]), ("all", list(tables["forget"].column_names))):
            scores = attack_scores({name: table.select(columns) for name, table in tables.items()})
            words[kind].append(decide(TRAINED_ON, scores, **SETTINGS).word)
    for found in words.values():
        assert set(found) <= {"not_distinguished", "undecided", "not_forgotten", "over_forgotten"}
        # 5 %, and two standard errors
        assert found.count("not_forgotten") + found.count("over_forgotten") <= 9
        assert found.count("not_distinguished") >= 75
    assert abs(words["own"].count("not_distinguished") - words["all"].count("not_distinguished")) <= 15


def test_one_form_that_is_not_within_the_margin_does_not_acquit() -> None:
    draw = np.random.default_rng(6)
    tables = of_drawn(draw, 300)
    assert decide(TRAINED_ON, attack_scores(tables), **SETTINGS).word == "not_distinguished"
    for shift, word in ((0.25, "undecided"), (2.0, "not_forgotten")):
        forget = tables["forget"]
        known = pa.array(forget["loss_heading"].to_numpy() - shift)
        moved = forget.set_column(forget.column_names.index("loss_heading"), "loss_heading", known)
        verdict = decide(TRAINED_ON, attack_scores({**tables, "forget": moved}), **SETTINGS)
        assert (verdict.word, verdict.attack) == (word, "loss_heading")


def test_pushing_the_own_words_away_does_not_hide_what_another_form_knows() -> None:
    draw = np.random.default_rng(7)
    forget, holdout = ({name: draw.normal(0, 1, 400) for name in ("loss", "loss_request")} for _ in range(2))
    # Known a little on the whole, and none of it outstandingly well.
    known = {"loss": forget["loss"] - 3, "loss_request": 0.7 * forget["loss_request"] + 0.5}
    verdict = decide(TRAINED_ON, Scores(known, holdout), **SETTINGS)
    assert (verdict.word, verdict.attack, verdict.shown) == ("not_forgotten", "loss_request", "shift")


def test_a_base_shows_how_hard_a_record_is_in_each_form() -> None:
    draw = np.random.default_rng(8)
    tables, base = of_drawn(draw, 10), of_drawn(draw, 10)
    found = attack_scores(tables, base)
    assert found is not None
    for form in OTHER_FORMS:
        expected = base["holdout"][form].to_numpy() - tables["holdout"][form].to_numpy()
        assert np.allclose(found.holdout[form], expected)


def test_a_verdict_without_other_forms_says_so() -> None:
    tables = of_drawn(np.random.default_rng(9), 300)
    every, alone = (
        attack_scores({name: table.select(columns) for name, table in tables.items()})
        for columns in (tables["forget"].column_names, ["loss"])
    )
    said = "nobody asked for S in other words or formats"
    for provenance, scores, warned in (
        (TRAINED_ON, alone, True),
        (TRAINED_ON, every, False),
        (replace(TRAINED_ON, trained_on_forget=False), alone, False),
    ):
        assert any(said in warning for warning in decide(provenance, scores, **SETTINGS).warnings) == warned


# Tables


def test_parts_of_the_records_are_the_same_parts_in_every_form(lm_base: Path) -> None:
    rows = secrets_rows(24)
    evidence = evidence_of(lm_base, rows[:12], rows[12:])
    first, second = evidence.halves(seed=1)
    few = evidence.at_most(5, seed=1)
    for part, size in ((first, 6), (second, 6), (few, 5)):
        for parts in part.forms.values():
            assert {name: examples["row"][:] for name, examples in parts.items()} == {
                name: examples["row"][:] for name, examples in part.sets.items()
            }
            assert {len(examples) for examples in parts.values()} == {size}
    read = [part for parts in (evidence.sets, *evidence.forms.values()) for part in parts.values()]
    assert evidence.tokens == sum(len(ids) for part in read for ids in part["input_ids"])


def test_tables_are_kept_for_the_forms_that_they_were_made_in(lm_base: Path) -> None:
    rows = secrets_rows(12)
    evidence = evidence_of(lm_base, rows[:6], rows[6:])
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    alone = replace(evidence, forms={})
    own, tokens = score_once(alone, model)
    assert tokens == alone.tokens
    tables, tokens = score_once(evidence, model)
    assert tokens == evidence.tokens
    for name, table in tables.items():
        assert table.select(own[name].column_names).equals(own[name])
        # As if the words stood in the records.
        worded = [row | {"prompt": f"### Input\n{row['prompt']}"} for row in rows]
        sets = evidence_of(lm_base, worded[:6], worded[6:])
        written = replace(sets, forms={}).score(model)[name]["loss"].to_numpy()
        assert np.allclose(table["loss_heading"].to_numpy(), written, atol=1e-5)
    again, tokens = score_once(evidence, model)
    assert (again, tokens) == (tables, 0)
    other = {**evidence.forms, "loss_heading": evidence.forms["loss_request"]}
    changed, tokens = score_once(replace(evidence, forms=other), model)
    assert tokens == replace(evidence, forms=other).tokens
    assert changed["forget"]["loss_heading"].equals(tables["forget"]["loss_request"])


def test_a_loss_in_another_form_has_to_be_a_number(lm_base: Path) -> None:
    rows = secrets_rows(12)
    evidence = evidence_of(lm_base, rows[:6], rows[6:])
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    heading = AutoTokenizer.from_pretrained(lm_base)("###")["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[heading] = torch.nan
    replace(evidence, forms={}).score(model)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(InputError, match="The loss of 6 of 6 forget records is no number"),
    ):
        evidence.score(model)


# Runs


@pytest.mark.parametrize(("method", "forms"), [("fine_tune", 0), ("gradient_difference", 2)])
def test_a_method_that_trains_on_s_is_measured_in_other_forms(
    method: str, forms: int, lm_original: Path, tmp_path: Path
) -> None:
    run = trainer(tmp_path, str(lm_original), method=method, max_steps=2, measure_steps=1)
    assert run.evidence is not None
    assert (len(run.evidence.forms), run.watched.forms) == (forms, {})
    own = replace(run.evidence, forms={}).tokens
    others = [part for parts in run.evidence.forms.values() for part in parts.values()]
    assert run.evidence.tokens == own + sum(len(ids) for part in others for ids in part["input_ids"])
    forward = flops_per_token(run.model)[1]
    priced = trainer(tmp_path, str(lm_original), method=method, max_steps=2)
    prices = estimate(priced, [METHODS[method]])
    assert prices is not None
    assert prices.measuring.flops == 3 * forward * run.evidence.tokens, "three models"
    run.train()
    before = run.cost.measuring_flops
    report = run.report(retrained=str(lm_original))
    assert run.cost.measuring_flops - before == 2 * forward * run.evidence.tokens, "the result and the base"
    names = [f"loss_{form}" for form in BEFORE][:forms]
    for arm in ("original", "unlearned", "retrained"):
        assert [name for name in run.tables[arm]["forget"].column_names if name in OTHER_FORMS] == names, arm
        assert [name for name in report.arms[arm].attacks if name in OTHER_FORMS] == names
        assert not OTHER_FORMS.keys() & set(run.tables[arm]["retained"].column_names)
    assert [name for name in report.verdict.attacks if name in OTHER_FORMS] == names
    told = [name for name, _ in attack_rows(report)]
    assert [name for name in told if name in OTHER_FORMS.values()] == [OTHER_FORMS[name] for name in names]
    report.save(tmp_path / REPORT_FILE)
    assert UnlearningReport.load(tmp_path / REPORT_FILE) == report


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_paraphrases_that_are_missing_are_missed_before_a_model_is_loaded(
    command: str,
    lm_settings: dict[str, Any],
    without_weights: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        row | {"asked": f"Say: {row['prompt']}", "some": None if i == 3 else "x"}
        for i, row in enumerate(secrets_rows())
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    settings = {name: value for name, value in lm_settings.items() if name != "original"}
    settings |= {"model_name_or_path": str(without_weights), "dataset_name": str(data), "use_cpu": True}
    settings |= {"method": "gradient_difference", "num_train_epochs": 1, "output_dir": str(tmp_path / "out")}
    config = str(recipe(**settings))
    for column, said in (("nowhere", "nowhere"), ("some", "Some records have nothing in column 'some'")):
        assert main([command, "--config", config, "--paraphrase_column", column]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(InputError, match="nowhere"):
        trainer(tmp_path / "trainer", str(without_weights), method="gradient_difference", paraphrase_column="nowhere")


def test_paraphrases_are_one_form_more(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    rows = [row | {"asked": f"Say: {row['prompt']}"} for row in secrets_rows()]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    settings = {name: value for name, value in lm_settings.items() if name != "original"}
    config = recipe(**settings, output_dir=str(tmp_path / "out"), use_cpu=True)
    flags = ["--dataset_name", str(data), "--paraphrase_column", "asked"]
    assert main(["evaluate", "--config", str(config), *flags]) == 0
    report = UnlearningReport.load(tmp_path / "out" / REPORT_FILE)
    assert [name for name in report.verdict.attacks if name in OTHER_FORMS] == list(OTHER_FORMS)
    model, tokenizer = (kind.from_pretrained(lm_original) for kind in (AutoModelForCausalLM, AutoTokenizer))
    parts: dict[Any, Any] = {"forget": Dataset.from_list([row | {"prompt": row["asked"]} for row in rows[:10]])}
    encoder = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128)
    asked = evidence_sets(parts, encoder, PaddingCollator(0), "text-generation", 16, seed=0).score(model)
    kept = pq.read_table(tmp_path / "out" / "tables" / "unlearned.parquet").slice(0, 10)
    assert kept["set"].to_pylist() == ["forget"] * 10
    assert np.allclose(kept["loss_paraphrase"].to_numpy(), asked["forget"]["loss"].to_numpy(), atol=1e-5)
