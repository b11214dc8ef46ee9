"""Every named method on every task: it runs, moves what it should, and leaves alone what it should."""

import json
import shlex
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback

from hf_unlearn import (
    InputError,
    Records,
    UnlearningConfig,
    UnlearningReport,
    UnlearningTrainer,
    split_retained,
)
from hf_unlearn.cli import main
from hf_unlearn.data.split import RetainedSplit
from hf_unlearn.jobs.preparation import prepare_run
from hf_unlearn.jobs.reference_models import plan_reference
from hf_unlearn.methods.retained_methods import RETAINED_METHODS
from hf_unlearn.methods.starts import fresh_model
from hf_unlearn.methods.step_rules import Disturb
from hf_unlearn.models.layers import blocks_of, matrices, names_after, names_from, names_of, plain_name
from hf_unlearn.models.loading import AUTO_CLASSES, PEFT_TASKS, load_model, plain_model
from hf_unlearn.models.location import locate
from hf_unlearn.models.tasks import TASKS
from hf_unlearn.publishing.card import render_card

from ..conftest import note_rows, secrets_rows, tagged_rows, tickets_rows
from ..publishing.test_card import example_report
from ..support.draws import few_of
from ..training.test_trainer import config, same, secrets, trainer, weights

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

# Those that use S are in test_forget_methods.py.
METHODS = {method.name: method for method in RETAINED_METHODS}
FEW = ("base", "reset_ends", "distill")  # on every task; the others by default on a language model
ROWS: dict[str, Any] = {
    "text-generation": secrets_rows,
    "text-classification": tickets_rows,
    "token-classification": tagged_rows,
    "fill-mask": note_rows,
    "text2text-generation": secrets_rows,
}
BASES = {
    "text-generation": "lm_base",
    "text-classification": "wordpiece_base",
    "token-classification": "wordpiece_base",
    "fill-mask": "wordpiece_base",
    "text2text-generation": "seq2seq_base",
}
TARGETS = {task: ["q_proj", "v_proj"] if task == "text-generation" else ["query", "value"] for task in ROWS}
UNMOVED = {"fine_tune", "fine_tune_high_lr", "cf_k", "l1_sparse", "cyclic_resets"}
ON_EACH_TASK = pytest.mark.parametrize(
    ("task", "method"),
    few_of(
        product(ROWS, METHODS),
        {case for case in product(ROWS, METHODS) if case[0] == "text-generation" or case[1] in FEW},
    ),
    indirect=["task"],
)


def split_of(task: str) -> RetainedSplit:
    return split_retained(
        Dataset.from_list(ROWS[task]()), Records.rows(range(10)), holdout=Records.rows(range(50, 60))
    )


def classes_of(task: str) -> dict[str, Any]:
    names = {
        "text-classification": ["billing", "delivery", "other"],
        "token-classification": ["B-NAME", "B-PLACE", "O"],
    }
    if task not in names:
        return {}
    return {"id2label": dict(enumerate(names[task])), "label2id": {name: i for i, name in enumerate(names[task])}}


@pytest.fixture(scope="session", params=list(ROWS))
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def base(task: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(BASES[task])


@pytest.fixture(scope="session")
def original(task: str, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model some way from its base, and a checkpoint that lies on the way."""
    folder = tmp_path_factory.mktemp("originals")
    torch.manual_seed(4)
    model = AUTO_CLASSES[task].from_pretrained(base, **classes_of(task))  # type: ignore[index]
    for place in (folder / "original" / "checkpoint-5", folder / "original"):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.02)
        model.save_pretrained(place)
    return folder / "original"


@pytest.fixture(scope="session")
def adapter(task: str, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA adapter some way from its beginning, and a checkpoint that lies on the way."""
    if task not in PEFT_TASKS:
        pytest.skip("PEFT has no adapters for it")
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(4)
    model = get_peft_model(
        AUTO_CLASSES[task].from_pretrained(base, **classes_of(task)),  # type: ignore[index]
        LoraConfig(task_type=PEFT_TASKS[task], r=2, target_modules=TARGETS[task]),  # type: ignore[index]
    )
    for place in (folder / "adapter" / "checkpoint-5", folder / "adapter"):
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight) * 0.02)
        model.save_pretrained(str(place))
    return folder / "adapter"


class KeepStart(TrainerCallback):
    """Keeps the weights that the fine-tuning begins with."""

    def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        self.weights = weights(model)


