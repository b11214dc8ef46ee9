"""The trainer: what never changes, what never leaks into training, what it measures."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
)

from hf_unlearn import InputError, Records, UnlearningConfig, UnlearningTrainer, split_retained
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.split import RetainedSplit
from hf_unlearn.models.layers import flops_per_token
from hf_unlearn.models.location import locate
from hf_unlearn.training.saving import last_checkpoint

from ..conftest import secrets_rows, tickets_rows
from ..support.alternates import by_hand


def config(folder: Path, **settings: Any) -> UnlearningConfig:
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "method": "fine_tune",
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "seed": 11,
        "use_cpu": True,
        "measure_steps": 0,
        "disable_tqdm": True,
    }
    return UnlearningConfig(**{**options, **settings})


def secrets(named_by: str | None = None) -> RetainedSplit:
    dataset = Dataset.from_list(secrets_rows())
    request = Records.rows(range(10)) if named_by is None else Records.ids(named_by, dataset[named_by][:10])
    return split_retained(dataset, request, holdout=Records.rows(range(50, 60)))


def tickets() -> RetainedSplit:
    dataset = Dataset.from_list(tickets_rows())
    return split_retained(dataset, Records.rows(range(10)), holdout=Records.rows(range(50, 60)))


def trainer(folder: Path, model: Any, split: RetainedSplit | None = None, **settings: Any) -> UnlearningTrainer:
    split = split or secrets()
    if settings.get("method") == "altpo" and "alternates_file" not in settings:
        path = folder.with_name(f"{folder.name}-alternates.jsonl")
        settings["alternates_file"] = str(by_hand(path, secrets().forget))
    own = {
        name: settings.pop(name)
        for name in ("peft_config", "callbacks", "data_collator", "eval_dataset")
        if name in settings
    }
    return UnlearningTrainer(
        model,
        config(folder, **settings),
        train_dataset=split.retained,
        forget_dataset=split.forget,
        holdout_dataset=split.holdout,
        **own,
    )


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def encoded(folder: Path, rows: Any) -> Dataset:
    encoder = RecordEncoder(AutoTokenizer.from_pretrained(folder), RecordFormat("prompt_completion"), 128)
    examples = encode(rows, encoder, "test")
    assert isinstance(examples, Dataset)
    return examples


# What never changes


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fine_tune_is_the_plain_trainer_bit_for_bit(lm_base: Path, tmp_path: Path, accumulation: int) -> None:
    split = secrets()
    plain = Trainer(
        AutoModelForCausalLM.from_pretrained(lm_base),
        config(tmp_path, gradient_accumulation_steps=accumulation),
        train_dataset=encoded(lm_base, split.retained),
        data_collator=PaddingCollator(0),
    )
    plain.train()
    ours = trainer(tmp_path, str(lm_base), split, gradient_accumulation_steps=accumulation)
    ours.train()
    assert same(weights(plain.model), weights(ours.model))


def test_fine_tune_of_a_classifier_is_the_plain_trainer_bit_for_bit(classifier_original: Path, tmp_path: Path) -> None:
    split = tickets()
    encoder = RecordEncoder(
        AutoTokenizer.from_pretrained(classifier_original),
        RecordFormat("classification"),
        128,
        {"billing": 0, "delivery": 1, "other": 2},
    )
    plain = Trainer(
        AutoModelForSequenceClassification.from_pretrained(classifier_original),
        config(tmp_path),
        train_dataset=encode(split.retained, encoder, "test"),
        data_collator=PaddingCollator(0),
    )
    plain.train()
    ours = trainer(tmp_path, str(classifier_original), split)
    ours.train()
    assert same(weights(plain.model), weights(ours.model))


def test_measuring_does_not_change_the_training(lm_base: Path, tmp_path: Path) -> None:
    silent, measured = (trainer(tmp_path, str(lm_base), measure_steps=steps) for steps in (0, 2))
    silent.train()
    measured.train()
    assert same(weights(silent.model), weights(measured.model))
    points = [entry for entry in measured.state.log_history if "forget_loss" in entry]
    assert [point["step"] for point in points] == [2, 4]
    assert set(points[0]) >= {"holdout_loss", "retained_loss", "membership_auc", "membership_auc_low"}


@pytest.mark.parametrize("form", ["pandas", "arrow"])
def test_the_format_that_data_is_shown_in_changes_nothing(lm_base: Path, tmp_path: Path, form: str) -> None:
    dataset = Dataset.from_list(secrets_rows())
    runs = []
    for rows in (dataset, dataset.with_format(form)):
        split = split_retained(
            rows, Records.rows(range(10)), holdout=Records.rows(range(50, 60)), near_duplicates=None
        )
        run = trainer(tmp_path, str(lm_base), split, max_steps=2, method="gradient_difference")
        run.train()
        runs.append((run, run.report(audit=split.audit).verdict))
    assert same(weights(runs[0][0].model), weights(runs[1][0].model))
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize(("method", "alpha"), [("toward_base", 0.0), ("toward_base", 1.0), ("base", None)])
def test_the_ends_of_the_dial(
    lm_original: Path, lm_base: Path, tmp_path: Path, method: str, alpha: float | None
) -> None:
    run = trainer(tmp_path, str(lm_original), method=method, alpha=alpha)
    run._move_to_start()
    expected = lm_original if alpha == 0 else lm_base
    assert same(weights(run.model), weights(AutoModelForCausalLM.from_pretrained(expected)))


def test_the_same_command_gives_the_same_weights(lm_original: Path, tmp_path: Path) -> None:
    for method in ("fine_tune", "toward_base", "shrink_perturb", "base"):
        runs = [trainer(tmp_path, str(lm_original), method=method) for _ in range(2)]
        for run in runs:
            torch.manual_seed(np.random.randint(1000))
            run.train()
        assert same(weights(runs[0].model), weights(runs[1].model)), method


@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
def test_gradient_accumulation_is_one_large_batch(
    lm_base: Path, classifier_original: Path, tmp_path: Path, task: str
) -> None:
    # Dropout draws for each batch, and would differ between one batch of 16 and four of 4.
    off = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "classifier_dropout": 0.0}
    results = []
    for batch, accumulation in ((16, 1), (4, 4)):
        if task == "text-generation":
            loaded, split = AutoModelForCausalLM.from_pretrained(lm_base, attention_dropout=0.0), secrets()
        else:
            loaded, split = AutoModelForSequenceClassification.from_pretrained(classifier_original, **off), tickets()
        run = trainer(
            tmp_path,
            loaded,
            split,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=4,
            optim="sgd",
            learning_rate=0.1,
        )
        run.train()
        results.append(weights(run.model))
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-4, atol=1e-6, msg=name)


# What never reaches a training batch


class Poison:
    """A collator that fails when it meets a record of S."""

    def __init__(self, forget: Dataset) -> None:
        self.forbidden = {tuple(ids) for ids in forget["input_ids"]}
        self.training = False
        self.batches = 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.training:
            self.batches += 1
            assert not any(tuple(example["input_ids"]) in self.forbidden for example in examples)
        return PaddingCollator(0)(examples)


class Watch(TrainerCallback):
    """Tells the collator when batches are for training: measuring may read S."""

    def __init__(self, poison: Poison) -> None:
        self.poison = poison

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.poison.training = False

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.poison.training = True


@pytest.mark.parametrize("method", ["fine_tune", "toward_base", "shrink_perturb", "base"])
def test_records_to_forget_never_reach_a_training_batch(lm_original: Path, tmp_path: Path, method: str) -> None:
    split = secrets()
    poison = Poison(encoded(lm_original, split.forget))
    run = trainer(
        tmp_path, str(lm_original), split, method=method, data_collator=poison, max_steps=-1, num_train_epochs=1
    )
    loader = run.get_train_dataloader()
    poison.training = True
    assert len(list(loader)) == poison.batches == 10
    poison.forbidden = {tuple(ids) for ids in encoded(lm_original, split.retained)["input_ids"]}
    with pytest.raises(InputError, match=r"The data collator fails on a batch of .* \(AssertionError\)"):
        list(loader)


# Adapters


@pytest.mark.parametrize("checkpointing", [False, True])
def test_with_lora_the_weights_under_it_do_not_move(lm_base: Path, tmp_path: Path, checkpointing: bool) -> None:
    before = weights(AutoModelForCausalLM.from_pretrained(lm_base))
    run = trainer(
        tmp_path,
        str(lm_base),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4),
        activation_checkpointing=checkpointing,
    )
    start = weights(run.model)
    run.train()
    after = weights(run.model)
    moved = {name for name in after if not torch.equal(after[name], start[name])}
    assert moved == {name for name in after if "lora_" in name}
    plain = {name.removeprefix("base_model.model.").replace(".base_layer", ""): w for name, w in after.items()}
    assert all(torch.equal(plain[name], weight) for name, weight in before.items())
    run.save_model()
    assert not (tmp_path / "training_args.bin").exists()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lm_base), str(tmp_path))
    assert all(torch.equal(w, after[n]) for n, w in loaded.named_parameters() if "lora_" in n)


def test_an_adapter_is_trained_as_an_adapter_and_can_be_merged(lm_base: Path, tmp_path: Path) -> None:
    first = trainer(tmp_path / "adapter", str(lm_base), peft_config=LoraConfig(task_type="CAUSAL_LM", r=4))
    first.train()
    first.save_model()
    second = trainer(
        tmp_path / "merged", str(tmp_path / "adapter"), method="toward_base", alpha=0.5, merge_adapter=True
    )
    assert second.trained_adapter
    assert second.base is not None
    assert second.base.name == str(lm_base)
    second.train()
    report = second.report()
    assert report.method.lora is not None
    assert report.method.adapter_of is None
    second.save_model()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert same(weights(model), weights(second.model))


def test_a_new_adapter_on_the_base_belongs_to_the_base(lm_original: Path, lm_base: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(lm_original), method="base", peft_config=LoraConfig(task_type="CAUSAL_LM", r=4))
    run.train()
    expected = run.evidence.score(run.model)["forget"] if run.evidence else None
    run.save_model()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lm_base), str(tmp_path))
    assert loaded.active_peft_config.base_model_name_or_path == str(lm_base)
    assert run.evidence is not None
    assert run.evidence.score(loaded)["forget"].equals(expected)


def test_adapters_that_would_not_be_the_result_are_refused(lm_original: Path, lm_base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(task_type="CAUSAL_LM", r=4)
    with pytest.raises(InputError, match="moves the weights under the new adapter"):
        trainer(tmp_path, str(lm_original), method="toward_base", peft_config=lora)
    from peft import get_peft_model

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_base), lora)
    with pytest.raises(InputError, match="is an adapter already"):
        trainer(tmp_path, adapted, peft_config=lora)


def test_only_the_last_layers_are_trained(lm_base: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(lm_base), train_last_layers=1)
    before = weights(run.model)
    run.train()
    after = weights(run.model)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert all(name.startswith(("model.layers.1.", "model.norm.", "lm_head.")) for name in moved)


# Cost


def test_operations_count_frozen_weights_and_adapters(lm_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    weights_ = model.num_parameters(exclude_embeddings=True)
    assert flops_per_token(model) == (6.0 * weights_, 2.0 * weights_)
    per_layer = sum(weight.numel() for weight in model.model.layers[0].parameters())
    for weight in model.model.layers[0].parameters():
        weight.requires_grad = False
    rest = weights_ - per_layer
    assert flops_per_token(model) == (2.0 * weights_ + 4.0 * rest, 2.0 * weights_)
    from peft import get_peft_model

    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_base), LoraConfig(task_type="CAUSAL_LM", r=4))
    lora = sum(w.numel() for n, w in adapted.named_parameters() if "lora_" in n)
    step, forward = flops_per_token(adapted)
    assert forward == 2.0 * (weights_ + lora)
    # backward to the activations from the first adapter on, which sits in the first layer's query projection
    first = model.model.layers[0].self_attn.q_proj.weight.numel()
    assert step == forward + 2.0 * (weights_ + lora - first) + 2.0 * lora


def test_the_cost_is_in_the_report(lm_original: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(lm_original), max_steps=-1, budget=0.25, measure_steps=0.5)
    run.train()
    report = run.report()
    cost = report.cost
    assert cost is not None
    assert run.record is not None
    assert report.method.epochs == pytest.approx(0.25 * run.record.epochs)
    assert cost.seconds >= cost.measuring_seconds * 0.2 > 0
    assert cost.tokens == pytest.approx(0.25 * run.record.tokens * 40 / 50, rel=0.05)
    # a quarter of the epochs on 40 of the 50 records
    assert cost.training_ratio == pytest.approx(0.25, abs=0.03)
    assert cost.total_ratio is not None
    assert cost.total_ratio > cost.training_ratio  # type: ignore[operator]
    assert cost.peak_memory_bytes > 50_000_000


# Verdicts


def test_fine_tuning_at_a_low_rate_does_not_forget_and_the_report_says_so(lm_original: Path, tmp_path: Path) -> None:
    split = secrets()
    run = trainer(tmp_path, str(lm_original), split, learning_rate=1e-4)
    run.train()
    report = run.report(audit=split.audit)
    assert report.arms["original"].membership_auc is not None
    assert report.arms["original"].membership_auc.value > 0.9
    assert report.verdict.word == "not_forgotten", report.verdict


def test_the_audit_says_which_records_count_as_one_group(lm_original: Path, tmp_path: Path) -> None:
    customers, strangers = Records.ids("group", ["g0", "g1"]), Records.ids("group", ["g4", "g5"])
    split = split_retained(Dataset.from_list(secrets_rows()), customers, holdout=strangers)
    run = trainer(tmp_path, str(lm_original), split, method="fine_tune", max_steps=1)
    run.train()
    report = run.report(audit=split.audit)
    assert (report.group_column, report.verdict.groups) == ("group", [2, 2])
    assert {arm: found.sets["forget"].loss.n for arm, found in report.arms.items()} == {"original": 2, "unlearned": 2}
    again = run.report(audit=split.audit)
    assert again.verdict.groups == [2, 2], "a second report finds the same"
    # The settings go before the audit, and a set that lost the column cannot be judged.
    named = trainer(tmp_path, str(lm_original), split, group_column="id").report(audit=split.audit)
    assert (named.group_column, named.verdict.groups) == ("id", [20, 20])
    assert split.holdout is not None
    without = replace(split, holdout=split.holdout.remove_columns("group"))
    with pytest.raises(InputError, match="no column 'group'"):
        trainer(tmp_path, str(lm_original), without).report(audit=split.audit)


def test_a_clean_start_is_exact_and_names_its_stage(lm_original: Path, tmp_path: Path) -> None:
    split = secrets()
    run = trainer(tmp_path, str(lm_original), split, method="base")
    run.train()
    report = run.report(audit=split.audit)
    assert report.verdict.word == "exact"
    assert "the fine-tuning of lm_base" in report.verdict.reasons[0]
    assert run.report().verdict.word != "exact", "without the audit nobody knows of copies"


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"push_to_hub": True},
            "would publish before the verdict is known; publish after it with trainer.push_to_hub",
        ),
        ({"method": "zzz"}, "no method 'zzz'; the methods are fine_tune, fine_tune_high_lr, cf_k"),
        ({"method": "toward_base", "alpha": 1.5}, "alpha=1.5 is not possible; it must be between 0 and 1"),
        ({"alpha": 0.5}, "'fine_tune' has no alpha"),
        ({"budget": 0.0}, "budget=0.0 is not possible"),
        ({"auc_margin": 0.26}, "auc_margin=0.26 is not possible; it must be above 0 and at most 0.25."),
        ({"measure_steps": -1}, "measure_steps=-1"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers=-1"),
        ({"train_last_layers": 0}, "train_last_layers=0"),
        ({"stop_when_forgotten": True, "measure_steps": 0}, "needs measurements"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **settings)


def test_what_does_not_fit_together(lm_base: Path, tmp_path: Path) -> None:
    split = secrets()
    folder = tmp_path / "out"
    with pytest.raises(InputError, match="needs the retained set"):
        UnlearningTrainer(str(lm_base), config(folder))
    with pytest.raises(InputError, match="needs the model that the original was fine-tuned from"):
        trainer(folder, str(lm_base), method="base")
    with pytest.raises(InputError, match="is the original itself"):
        trainer(folder, str(lm_base), method="base", base_model_name_or_path=str(lm_base))
    with pytest.raises(InputError, match=r"no training_record\.json"):
        trainer(folder, str(lm_base), budget=0.5)
    with pytest.raises(InputError, match="needs forget_dataset and holdout_dataset"):
        UnlearningTrainer(
            str(lm_base),
            config(folder, stop_when_forgotten=True, measure_steps=1),
            split.retained,
            forget_dataset=split.forget,
        )
    with pytest.raises(InputError, match="has no length; say how many steps to train with max_steps"):
        UnlearningTrainer(str(lm_base), config(folder, max_steps=-1), split.retained.to_iterable_dataset())  # type: ignore[union-attr]
    with pytest.raises(InputError, match="The forget set is empty"):
        UnlearningTrainer(str(lm_base), config(folder), split.retained, forget_dataset=split.forget.select([]))  # type: ignore[union-attr]
    with pytest.raises(InputError, match="The retained set is tokenised and the forget set is not"):
        UnlearningTrainer(str(lm_base), config(folder), encoded(lm_base, split.retained), forget_dataset=split.forget)
    with pytest.raises(InputError, match="nothing to report on"):
        UnlearningTrainer(str(lm_base), config(folder), split.retained).report()
    with pytest.raises(InputError, match="call report\\(\\) first"):
        UnlearningTrainer(str(lm_base), config(folder), split.retained).create_model_card()
    with pytest.raises(InputError, match="no complete checkpoint"):
        UnlearningTrainer(str(lm_base), config(folder), split.retained).train(resume_from_checkpoint=True)


# Streams, examples, models in memory


def test_a_stream_is_trained_on(lm_base: Path, tmp_path: Path) -> None:
    split = split_retained(
        Dataset.from_list(secrets_rows()).to_iterable_dataset(),
        Records.ids("id", [f"p-{i:03d}" for i in range(10)]),
        holdout=Records.ids("id", [f"p-{i:03d}" for i in range(50, 60)]),
    )
    run = trainer(tmp_path, str(lm_base), split)
    run.train()
    assert run.state.global_step == 6
    report = run.report(audit=split.audit)
    assert report.arms["unlearned"].sets["retained"].records == 40


def test_tokenised_examples_and_a_model_in_memory(lm_base: Path, tmp_path: Path) -> None:
    split = secrets()
    run = UnlearningTrainer(
        AutoModelForCausalLM.from_pretrained(lm_base),
        config(tmp_path),
        encoded(lm_base, split.retained),
        forget_dataset=encoded(lm_base, split.forget).remove_columns("row"),
    )
    run.train()
    report = run.report()
    assert report.original is not None
    assert report.original.name == "lm_base"
    assert report.verdict.word == "undecided"


def test_classifiers(classifier_original: Path, tmp_path: Path) -> None:
    split = tickets()
    run = trainer(tmp_path, str(classifier_original), split, method="toward_base")
    run.train()
    report = run.report(audit=split.audit, retrained=str(classifier_original))
    assert report.task == "text-classification"
    assert report.arms["unlearned"].sets["retained"].accuracy is not None
    assert list(report.arms) == ["original", "unlearned", "retrained"]
    run.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.label2id == {"billing": 0, "delivery": 1, "other": 2}
    assert same(weights(loaded), weights(run.model))


# Stopping and going on


class StopAt(TrainerCallback):
    """Sends Ctrl-C to this process in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_weights(lm_original: Path, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", str(lm_original), method="toward_base", save_strategy="steps", measure_steps=2)
    whole.train()
    options: dict[str, Any] = {"method": "toward_base", "save_strategy": "steps", "measure_steps": 2}
    stopped = trainer(tmp_path / "stopped", str(lm_original), callbacks=[StopAt(2)], **options)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3 of 6"):
        stopped.train()
    assert signal.getsignal(signal.SIGINT) is handler
    checkpoint = last_checkpoint(tmp_path / "stopped")
    assert checkpoint is not None
    assert checkpoint.endswith("checkpoint-3")
    resumed = trainer(tmp_path / "stopped", str(lm_original), **options)
    resumed.train(resume_from_checkpoint=True)
    assert same(weights(resumed.model), weights(whole.model))
    assert resumed.cost.training_seconds > stopped.cost.training_seconds
    assert [p.step for p in resumed.report().curve] == [p.step for p in whole.report().curve] == [2, 4]


def test_a_trainer_trains_once_and_reads_its_own_checkpoints_only(lm_base: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(lm_base))
    run.train()
    with pytest.raises(InputError, match="has trained already"):
        run.train()
    foreign = tmp_path / "checkpoint-1"
    foreign.mkdir()
    (foreign / "trainer_state.json").write_text("{}")
    with pytest.raises(InputError, match="is not a checkpoint of this trainer"):
        trainer(tmp_path, str(lm_base)).train(resume_from_checkpoint=str(foreign))


def test_plain_training_needs_no_forget_set(lm_base: Path, tmp_path: Path) -> None:
    run = UnlearningTrainer(str(lm_base), config(tmp_path), secrets().retained, source=locate(str(lm_base)))
    run.train()
    run.save_model()
    assert {path.name for path in tmp_path.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert not (tmp_path / "README.md").exists()
