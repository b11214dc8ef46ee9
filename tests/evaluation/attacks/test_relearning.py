"""Attacks on copies: a model that hides what it knows gives it away, one that never knew does not."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.attacks.low_bits import QuantisedScore, available, in_few_bits
from hf_unlearn.evaluation.attacks.relearning import (
    RelearningCurve,
    halfway,
    relearn,
    relearn_one_epoch,
    way_back,
)
from hf_unlearn.evaluation.attacks.translating import Translator
from hf_unlearn.evaluation.measured_sets import EvidenceSets
from hf_unlearn.evaluation.scoring import score
from hf_unlearn.jobs.helping import one_model
from hf_unlearn.jobs.preparation import prepare_run
from hf_unlearn.models.loading import Model, load_any, load_tokenizer
from hf_unlearn.models.location import locate
from hf_unlearn.training.trainer_data import measured_sets

from ...conftest import note_rows, secrets_rows, write_rows
from ...support.models import bert_config
from ...training.test_processes import LAUNCH, launched

CPU = torch.device("cpu")

ATTACK: dict[str, Any] = {"steps": 12, "learning_rate": 2e-3, "batch_size": 5, "seed": 1}


@pytest.fixture(scope="module")
def retrained_folder(lm_settings: dict[str, Any], lm_original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained as the original, without S."""
    folder = tmp_path_factory.mktemp("relearning")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(lm_settings))
    flags = ["--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "retrained")]
    assert main(["train", *flags, "--train_on", "retained"]) == 0
    return folder / "retrained"


@pytest.fixture(scope="module")
def evidence(lm_settings: dict[str, Any], lm_original: Path) -> EvidenceSets:
    values = {key: value for key, value in lm_settings.items() if key != "original"}
    run = prepare_run({**values, "use_cpu": True})
    return measured_sets(run.sets, [run.source], load_any(run.source, None).config, run.task, run.config)


@pytest.fixture(scope="module")
def original(lm_original: Path) -> Model:
    return load_any(locate(str(lm_original)), None)


@pytest.fixture(scope="module")
def retrained(retrained_folder: Path) -> Model:
    return load_any(locate(str(retrained_folder)), None)


@pytest.fixture(scope="module")
def hidden(original: Model, evidence: EvidenceSets) -> Model:
    """The original after gradient ascent on S: it says that it has forgotten."""
    suppressed = copy.deepcopy(original).eval()
    optimizer = torch.optim.SGD(suppressed.parameters(), 0.1)
    batch = evidence.collator(list(evidence.sets["forget"].remove_columns("row")))
    for _ in range(1000):
        loss = suppressed(**batch).loss
        if loss > 3:
            return suppressed
        (-loss).backward()
        nn.utils.clip_grad_norm_(suppressed.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("ascent did not get anywhere")


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def losses(curve: RelearningCurve) -> list[float]:
    return [point.forget_loss.value for point in curve.points]


def test_what_is_hidden_comes_back_and_what_was_never_there_does_not(
    original: Model, hidden: Model, retrained: Model, evidence: EvidenceSets
) -> None:
    known = relearn(original, evidence, taught="forget", **ATTACK)
    for taught in ("forget", "retained"):
        back = relearn(hidden, evidence, taught=taught, **ATTACK)
        never = relearn(retrained, evidence, taught=taught, **ATTACK)
        assert [point.step for point in back.points] == list(range(13))
        assert {point.forget_loss.n for point in back.points} == {5}
        assert {point.membership_auc.n for point in back.points if point.membership_auc} == {15}
        threshold = halfway(losses(never)[0], losses(known)[0])
        assert known.steps_until(threshold) == 0
        assert losses(back)[0] > threshold
        assert (back.steps_until(threshold) or 99) <= 8
        assert never.steps_until(threshold) is None
    assert known.points[0].membership_auc is not None
    assert known.points[0].membership_auc.value > 0.9


def test_the_attacked_model_stays_as_it_is(original: Model, evidence: EvidenceSets) -> None:
    before, trained = bits(original), [weight.requires_grad for weight in original.parameters()]
    original.train()
    state = torch.get_rng_state()
    curve = relearn(original, evidence, taught="retained", **ATTACK)
    assert losses(curve)[-1] != losses(curve)[0]
    assert bits(original) == before
    assert [weight.requires_grad for weight in original.parameters()] == trained
    assert all(weight.grad is None for weight in original.parameters())
    assert original.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_curve(hidden: Model, evidence: EvidenceSets) -> None:
    """Whatever is drawn in between; measuring less often changes no step."""
    first = relearn(hidden, evidence, taught="forget", **ATTACK)
    torch.rand(7)
    assert relearn(hidden, evidence, taught="forget", **ATTACK) == first
    seldom = relearn(hidden, evidence, taught="forget", measure_every=5, **ATTACK)
    assert seldom.points == tuple(first.points[step] for step in (0, 5, 10, 12))
    assert relearn(hidden, evidence, taught="forget", **{**ATTACK, "seed": 2}).points != first.points


def test_one_epoch_at_the_rate_of_the_field(original: Model, hidden: Model, evidence: EvidenceSets) -> None:
    """Five records at two a step; of other data as many steps are taken."""
    for taught in ("forget", "retained"):
        curve = relearn_one_epoch(hidden, evidence, taught=taught, batch_size=2, seed=1)
        whole = relearn(hidden, evidence, taught=taught, steps=3, learning_rate=2e-5, batch_size=2, seed=1)
        assert curve.points == (whole.points[0], whole.points[3])
        assert curve.learning_rate == 2e-5
        before, after = losses(curve)
        assert way_back(curve, 0.0) == pytest.approx(1 - after / before)
        assert way_back(curve, before) is None
    assert way_back(curve, after) == 1


def test_weights_of_half_precision_are_attacked_in_float32(original: Model, evidence: EvidenceSets) -> None:
    half = copy.deepcopy(original).to(torch.bfloat16)
    curve = relearn(half, evidence, taught="forget", **{**ATTACK, "steps": 3, "learning_rate": 1e-6})
    assert next(half.parameters()).dtype == torch.bfloat16
    assert len({round(loss, 9) for loss in losses(curve)}) == 4, "steps that bfloat16 would swallow"


def test_an_adapter_is_attacked_with_all_its_weights(original: Model, evidence: EvidenceSets) -> None:
    adapter = get_peft_model(copy.deepcopy(original), LoraConfig(task_type="CAUSAL_LM", r=2))
    before = bits(adapter)
    whole = relearn(original, evidence, taught="forget", **ATTACK)
    both = relearn(adapter, evidence, taught="forget", **ATTACK)
    assert losses(both)[0] == pytest.approx(losses(whole)[0], rel=1e-5)
    assert abs(losses(both)[-1] - losses(both)[0]) > 0.5 * abs(losses(whole)[-1] - losses(whole)[0])
    assert bits(adapter) == before


def test_an_adapter_on_public_text_is_all_that_is_trained(
    original: Model, hidden: Model, evidence: EvidenceSets
) -> None:
    tokenizer = load_tokenizer([locate(original.name_or_path)])
    rows = Dataset.from_list(note_rows(30))
    public = encode(rows, RecordEncoder(tokenizer, RecordFormat("text"), 128), "public")
    assert isinstance(public, Dataset)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_dropout=0.1)
    attack: dict[str, Any] = {**ATTACK, "taught": "public", "public": public, "learning_rate": 2e-2}
    before, state = bits(hidden), torch.get_rng_state()
    curve = relearn(hidden, evidence, lora=lora, **attack)
    assert (curve.lora_r, len(curve.points)) == (4, 13)
    assert losses(curve)[0] == losses(relearn(hidden, evidence, taught="forget", **ATTACK))[0]
    assert losses(curve)[-1] != losses(curve)[0]
    assert bits(hidden) == before
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert relearn(hidden, evidence, lora=lora, **attack) == curve
    whole = relearn(hidden, evidence, **attack)
    assert whole.lora_r is None
    assert losses(whole) != losses(curve)
    # what the model has of an adapter is merged
    adapter = get_peft_model(copy.deepcopy(hidden), LoraConfig(task_type="CAUSAL_LM", r=2))
    assert losses(relearn(adapter, evidence, lora=lora, **attack)) == pytest.approx(losses(curve), rel=1e-3)
    with pytest.raises(InputError, match="no public records"):
        relearn(hidden, evidence, lora=lora, **{**attack, "public": None})


def test_what_cannot_be_attacked(original: Model, evidence: EvidenceSets) -> None:
    one = EvidenceSets(
        evidence.task, {"forget": evidence.sets["forget"].select([0])}, evidence.collator, evidence.batch_size
    )
    with pytest.raises(InputError, match="two records or more"):
        relearn(original, one, taught="forget", **ATTACK)
    alone = EvidenceSets(evidence.task, {"forget": evidence.sets["forget"]}, evidence.collator, evidence.batch_size)
    with pytest.raises(InputError, match="no retained records"):
        relearn(original, alone, taught="retained", **ATTACK)
    assert relearn(original, alone, taught="forget", **ATTACK).points[0].membership_auc is None


# The command


def test_the_attacks_on_an_unlearned_model_and_on_its_reference(
    lm_settings: dict[str, Any],
    lm_original: Path,
    retrained_folder: Path,
    hidden: Model,
    wordpiece_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    unlearned, out = tmp_path / "unlearned", tmp_path / "attacks"
    hidden.save_pretrained(unlearned)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lm_original / name, unlearned)
    shutil.copy(lm_original / "training_record.json", unlearned)
    settings = {**lm_settings, "num_train_epochs": 3, "learning_rate": 2e-3, "use_cpu": True}
    flags = ["--config", str(recipe(**settings)), "--output_dir", str(out), "--model_name_or_path", str(unlearned)]
    compared = ["--original_model", str(lm_original), "--retrained_model", str(retrained_folder)]
    compared += ["--public_dataset", str(write_rows(tmp_path / "notes.jsonl", note_rows())), "--lora_r", "4"]
    before = (unlearned / "model.safetensors").read_bytes()
    assert main(["attack", *flags, *compared, "--attack_steps", "12"]) == 0
    assert (unlearned / "model.safetensors").read_bytes() == before
    pictures = {"relearning_curve.png", "leak_curve.png", "depth.png"}
    assert {path.name for path in out.iterdir()} == {"attacks.json", *pictures}
    report = json.loads((out / "attacks.json").read_text())
    until = {arm: found["steps_until_halfway"] for arm, found in report["models"].items()}
    said = capsys.readouterr().out
    for taught, words in (("forget", "half of S"), ("retained", "records of L")):
        steps = {arm: found[taught] for arm, found in until.items()}
        assert steps["original"] == 0
        assert 0 < steps["unlearned"] <= 8
        assert steps["retrained"] is None
        finding = f"halfway back after {steps['unlearned']} steps; the retrained one not in 12 steps."
        assert f"Taught {words}, the unlearned model has the rest of S {finding}" in said
    first = {arm: found["relearning"][0]["points"][0]["forget_loss"] for arm, found in report["models"].items()}
    assert report["halfway_loss"] == (first["retrained"]["value"] + first["original"]["value"]) / 2
    low = {arm: {score["form"]: score for score in found["quantised"]} for arm, found in report["models"].items()}
    assert {"rounded_8", "rounded_4", "q8_0", "q4_0"} <= set(low["unlearned"])
    assert {score["recovery"] for score in low["original"].values()} == {None}
    assert all(abs(score["recovery"]["value"]) < 0.1 for score in low["unlearned"].values() if score["bits"] == 8)
    assert all(score["recovery"]["n"] == 10 for score in low["retrained"].values())
    assert "of the way back to the original's loss of S; the retrained one: " in said
    epochs = {arm: found["one_epoch"] for arm, found in report["models"].items()}
    assert [[point["step"] for point in curve["points"]] for curve in epochs["unlearned"]] == [[0, 1]] * 3
    start, end = (point["forget_loss"]["value"] for point in epochs["unlearned"][0]["points"])
    share = (start - end) / (start - first["original"]["value"])
    assert report["models"]["unlearned"]["way_back"]["forget"] == pytest.approx(share)
    assert report["models"]["original"]["way_back"] == {}
    assert f"as the field relearns, the unlearned model is {share:.0%} of the way back to" in said
    public = report["models"]["unlearned"]["relearning"][2]
    assert (public["taught"], public["lora_r"]) == ("public", 4)
    assert public["learning_rate"] == 2e-2
    assert set(report["skipped"]) <= {"INT8 and NF4", "Q4_K_M"}
    depth = report["depth"]
    assert (depth["read_by"], depth["records"], len(depth["layers"])) == ("patching", 10, 2)
    assert 0 < depth["depth"]["value"] < 0.9, "what is hidden is not gone"
    assert f"The depth of the unlearning is {depth['depth']['value']:.2f} [" in " ".join(said.split())
    pair = report["pair"]
    assert set(pair["membership"]) == {"unlearned", "retrained"}
    assert pair["membership"]["retrained"]["value"] > 0.9, "exact unlearning gives S away to whoever has both"
    assert {name: texts["forget"]["verbatim"]["n"] for name, texts in pair["texts"].items()} == {
        "alone": 10, "unlearned": 10, "retrained": 10,
    }  # fmt: skip
    exact = pair["membership"]["retrained"]["value"]
    assert (
        f"tell S from H by the change of the loss with an AUC of {pair['membership']['unlearned']['value']:.2f}"
        in said
    )
    assert f"the retrained one: {exact:.2f} [" in said
    told = {arm: found["sampling"]["forget"] for arm, found in report["models"].items()}
    assert [point["samples"] for point in told["original"]] == [1, 2, 4, 8]
    assert told["original"][-1]["verbatim"]["value"] > told["retrained"][-1]["verbatim"]["value"] == 0
    share = told["unlearned"][-1]["verbatim"]["value"]
    assert (
        f"Asked 8 times, the unlearned model writes {share:.0%} of the records of S word for word (and 0% of H)"
        in said
    )
    shown = report["models"]["unlearned"]["in_context"]
    assert (shown["shots"], shown["others"], shown["alone"]["n"]) == (4, "holdout", 10)
    gain = shown["gain"]["value"]
    direction = "lower" if gain >= 0 else "higher"
    assert f"loss of a record of S is {abs(gain):.2f} {direction} than after records of H" in said
    plain, *others = report["models"]["original"]["wordings"]
    assert (plain["wording"], len(others)) == ("as trained", 10)
    words = [score["forget_loss"]["value"] for score in others if score["wording"] != "answer begun"]
    assert plain["forget_loss"]["value"] < min(words)
    worst = {arm: found["worst_wording"] for arm, found in report["models"].items()}
    for found in worst.values():
        assert (found["wordings"], found["forget_loss"]["n"], found["holdout_loss"]["n"]) == (11, 10, 10)
    assert worst["original"]["membership_auc"]["value"] > 0.9
    assert worst["retrained"]["membership_auc"]["low"] < 0.5
    assert "Asked in 11 wordings, the unlearned model has a mean loss of S of" in said
    assert "per_device_train_batch_size=10" in said, "from the training record"
    assert "budget" not in said, "the price of an unlearning is not that of an attack"
    assert report["models"]["unlearned"]["relearning"][0]["batch_size"] == 10
    assert not re.search(r"p-0\d\d|The code of", said + json.dumps(report))
    # alone it has no yardstick
    judge = BertForSequenceClassification(bert_config(len(wordpiece_tokenizer)))
    judge.config.id2label = {0: "entailment", 1: "neutral"}
    for part in (judge, wordpiece_tokenizer):
        part.save_pretrained(tmp_path / "judge")
    more = ["--attack_samples", "2", "--attack_temperature", "0.5", "--entailment_model", str(tmp_path / "judge")]
    assert main(["attack", *flags, *more, "--attack_steps", "2", "--output_dir", str(tmp_path / "alone")]) == 0
    alone = json.loads((tmp_path / "alone" / "attacks.json").read_text())
    assert (alone["halfway_loss"], list(alone["models"])) == (None, ["unlearned"])
    written = alone["models"]["unlearned"]["sampling"]
    assert (written["drawn"], written["temperature"]) == (2, 0.5)
    assert all(point["entailed"]["n"] == 10 for point in written["forget"])
    assert {score["recovery"] for score in alone["models"]["unlearned"]["quantised"]} == {None}
    said = capsys.readouterr().out
    assert "Sampling, for each of them: 40 texts of 64 tokens at most, and 40 pairs of texts at most" in said
    assert f"Sampling at temperature 0.5 read and wrote {written['tokens']:,} tokens a model." in said
    assert "goes from a loss of" in said
    assert "Left out: public, because no --public_dataset was named." in said
    assert "Left out: depth, because it needs --original_model and --retrained_model." in said


EPOCHS = ("one_epoch_forget", "one_epoch_retained")


def interrupted(*args: Any) -> Any:
    raise KeyboardInterrupt


def made_anew(*args: Any, **settings: Any) -> Any:
    raise AssertionError("it is there already")


def test_prompts_in_the_words_of_a_column(
    lm_settings: dict[str, Any],
    lm_original: Path,
    original: Model,
    seq2seq_base: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records without one are left out, H as a whole when it lacks the column; the completion stays."""
    rows = [
        {**row, "asked": None if i in (3, 4) else f"Tell me, {row['prompt']}", "prefix": "Q:"}
        for i, row in enumerate(secrets_rows())
    ]
    data = write_rows(tmp_path / "worded.jsonl", rows)
    held_out = write_rows(tmp_path / "held_out.jsonl", secrets_rows()[50:])
    settings = {key: value for key, value in lm_settings.items() if key not in ("original", "holdout_ids")}
    settings |= {"dataset_name": str(data), "holdout_dataset": str(held_out), "use_cpu": True}
    templates = {"prompt_template": "{prompt}", "completion_template": "{completion}"}
    flags = ["--attack_steps", "1", "--attack_samples", "1", "--paraphrase_column", "asked"]
    flags += ["--translation_model", str(seq2seq_base)]
    reports, real = [], in_few_bits
    for name, extra in (("columns", {}), ("templates", templates)):
        out = tmp_path / name
        config = str(recipe(**settings, **extra, output_dir=str(out)))
        if name == "columns":
            # Killed in the last attack and typed again, it ends as the other does.
            with monkeypatch.context() as patched:
                patched.setattr(one_model, "in_few_bits", interrupted)
                assert main(["attack", "--config", config, *flags]) == 130
                for attack in ("relearn", "relearn_one_epoch", "sample_leaks", "in_context", "other_words"):
                    patched.setattr(one_model, attack, made_anew)
                patched.setattr(Translator, "translate", made_anew)
                patched.setattr(one_model, "in_few_bits", real)
                assert main(["attack", "--config", config, *flags]) == 0
        else:
            assert main(["attack", "--config", config, *flags]) == 0
        report = json.loads((out / "attacks.json").read_text())
        reports.append(report)
        plain, *_, worded, translated = report["models"]["unlearned"]["wordings"]
        assert (plain["wording"], worded["wording"]) == ("as trained", "asked")
        assert worded["membership_auc"] is None
        encoder = RecordEncoder(load_tokenizer([locate(str(lm_original))]), RecordFormat("prompt_completion"), 128)
        asked = [row | {"prompt": row["asked"]} for i, row in enumerate(rows[:10]) if i not in (3, 4)]
        examples = encode(Dataset.from_list(asked), encoder, "test")
        assert isinstance(examples, Dataset)
        table = score(original, examples, PaddingCollator(0), task="text-generation", batch_size=4)
        total = table["nll"].to_numpy().sum() / table["tokens"].to_numpy().sum()
        assert worded["forget_loss"]["value"] == pytest.approx(total, rel=1e-4)
        assert worded["forget_loss"]["n"] == plain["forget_loss"]["n"] == 8
        # The prompt in another language; the answer, which begins with a blank, stays.
        own = [row for i, row in enumerate(rows[:10]) if i not in (3, 4)]
        said, tokens = Translator.load(locate(str(seq2seq_base)), CPU).translate([row["prompt"] for row in own], 1)
        translations = [row | {"prompt": text} for row, text in zip(own, said, strict=True)]
        examples = encode(Dataset.from_list(translations), encoder, "test")
        assert isinstance(examples, Dataset)
        table = score(original, examples, PaddingCollator(0), task="text-generation", batch_size=4)
        total = table["nll"].to_numpy().sum() / table["tokens"].to_numpy().sum()
        assert (translated["wording"], translated["translation_tokens"]) == ("in another language", tokens)
        assert translated["forget_loss"]["value"] == pytest.approx(total, rel=1e-4)
        assert report["models"]["unlearned"]["worst_wording"]["wordings"] == 13
        printed = capsys.readouterr().out
        assert "Translation, once: 8 prompts of 256 tokens at most." in printed
        assert f"Translating the prompts read and wrote {tokens:,} tokens." in printed
    assert reports[0] == reports[1]


def test_a_classifier_is_not_asked_to_write(
    classifier_settings: dict[str, Any],
    classifier_original: Path,
    seq2seq_base: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = str(recipe(**classifier_settings, output_dir=str(tmp_path / "out"), use_cpu=True))
    assert main(["attack", "--config", config, "--attack_steps", "1"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"attacks.json", "relearning_curve.png"}
    report = json.loads((tmp_path / "out" / "attacks.json").read_text())
    left_out = {"sampling", "in_context", "wordings", "public", "depth", "pair"}
    assert set(report["skipped"]) - {"INT8 and NF4", "Q4_K_M"} == left_out
    assert report["models"]["unlearned"]["sampling"] is None
    assert "Left out: sampling, because a model for text-classification writes no text." in capsys.readouterr().out
    assert main(["attack", "--config", config, "--public_dataset", classifier_settings["dataset_name"]]) == 2
    assert "is for models that go on writing" in capsys.readouterr().err
    for flags in (["--paraphrase_column", "text"], ["--translation_model", str(seq2seq_base)]):
        assert main(["attack", "--config", config, *flags]) == 2
        assert "prompt of plain text" in capsys.readouterr().err


def test_a_killed_command_goes_on_where_it_was(
    classifier_settings: dict[str, Any],
    classifier_original: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    config = str(recipe(**classifier_settings, output_dir=str(out), use_cpu=True))
    flags = ["attack", "--config", config, "--original_model", str(classifier_original)]
    # The same model twice, which an attack does not know.
    flags += ["--retrained_model", str(shutil.copytree(classifier_original, tmp_path / "again"))]
    (tmp_path / "again" / "training_record.json").unlink()
    taught: list[str] = []
    real, epoch, form = relearn, relearn_one_epoch, in_few_bits

    def counted(model: Model, *args: Any, **settings: Any) -> RelearningCurve:
        if len(taught) == 3:
            raise KeyboardInterrupt
        taught.append(settings["taught"])
        return real(model, *args, **settings)

    def counted_epoch(model: Model, *args: Any, **settings: Any) -> RelearningCurve:
        epochs.append(settings["taught"])
        return epoch(model, *args, **settings)

    def counted_form(model: Model, evidence: EvidenceSets, *args: Any) -> QuantisedScore:
        forms.append(args[0])
        return form(model, evidence, *args)

    epochs: list[str] = []
    forms: list[str] = []
    # llama.cpp knows no such tokenizer.
    possible = [one for one in available()[0] if one != "q4_k_m"]
    monkeypatch.setattr(one_model, "relearn", counted)
    monkeypatch.setattr(one_model, "relearn_one_epoch", counted_epoch)
    monkeypatch.setattr(one_model, "in_few_bits", counted_form)
    assert main([*flags, "--attack_steps", "1"]) == 130
    kept = {path.name for path in (out / "finished").iterdir()}
    of_original = {f"original_{name}" for name in ("taught_forget", "taught_retained", *EPOCHS, *possible)}
    assert kept == {f"{name}.json" for name in {*of_original, "unlearned_taught_forget"}}
    said = capsys.readouterr().out
    assert "for each of 3 models: 2 training steps of 10 records, and 60 forward passes of a record." in said
    assert "Depth: 180 forward passes of a record, and 6 linear probes." in said
    assert "The pair: 60 forward passes of a record." in said
    for made in (taught, epochs, forms):
        made.clear()
    assert main([*flags, "--attack_steps", "1"]) == 0
    assert taught == ["retained", "forget", "retained"], "three of six were there"
    assert epochs == ["forget", "retained"] * 2, "those of the original were there"
    assert forms == possible * 2
    assert not (out / "finished").exists()
    found = json.loads((out / "attacks.json").read_text())
    for name, whole in (("relearn", real), ("relearn_one_epoch", epoch), ("in_few_bits", form)):
        monkeypatch.setattr(one_model, name, whole)
    assert main([*flags, "--attack_steps", "1"]) == 0
    assert json.loads((out / "attacks.json").read_text()) == found
    curves = [models["relearning"] for models in found["models"].values()]
    assert curves[0] == curves[1] == curves[2], "of one model"
    assert "the layers of the retrained model lack nothing of S" in found["skipped"]["depth"]
    assert {auc["value"] for auc in found["pair"]["membership"].values()} == {0.5}
    assert found["pair"]["texts"] == {}


@pytest.mark.slow
def test_two_processes_attack_as_one_does(
    lm_settings: dict[str, Any],
    lm_original: Path,
    retrained_folder: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
) -> None:
    flags = ["attack", "--config", str(recipe(**lm_settings)), "--use_cpu", "true", "--attack_steps", "3"]
    flags += ["--original_model", str(lm_original), "--retrained_model", str(retrained_folder)]
    flags += ["--per_device_eval_batch_size", "4"]
    assert main([*flags, "--output_dir", str(tmp_path / "one")]) == 0
    done = launched(*LAUNCH, "-m", "hf_unlearn.cli", *flags, "--output_dir", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("The attacks, on copies") == 1
    one, two = (json.loads((tmp_path / name / "attacks.json").read_text()) for name in ("one", "two"))
    for a, b in zip(*(found["models"]["unlearned"]["relearning"] for found in (one, two)), strict=True):
        assert [point["step"] for point in b["points"]] == [0, 1, 2, 3]
        for p, q in zip(a["points"], b["points"], strict=True):
            assert q["forget_loss"]["n"] == p["forget_loss"]["n"] == 5
            assert q["forget_loss"]["value"] == pytest.approx(p["forget_loss"]["value"], rel=1e-3)
    assert one["depth"]["depth"]["value"] == two["depth"]["depth"]["value"] == 0, "the original is no unlearned one"
    for a, b in zip(one["depth"]["layers"], two["depth"]["layers"], strict=True):
        assert b["retrained"] == pytest.approx(a["retrained"], rel=1e-4)
    for arm, texts in one["pair"]["texts"].items():
        assert two["pair"]["texts"][arm] == texts


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attack_steps", "0"], "--attack_steps 0 is not possible"),
        (["--attack_samples", "0"], "--attack_samples 0 is not possible"),
        (["--attack_temperature", "0"], "--attack_temperature 0.0 is not possible"),
        (["--entailment_model", "nowhere/at-all-"], "nowhere/at-all-"),
        (["--translation_model", "nowhere/at-all-"], "nowhere/at-all-"),
        (["--translation_model", "BASE"], "text2text-generation is not possible"),
        (["--paraphrase_column", "nowhere"], "nowhere"),
        (
            [
                "--prompt_template",
                "{group} {prompt}",
                "--completion_template",
                "{completion}",
                "--paraphrase_column",
                "id",
            ],
            "has 2 columns",
        ),
        (["--public_dataset", "nowhere/at-all-"], "nowhere/at-all-"),
        (["--public_dataset", "SECRETS"], "needs a column 'text'"),
        (["--original_model", "nowhere/at-all-"], "nowhere/at-all-"),
        (["--load_in_8bit", "true", "--use_peft", "true"], "cannot be attacked"),
    ],
)
def test_what_the_attacks_refuse(
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    config = str(recipe(**{**lm_settings, "output_dir": str(tmp_path / "out")}))
    named = {"SECRETS": lm_settings["dataset_name"], "BASE": str(lm_original)}
    flags = [named.get(flag, flag) for flag in flags]
    assert main(["attack", "--config", config, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