def run_of(
    method: str, folder: Path, task: str, base: Path, original: Path, **options: Any
) -> tuple[UnlearningTrainer, KeepStart]:
    start = KeepStart()
    named: dict[str, Any] = {"rewind_checkpoint": str(original / "checkpoint-5")} if method == "rewind" else {}
    loaded: Any
    if (original / "adapter_config.json").is_file():
        plain = AUTO_CLASSES[task].from_pretrained(base, **classes_of(task))  # type: ignore[index]
        loaded = PeftModel.from_pretrained(plain, str(original), is_trainable=True)
    else:
        loaded = AUTO_CLASSES[task].from_pretrained(original)  # type: ignore[index]
    own = {name: options.pop(name) for name in ("peft_config",) if name in options}
    options = {"max_steps": 3, "base_model_name_or_path": str(base), "weight_decay": 0.1, **named, **options}
    split = split_of(task)
    run = UnlearningTrainer(
        loaded, config(folder, method=method, **options), split.retained,
        processing_class=AutoTokenizer.from_pretrained(base), callbacks=[start], task=task, **own,
    )  # fmt: skip
    return run, start


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@ON_EACH_TASK
def test_a_method_moves_what_it_should(method: str, task: str, base: Path, original: Path, tmp_path: Path) -> None:
    run, start = run_of(method, tmp_path, task, base, original)
    before = weights(run.model)
    trained = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    run.train()
    moved, learned = changed(before, start.weights), changed(start.weights, weights(run.model))
    if method in UNMOVED:
        assert not moved
    else:
        assert moved
    assert learned
    assert learned <= trained, "what is frozen stays bit for bit"
    plain = plain_model(run.model)
    if METHODS[method].settings.get("train_last_layers"):
        last = names_from(plain, blocks_of(plain)[-1])
        assert trained == last
        assert moved <= (last if method == "eu_k" else set())
    else:
        assert trained == set(before)
    if method in ("prune_then_fine_tune", "reset_smallest", "noise_reset", "reset_least_changed"):
        assert moved <= {name for name, _ in matrices(plain, False)}
    if method == "reset_ends":
        assert moved <= names_of(plain, blocks_of(plain)[0]) | names_after(plain)
    if method == "noisy_matrices":
        assert moved <= names_after(plain)
    for name, values in weights(run.model).items():
        assert torch.isfinite(values).all(), name


@ON_EACH_TASK
def test_a_method_on_an_adapter_moves_the_adapter_alone(
    method: str, task: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    if METHODS[method].picks_weights:
        with pytest.raises(
            InputError, match="picks single weights of the model, and an adapter leaves them as they are"
        ):
            run_of(method, tmp_path, task, base, adapter)
        return
    run, start = run_of(method, tmp_path, task, base, adapter)
    before = weights(run.model)
    trained = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    run.train()
    moved, learned = changed(before, start.weights), changed(start.weights, weights(run.model))
    # A language model's adapter has no part in the head.
    headless = method == "noisy_matrices" and not any("modules_to_save" in name for name in before)
    assert bool(moved) == (method not in UNMOVED and not headless)
    assert learned
    assert learned <= trained
    # The head that a trained one stands for is made anew with it.
    of_adapter = {name for name in before if "lora_" in name or "modules_to_save" in name or "original_module" in name}
    assert trained <= of_adapter
    assert moved <= of_adapter
    if METHODS[method].settings.get("train_last_layers"):
        plain = plain_model(run.model)
        last = names_from(plain, blocks_of(plain)[-1])
        assert {plain_name(name) for name in trained} <= last
        assert {plain_name(name) for name in moved} <= last
        assert trained < of_adapter


# Against what they say


def lm(folder: Path, base: Path, scale: float = 0.05) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, attention_dropout=0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * scale)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def started(method: str, folder: Path, model: Any, base: Path | None, **options: Any) -> Any:
    """The start of a method."""
    named = {"base_model_name_or_path": str(base)} if base else {}
    run = trainer(folder, model, method=method, **named, **options)
    run._move_to_start()
    return run.model


@pytest.mark.parametrize("known", [True, False])
def test_layers_go_back_to_the_base_or_to_a_fresh_model(lm_base: Path, tmp_path: Path, known: bool) -> None:
    original = lm(tmp_path / "o", lm_base)
    anchor = AutoModelForCausalLM.from_pretrained(lm_base) if known else fresh_model(original, seed=11)
    # Without a base nobody knows what retraining repeats.
    for method in ("eu_k", "reset_ends", *(["retrain"] if known else [])):
        found, before = (
            started(method, tmp_path / "out", lm(tmp_path / "o", lm_base), lm_base if known else None),
            original,
        )
        for (name, weight), old, new in zip(
            found.named_parameters(), before.parameters(), anchor.parameters(), strict=True
        ):
            reset = {
                "eu_k": name.startswith(("model.layers.1.", "model.norm.", "lm_head.")),
                "reset_ends": name.startswith(("model.layers.0.", "model.norm.", "lm_head.")),
                "retrain": True,
            }[method]
            assert torch.equal(weight, new if reset else old), (method, name)


def test_noise_has_the_asked_size_and_its_own_seed(lm_base: Path, tmp_path: Path) -> None:
    original = lm(tmp_path / "o", lm_base).requires_grad_(False)
    first, again, other, none = (
        started("noise_reset", tmp_path / "out", lm(tmp_path / "o", lm_base), None, alpha=alpha, seed=seed)
        for alpha, seed in ((0.5, 3), (0.5, 3), (0.5, 4), (0.0, 3))
    )
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))
    assert same(weights(none), weights(original))
    for name, weight in matrices(original, False):
        noise = first.get_parameter(name).detach() - weight
        assert (noise.std() / weight.std()).item() == pytest.approx(0.5, rel=0.1), name
        assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), weight.flatten()]))[0, 1])) < 0.1


@pytest.mark.parametrize("method", ["prune_then_fine_tune", "reset_smallest"])
def test_the_smallest_weights_of_all_matrices_go(lm_base: Path, tmp_path: Path, method: str) -> None:
    original = lm(tmp_path / "o", lm_base)
    found = started(method, tmp_path / "out", lm(tmp_path / "o", lm_base), None, alpha=0.7)
    fresh = fresh_model(original, seed=11)
    sizes = torch.cat([weight.abs().flatten() for _, weight in matrices(original, False)])
    limit = sizes.sort().values[round(0.7 * len(sizes)) - 1]
    for name, weight in matrices(original, False):
        small = weight.abs() <= limit
        drawn = torch.zeros_like(weight) if method == "prune_then_fine_tune" else fresh.get_parameter(name)
        assert torch.equal(found.get_parameter(name), torch.where(small, drawn, weight)), name
    shares = [float((weight.abs() <= limit).float().mean()) for _, weight in matrices(original, False)]
    assert max(shares) - min(shares) > 0.02, "one limit for all, not one for each"


def test_the_least_changed_weights_are_drawn_afresh(lm_base: Path, tmp_path: Path) -> None:
    original, base = lm(tmp_path / "o", lm_base), AutoModelForCausalLM.from_pretrained(lm_base)
    found = started("reset_least_changed", tmp_path / "out", lm(tmp_path / "o", lm_base), lm_base, alpha=0.25)
    fresh = fresh_model(original, seed=11)
    for name, weight in matrices(original, False):
        change = (weight - base.get_parameter(name)).abs()
        drawn = found.get_parameter(name) != weight
        assert int(drawn.sum()) == round(0.25 * weight.numel())
        assert change[drawn].max() <= change[~drawn].min()
        assert torch.equal(found.get_parameter(name)[drawn], fresh.get_parameter(name)[drawn])
    wider = tmp_path / "wider"
    LlamaForCausalLM(LlamaConfig(**{**original.config.to_dict(), "intermediate_size": 64})).save_pretrained(wider)
    with pytest.raises(InputError, match="is not what this model was fine-tuned from"):
        started("reset_least_changed", tmp_path / "out", lm(tmp_path / "o", lm_base), wider)


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_pruned_weights_stay_zero_and_do_not_count_in_the_gradients_norm(
    lm_base: Path, tmp_path: Path, optim: str
) -> None:
    run = trainer(
        tmp_path / "out", lm(tmp_path / "o", lm_base), method="prune_then_fine_tune", optim=optim, weight_decay=0.1,
        max_steps=2, logging_steps=1, gradient_accumulation_steps=2, lr_scheduler_type="constant",
    )  # fmt: skip
    norms: list[float] = []

    class Norm(TrainerCallback):
        def on_pre_optimizer_step(self, *args: Any, model: Any, **kwargs: Any) -> None:
            for _, weight in matrices(model, False):
                assert not (weight.grad[weight == 0] != 0).any()
            norms.append(float(torch.cat([w.grad.flatten() for w in model.parameters()]).norm()))

    run.add_callback(Norm())
    run.args.max_grad_norm = 1e9
    run.train()
    share = torch.cat([(weight == 0).flatten() for _, weight in matrices(run.model, False)]).float().mean()
    assert float(share) == pytest.approx(0.95, abs=1e-4)
    logged = [entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry]
    assert logged == pytest.approx(norms, rel=1e-4)
    assert all(not weight._post_accumulate_grad_hooks for _, weight in matrices(run.model, False))


def test_disturbances_come_at_their_times_and_once(lm_base: Path, tmp_path: Path) -> None:
    for method, steps in (("noisy_matrices", [2, 4, 6, 8]), ("cyclic_resets", [0, 4, 12])):
        run = trainer(
            tmp_path, lm(tmp_path / "o", lm_base), method=method, max_steps=20, gradient_accumulation_steps=2,
            base_model_name_or_path=str(lm_base),
        )  # fmt: skip
        (rule,) = (c for c in run.callback_handler.callbacks if isinstance(c, Disturb))
        found: list[tuple[int, set[str]]] = []
        disturb = rule.disturb

        def spy(model: Any, turn: int, run: Any = run, found: Any = found, disturb: Any = disturb) -> None:
            before = weights(model)
            disturb(model, turn)
            found.append((run.state.global_step, changed(before, weights(model))))

        rule.disturb = spy
        run.train()
        assert [step for step, _ in found] == steps
        named = {name for name, _ in matrices(run.model, False)}
        assert all(len(names) == round(0.3 * len(named)) and names <= named for _, names in found)
        assert len({frozenset(names) for _, names in found}) > 1, "other ones each time"


# Rewinding


def test_rewind_goes_back_to_the_checkpoint(lm_base: Path, tmp_path: Path) -> None:
    plain = trainer(tmp_path / "original", str(lm_base), save_strategy="steps", save_steps=2)
    plain.train()
    plain.save_model()
    checkpoint = tmp_path / "original" / "checkpoint-4"
    run = trainer(
        tmp_path / "out", str(tmp_path / "original"), method="rewind", rewind_checkpoint=str(checkpoint),
        base_model_name_or_path=str(lm_base),
    )  # fmt: skip
    run._move_to_start()
    assert same(weights(run.model), weights(AutoModelForCausalLM.from_pretrained(checkpoint)))
    assert not same(weights(run.model), weights(plain.model))
    run = trainer(tmp_path / "out", str(tmp_path / "original"), method="rewind", rewind_checkpoint=str(checkpoint))
    run.train()
    report = run.report(audit=secrets().audit)
    assert report.verdict.word != "exact"
    assert report.method.checkpoint == "checkpoint-4"
    assert "--rewind_checkpoint checkpoint-4" in render_card(report, "name")
    assert str(tmp_path) not in json.dumps(report.to_dict())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rewind"}, "'rewind' needs the checkpoint folder, rewind_checkpoint"),
        (
            {"method": "fine_tune", "rewind_checkpoint": "."},
            "'fine_tune' goes back to no checkpoint; leave out what names one",
        ),
        ({"method": "rewind", "rewind_checkpoint": "nowhere"}, "rewind_checkpoint 'nowhere' is no folder"),
    ],
)
def test_checkpoints_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **settings)


def test_a_checkpoint_of_something_else_is_refused(lm_base: Path, encoder_base: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, lm(tmp_path / "o", lm_base), method="rewind", rewind_checkpoint=str(encoder_base))
    with pytest.raises(InputError):
        run.train()


# Provenance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("alpha", [None, 0.5, 1.0])
def test_only_what_s_never_shaped_is_clean(method: str, alpha: float | None) -> None:
    row = METHODS[method]
    if alpha is not None and row.alpha is None:
        return
    resolved = row.resolve_alpha(alpha)
    expected = method in ("base", "retrain") or (
        method in ("toward_base", "shrink_perturb", "shrink_reheat") and alpha == 1
    )
    assert row.is_clean(resolved) == expected


@pytest.mark.parametrize(
    ("method", "alpha", "word"),
    [
        ("base", None, "exact"),
        ("retrain", None, "exact"),
        ("shrink_perturb", 1.0, "exact"),
        ("distill", 1.0, None),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_the_verdict_is_exact_only_then(
    lm_base: Path, tmp_path: Path, method: str, alpha: float | None, word: str | None, known: bool
) -> None:
    if method in ("base", "retrain") and not known:
        return
    # Its settings are those of the original, without dropout.
    base = tmp_path / "lm_base"
    AutoModelForCausalLM.from_pretrained(lm_base, attention_dropout=0.0).save_pretrained(base)
    AutoTokenizer.from_pretrained(lm_base).save_pretrained(base)
    named = {"base_model_name_or_path": str(base)} if known else {}
    split = secrets()
    run = trainer(tmp_path, lm(tmp_path / "o", lm_base), split, method=method, alpha=alpha, max_steps=1, **named)
    run.train()
    report = run.report(audit=split.audit)
    assert (report.verdict.word == "exact") == (word == "exact")
    if word == "exact":
        fresh = method == "shrink_perturb" or not known
        told = "from random weights on" if fresh else "the fine-tuning of lm_base"
        assert told in report.verdict.reasons[0]
        assert (r"Fine-tuned from: lm\_base" in render_card(report, "name")) == (not fresh)
    else:
        assert "weights that depend on S" in report.verdict.reasons[0]


# Adapters on a full original


@pytest.mark.parametrize(
    "method", few_of([m for m in METHODS if m != "rewind"], {"fine_tune", "reset_smallest", *FEW})
)
def test_a_new_adapter_needs_merging_where_the_weights_under_it_move(
    lm_base: Path, tmp_path: Path, method: str
) -> None:
    lora = LoraConfig(task_type="CAUSAL_LM", r=2)
    options: dict[str, Any] = {"method": method, "base_model_name_or_path": str(lm_base), "peft_config": lora}
    if method in UNMOVED - {"cyclic_resets"} | {"base", "retrain"}:
        run = trainer(tmp_path, lm(tmp_path / "o", lm_base), **options)
        if method in ("base", "retrain"):
            assert run.adapter_base is not None
            assert run.adapter_base.name == str(lm_base)
        return
    message = "picks single weights" if METHODS[method].picks_weights else "moves the weights under the new adapter"
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, lm(tmp_path / "o", lm_base), **options)
    if METHODS[method].picks_weights:
        return
    merged = trainer(tmp_path, lm(tmp_path / "o", lm_base), **options, merge_adapter=True, max_steps=1)
    merged.train()
    assert not isinstance(merged.model, PeftModel)


def test_an_adapter_on_a_fresh_model_needs_merging(lm_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="moves the weights under the new adapter"):
        trainer(
            tmp_path, lm(tmp_path / "o", lm_base), method="shrink_perturb", alpha=1.0,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=2),
        )  # fmt: skip


# Settings that a method brings


def test_a_method_brings_its_settings_and_the_user_has_the_last_word(tmp_path: Path) -> None:
    plain = config(tmp_path, learning_rate=None)
    assert (plain.learning_rate, plain.lr_scheduler_type, plain.train_last_layers) == (5e-5, "linear", None)
    hot = config(tmp_path, method="fine_tune_high_lr", learning_rate=None)
    assert (hot.learning_rate, hot.lr_scheduler_type) == (pytest.approx(1.25e-4), "cosine")
    asked = config(tmp_path, method="fine_tune_high_lr", learning_rate=1e-3, lr_scheduler_type="linear")
    assert (asked.learning_rate, asked.lr_scheduler_type) == (1e-3, "linear")
    assert config(tmp_path, method="cf_k").train_last_layers == 1
    assert config(tmp_path, method="cf_k", train_last_layers=2).train_last_layers == 2
    assert UnlearningConfig(str(tmp_path)).learning_rate == 5e-5
    for method in METHODS.values():
        assert set(method.settings) <= {"train_last_layers", "lr_scheduler_type"}


def command(settings: dict[str, Any], folder: Path, *flags: str) -> UnlearningReport:
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump({**settings, "output_dir": str(folder)}), encoding="utf-8")
    assert main(["run", "--config", str(path), *flags]) == 0
    return UnlearningReport.load(folder / "unlearning_report.json")


def test_the_method_goes_before_the_record_and_the_user_before_both(
    lm_settings: dict[str, Any],
    lm_original: Path,
    classifier_settings: dict[str, Any],
    classifier_original: Path,
    tmp_path: Path,
) -> None:
    hot = command({**lm_settings, "method": "fine_tune_high_lr", "budget": 0.05}, tmp_path / "hot").method.settings
    assert (hot["learning_rate"], hot["lr_scheduler_type"]) == (pytest.approx(2.5e-2), "cosine")
    flags = ("--lr_scheduler_type", "linear", "--learning_rate", "0.003")
    asked = command({**lm_settings, "method": "fine_tune_high_lr", "budget": 0.05}, tmp_path / "asked", *flags)
    assert asked.method.settings["lr_scheduler_type"] == "linear"
    assert asked.method.settings["learning_rate"] == 0.003
    last = command({**lm_settings, "method": "cf_k", "budget": 0.05}, tmp_path / "last").method
    assert last.settings["train_last_layers"] == 1
    assert last.settings["learning_rate"] == pytest.approx(2e-2), "fitted to its budget"
    assert last.settings["per_device_train_batch_size"] == 4
    whole = command({**classifier_settings, "method": "retrain"}, tmp_path / "whole")
    assert whole.method.budget == 1
    assert whole.cost is not None
    assert whole.cost.training_ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "method",
    [
        "eu_k",
        "rewind",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("fine_tune_high_lr", "noise_reset", "l1_sparse")),
    ],
)
def test_the_command_in_the_card_repeats_the_run(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = []
    if method == "rewind":
        checkpoint = sorted(lm_original.glob("checkpoint-*"))[0]
        flags = ["--rewind_checkpoint", str(checkpoint)]
    settings = {**lm_settings, "method": method, "budget": 0.05}
    first = command(settings, tmp_path / "first", *flags)
    card = (tmp_path / "first" / "README.md").read_text()
    words = shlex.split(card.split("```bash\n")[1].split("```")[0].replace("\\\n", " "))[2:]
    # The card names no folder of this machine; whoever repeats the run has them.
    places = {"model_name_or_path": lm_original, "dataset_name": lm_settings["dataset_name"]}
    places |= {"base_model_name_or_path": lm_settings["original"]["model_name_or_path"]}
    places |= {"forget_ids": lm_settings["forget_ids"], "output_dir": tmp_path / "again"}
    if method == "rewind":
        places["rewind_checkpoint"] = checkpoint
    for name, place in places.items():
        if f"--{name}" in words:
            words[words.index(f"--{name}") + 1] = str(place)
    more = ["--holdout_ids", lm_settings["holdout_ids"], "--per_device_eval_batch_size", "16"]
    assert main(["run", *words, *more]) == 0
    models = [load_model(locate(str(tmp_path / name)), "text-generation") for name in ("first", "again")]
    assert same(weights(models[0]), weights(models[1])), words
    again = UnlearningReport.load(tmp_path / "again" / "unlearning_report.json")
    assert again.method.settings == first.method.settings


def test_references_train_as_the_record_says_whatever_the_method(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    values = {name: value for name, value in lm_settings.items() if name != "original"}
    prepared = prepare_run(
        {**values, "method": "fine_tune_high_lr", "budget": 0.1, "output_dir": str(tmp_path / "out")}
    )
    same_budget = plan_reference(prepared, "same_budget", 3).arguments
    assert same_budget["learning_rate"] == pytest.approx(2e-2), "fitted to its budget"
    assert same_budget["lr_scheduler_type"] == "linear"
    unlearned = UnlearningConfig(**{
        name: value
        for name, value in plan_reference(prepared, "retrained_unlearned", 3).arguments.items()
        if name in UnlearningConfig.__dataclass_fields__
    })  # fmt: skip
    assert (unlearned.learning_rate, unlearned.lr_scheduler_type) == (pytest.approx(2.5e-2), "cosine")


def test_the_card_tells_the_strength_of_every_method() -> None:
    report = example_report()
    for name, method in METHODS.items():
        entry = replace(report.method, name=name, alpha=method.resolve_alpha(None), source=method.source)
        card = render_card(replace(report, method=entry), "name")
        assert ("--alpha" in card) == (method.alpha is not None), name
        assert ("--base_model_name_or_path" in card) == method.uses_base, name
        assert (f"| alpha, {method.strength} |" in card) == (method.alpha is not None), name
        assert method.source in card
        assert method.ours in card
    assert TASKS.keys() == ROWS.keys()


# Stopping and going on


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 5


@pytest.mark.parametrize("method", ["prune_then_fine_tune", "distill", "cyclic_resets", "noisy_matrices", "l1_sparse"])
def test_a_run_goes_on_to_the_same_weights(lm_original: Path, tmp_path: Path, method: str) -> None:
    options: dict[str, Any] = {"method": method, "save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    whole = trainer(tmp_path / "whole", str(lm_original), **options)
    whole.train()
    stopped = trainer(tmp_path / "stopped", str(lm_original), callbacks=[Stop()], **options)
    stopped.train()
    assert stopped.state.global_step == 5
    resumed = trainer(tmp_path / "stopped", str(lm_original), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-4"))
    assert same(weights(resumed.model), weights(whole.model))
