"""The methods that use S, in the trainer: what they move, and what they are compared with."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

from hf_unlearn import InputError, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.methods.forget_methods import FORGET_METHODS
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.layers import flops_per_token
from hf_unlearn.models.training_record import RECORD_FILE

from ..training.test_trainer import config, same, secrets, tickets, trainer, weights
from .test_methods import command

NAMES = [method.name for method in FORGET_METHODS]
ON_TEXT = [method.name for method in FORGET_METHODS if "text-generation" in method.fits.tasks]
ON_CLASSIFIER = [method.name for method in FORGET_METHODS if "text-classification" in method.fits.tasks]
WITH_TEACHER = {"kl_ascent", "undial", "rmu", "scrub", "scrub_rewind", "bad_teacher"}
QUICK: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-3, "warmup_steps": 0}


class Stop(TrainerCallback):
    def __init__(self, step: int = 5):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def finite(model: Any) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ON_TEXT)
def test_methods_that_fit_train_a_language_model(method: str, lora: bool, lm_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=2)} if lora else {}
    run = trainer(tmp_path, str(lm_original), method=method, **QUICK, **options)
    before = weights(run.model)
    trained = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    run.train()
    after = weights(run.model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= trained
    assert finite(run.model)
    assert run.passes.teachers == {}


@pytest.mark.parametrize("method", ON_CLASSIFIER)
def test_methods_that_fit_train_a_classifier(method: str, classifier_original: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(classifier_original), tickets(), method=method, **QUICK)
    before = weights(run.model)
    run.train()
    assert not same(before, weights(run.model))
    assert finite(run.model)


@pytest.mark.parametrize("method", sorted(set(NAMES) - set(ON_CLASSIFIER)))
def test_methods_that_do_not_fit_say_so(method: str, classifier_original: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"The method '{method}' does not fit text-classification, because it "):
        trainer(tmp_path, str(classifier_original), tickets(), method=method)


@pytest.mark.parametrize("method", ["scrub", "altpo", "pdu", "rmu", "task_vector"])
def test_a_run_goes_on_to_the_same_weights(method: str, lm_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "save_strategy": "steps", "save_steps": 4, **QUICK, "max_steps": 6}
    whole = trainer(tmp_path / "whole", str(lm_original), **options)
    whole.train()
    stopped = trainer(tmp_path / "stopped", str(lm_original), callbacks=[Stop()], **options)
    stopped.train()
    assert stopped.state.global_step == 5
    resumed = trainer(tmp_path / "stopped", str(lm_original), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-4"))
    assert same(weights(resumed.model), weights(whole.model))
    assert resumed.state.total_flos == whole.state.total_flos


@pytest.mark.parametrize("method", ["salun", "scrub_rewind"])
def test_a_classifiers_run_goes_on_to_the_same_weights(method: str, classifier_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "save_strategy": "steps", "save_steps": 20}
    options |= {**QUICK, "num_train_epochs": 3, "max_steps": -1, "learning_rate": 1e-2}
    whole = trainer(tmp_path / "whole", str(classifier_original), tickets(), **options)
    whole.train()
    stopped = trainer(tmp_path / "stopped", str(classifier_original), tickets(), callbacks=[Stop(25)], **options)
    stopped.train()
    assert stopped.state.global_step == 25 < whole.state.global_step == 39
    resumed = trainer(tmp_path / "stopped", str(classifier_original), tickets(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoint-20"))
    assert same(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize("method", ["npo", "scrub", "pdu"])
def test_accumulated_batches_add_up_to_one_large_batch(method: str, lm_original: Path, tmp_path: Path) -> None:
    """In a training; that of every method's step is in test_step.py."""
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):
        model = AutoModelForCausalLM.from_pretrained(lm_original, attention_dropout=0.0)
        run = trainer(
            tmp_path, model, method=method, per_device_train_batch_size=batch, optim="sgd", logging_steps=1,
            gradient_accumulation_steps=accumulation, **{**QUICK, "max_steps": 3, "learning_rate": 0.01},
        )  # fmt: skip
        run.train()
        results.append((weights(run.model), [entry["loss"] for entry in run.state.log_history if "loss" in entry]))
    for name, weight in results[0][0].items():
        torch.testing.assert_close(weight, results[1][0][name], rtol=1e-4, atol=2e-6, msg=name)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-3)


# What is held


def held(folder: Path, model: Any, **options: Any) -> tuple[int, set[torch.dtype], Any]:
    """How many weights are held beside the model's own, their types, and the run."""
    run = trainer(folder, model, **QUICK, **options)
    run._hold_teachers()
    own = {id(weight) for weight in run.model.parameters()}
    copies = [w for teacher in run.passes.teachers.values() for w in teacher.parameters() if id(w) not in own]
    return sum(weight.numel() for weight in copies), {weight.dtype for weight in copies}, run


def test_no_method_holds_a_copy_that_it_does_not_use(lm_base: Path, tmp_path: Path) -> None:
    """Open-unlearning holds a whole copy for NPO, WGA, SatImp and others."""
    lora = LoraConfig(task_type="CAUSAL_LM", r=2)
    assert {m.name for m in FORGET_METHODS if m.objective.teachers} == WITH_TEACHER
    for method in sorted(WITH_TEACHER | {"npo"}):
        found, _, run = held(tmp_path, str(lm_base), method=method)
        size = sum(weight.numel() for weight in run.model.parameters())
        trained = sum(weight.numel() for weight in run.model.parameters() if weight.requires_grad)
        expected = dict.fromkeys(("kl_ascent", "undial", "scrub", "scrub_rewind"), size)
        expected |= {"bad_teacher": 2 * size, "rmu": trained}
        assert found == expected.get(method, 0), method
        found, _, run = held(tmp_path, str(lm_base), method=method, peft_config=lora)
        adapter = sum(weight.numel() for weight in run.model.parameters() if weight.requires_grad)
        expected = dict.fromkeys(expected, adapter) | {"bad_teacher": size + adapter}
        assert found == expected.get(method, 0), f"{method} of an adapter"


def test_a_teacher_in_half_precision(lm_base: Path, tmp_path: Path) -> None:
    whole, types, first = held(tmp_path, str(lm_base), method="undial", logging_steps=1)
    half, types_of_half, second = held(
        tmp_path, str(lm_base), method="undial", logging_steps=1, teacher_dtype="bfloat16"
    )
    assert (types, types_of_half) == ({torch.float32}, {torch.bfloat16})
    assert half == whole
    norms = []
    for run in (first, second):
        run.train()
        norms.append(run.state.log_history[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)
    assert norms[1] != norms[0]


def test_rmu_trains_and_runs_what_it_needs(lm_base: Path, tmp_path: Path) -> None:
    """Open-unlearning leaves requires_grad on everywhere, and runs all layers."""
    ran: list[str] = []

    def watch(model: Any) -> None:
        for name, module in model.named_modules():
            if name in ("model.layers.0", "model.layers.1"):
                module.register_forward_hook(lambda *_, name=name: ran.append(name))

    run = trainer(tmp_path, str(lm_base), method="rmu", **QUICK, method_kwargs={"depth": 0.5})
    watch(run.model)
    trained = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    assert trained == {"model.layers.0.mlp.down_proj.weight"}
    before = weights(run.model)
    run.evidence = None
    run.train()
    assert ran == ["model.layers.0"] * 6, "in two steps S and L, and L once more in the teacher"
    after = weights(run.model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained
    assert len(run.model.model.layers) == 2, "the model is whole again"
    ran.clear()
    run.model(torch.tensor([[5, 6, 7]]))
    assert ran == ["model.layers.0", "model.layers.1"]
    step, _ = flops_per_token(run.model)
    tokens = run.state.total_flos / step
    assert tokens < sum(len(ids) for part in ("forget", "retained") for ids in run.mixed.sets[part]["input_ids"])


# What is compared with


def test_references_are_the_starts_log_probabilities(lm_original: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_original, attention_dropout=0.0)
    run = trainer(tmp_path, model, method="npo", **{**QUICK, "learning_rate": 0.0}, logging_steps=1)
    run.train()
    example = run.mixed.sets["forget"][3]
    ids, labels = (torch.tensor([example[name]]) for name in ("input_ids", "labels"))
    with torch.no_grad():
        log_p = run.model(ids.to(run.model.device)).logits.log_softmax(-1)
    expected = sum(float(log_p[0, i - 1, label]) for i, label in enumerate(labels[0].tolist()) if label != -100 and i)
    assert float(run.start_log_p["forget"][3]) == pytest.approx(expected, rel=1e-4)
    # As long as nothing has moved, NPO is 2 / beta * log 2.
    batch = next(iter(trainer(tmp_path, model, method="npo", **QUICK).get_train_dataloader()))["retained"]
    with torch.no_grad():
        of_retained = float(model(**{name: values for name, values in batch.items() if name != "place"}).loss)
    assert run.state.log_history[0]["loss"] == pytest.approx(20 * np.log(2) + of_retained, rel=1e-3)


def test_references_cost_once_and_are_kept(lm_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hf_unlearn.evaluation.measured_sets as evidence

    scored: list[int] = []
    score = evidence.score
    monkeypatch.setattr(
        evidence, "score", lambda model, part, *a, **k: scored.append(len(part)) or score(model, part, *a, **k)
    )
    runs = [trainer(tmp_path, str(lm_original), method=m, **QUICK) for m in ("npo", "npo", "gradient_difference")]
    for run in runs:
        run.evidence = None
        run.train()
    assert scored == [10], "the second run reads what the first has found, and the third needs nothing"
    forward = flops_per_token(runs[0].model)[1]
    read = sum(map(len, runs[0].mixed.sets["forget"]["input_ids"]))
    assert runs[0].state.total_flos == runs[1].state.total_flos
    assert runs[0].state.total_flos - runs[2].state.total_flos == pytest.approx(forward * read)


# Step rules


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_the_mask_keeps_weights_bit_for_bit(optim: str, classifier_original: Path, tmp_path: Path) -> None:
    """Until 2026 the code of SalUn's authors let weight decay and momentum move what is masked."""
    looks: list[bool] = []

    class NoGradientElsewhere(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            weights = kwargs["model"].parameters()
            looks.append(
                not any(
                    bool(w.grad[~m].any()) for m, w in zip(run.rule._masks, weights, strict=True) if w.grad is not None
                )
            )

    run = trainer(
        tmp_path, str(classifier_original), tickets(), method="salun", optim=optim, max_steps=6, learning_rate=0.1,
        weight_decay=0.1, lr_scheduler_type="constant", callbacks=[NoGradientElsewhere()],
    )  # fmt: skip
    before = weights(run.model)
    run.train()
    assert looks == [True] * 6, "nor do they count in the gradient's norm"
    masks = run.rule._masks
    shares = []
    for mask, (name, weight) in zip(masks, run.model.named_parameters(), strict=True):
        assert torch.equal(weight[~mask], before[name][~mask]), name
        shares.append((int(mask.sum()), mask.numel(), int((weight != before[name])[mask].sum())))
    chosen, size, moved = map(sum, zip(*shares, strict=True))
    assert chosen / size == pytest.approx(0.5, abs=0.01)
    assert moved > 0.9 * chosen
    assert not any(weight._post_accumulate_grad_hooks for weight in run.model.parameters())


def test_the_dual_variable_follows_the_loss_on_l(lm_original: Path, tmp_path: Path) -> None:
    options = {"multiplier": 1.0, "limit": 0.05, "step": 2.0, "warmup": 0.5}
    run = trainer(
        tmp_path, str(lm_original), method="pdu", method_kwargs=options, gradient_accumulation_steps=2, max_steps=4,
        learning_rate=0.0, num_train_epochs=10, per_device_train_batch_size=2,
    )  # fmt: skip
    seen: list[float] = []
    see = run.rule.see
    run.rule.see = lambda loss: (seen.append(loss.item()), see(loss))
    run.train()
    steps = [sum(seen[i : i + 2]) for i in range(0, 4, 2)] + [seen[4]] + [sum(seen[5:7])]
    expected = 1.0
    for number, loss in enumerate(steps, start=1):
        if number > 2:
            expected = max(0.0, expected + 2.0 * (loss - 0.05))
    assert run.rule.multiplier == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_a_task_vector_is_taken_away(lora: bool, lm_original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"peft_config": LoraConfig(task_type="CAUSAL_LM", r=2)} if lora else {}
    run, tuned = (trainer(tmp_path, str(lm_original), method="task_vector", **QUICK, **options) for _ in range(2))
    start = weights(run.model)
    tuned.remove_callback(tuned.rule)
    for one in (run, tuned):
        one.train()
    for (name, weight), learned in zip(run.model.named_parameters(), tuned.model.parameters(), strict=True):
        if not weight.requires_grad:
            continue
        expected = (-learned if "lora_B" in name else learned) if lora else 2 * start[name] - learned
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_rewinding_goes_back_to_the_epoch_that_is_as_wrong_as_on_h(classifier_original: Path, tmp_path: Path) -> None:
    run = trainer(
        tmp_path, str(classifier_original), tickets(), method="scrub_rewind", num_train_epochs=3, max_steps=-1,
        learning_rate=1e-2,
    )  # fmt: skip
    ends: dict[int, Any] = {}

    class Keep(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends[round(state.epoch)] = (
                weights(kwargs["model"]),
                run.rule._error("forget"),
                run.rule._error("holdout"),
            )

    run.add_callback(Keep())
    run.train()
    wanted = ends[3][2]
    best = min(ends, key=lambda epoch: (abs(ends[epoch][1] - wanted), -epoch))
    assert same(weights(run.model), ends[best][0])
    assert not (tmp_path / "rewind").exists()
    report = run.report(audit=tickets().audit)
    assert report.arms["unlearned"].sets["forget"].records == 5, "the other half judges"
    assert "The method trained on S itself" in report.verdict.reasons[0]


def test_fisher_noise_is_as_large_as_the_information_allows(classifier_original: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(classifier_original), tickets(), method="fisher")
    before = weights(run.model)
    run._move_to_start()
    noise = {name: weight.detach() - before[name] for name, weight in run.model.named_parameters()}
    again = trainer(tmp_path, str(classifier_original), tickets(), method="fisher")
    again._move_to_start()
    assert same(weights(run.model), weights(again.model))
    step, forward = run.flops_per_token
    tokens = sum(len(example["input_ids"]) for example in run.train_dataset)
    assert run.passes.flops == tokens * (forward + 3 * (step - forward)), "a pass back for each of three classes"
    # The head's information by hand: p_y times the square of (1[y = c] - p_c) times what comes into it.
    model: Any = AutoModelForSequenceClassification.from_pretrained(classifier_original).eval()
    read: list[Any] = []
    model.classifier.register_forward_hook(lambda module, inputs, output: read.append(inputs[0][0].numpy()))
    information = np.zeros(model.classifier.weight.shape)
    examples = run.train_dataset
    for example in examples:
        with torch.no_grad():
            p = model(torch.tensor([example["input_ids"]])).logits[0].double().softmax(-1).numpy()
        for label in range(3):
            information += p[label] * np.outer((np.arange(3) == label) - p, read[-1]) ** 2
    information /= len(examples)
    variance = 10 * 1e-6 * np.minimum(1 / (information + 1e-8), 1e2).mean(1)
    drawn = noise["classifier.weight"].numpy() / np.sqrt(variance)[:, None]
    assert drawn.std() == pytest.approx(1, abs=0.2)
    small = noise["bert.encoder.layer.0.attention.self.query.weight"].numpy()
    assert small.std() <= 1.1 * np.sqrt(1e-6 * 1e3)


# With the rest of the trainer


def test_measuring_stopping_and_the_best_model_go_on(lm_original: Path, tmp_path: Path) -> None:
    """In open-unlearning on_evaluate never fires, so that nothing can stop early or keep the best model."""
    seen: list[str] = []

    class Watch(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(kwargs["metrics"]["eval_loss"])

    split = secrets()
    args = config(
        tmp_path, method="gradient_difference", eval_strategy="steps", eval_steps=1, measure_steps=1, **QUICK,
        save_strategy="steps", save_steps=1, load_best_model_at_end=True,
    )  # fmt: skip
    run = UnlearningTrainer(
        str(lm_original), args, split.retained, split.forget, split.holdout, eval_dataset=split.retained,
        callbacks=[Watch()],
    )  # fmt: skip
    run.train()
    assert len(seen) == 2
    assert run.state.best_metric == min(seen)
    assert [entry["step"] for entry in run.state.log_history if "forget_loss" in entry] == [1]


def test_the_command_runs_a_method_that_uses_s_and_the_card_repeats_it(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    flags = {"learning_rate": 1e-3, "num_train_epochs": 1, "method_kwargs": {"beta": 0.5}}
    report = command({**lm_settings, "method": "npo", **flags}, tmp_path / "out")
    assert report.method.options == {"forget_weight": 1, "retain_weight": 1, "beta": 0.5}
    assert report.method.budget is None
    assert report.method.epochs == 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--method_kwargs '{\"beta\": 0.5}'" in card
    assert "This method trained on the records to forget once more" in card
    assert "| beta | 0.5 |" in card


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"start": "toward_base"}, "start='toward_base' needs the model that the original was fine-tuned from"),
        ({"start": "reset_least_changed"}, "start='reset_least_changed' needs the model that the original was"),
        ({"start": "rewind"}, "Argument --start: it must be one of 'eu_k', "),
        ({"rewind_checkpoint": "."}, "'npo' goes back to no checkpoint; leave out what names one, rewind_checkpoint"),
        ({"start": "shrink_perturb", "use_peft": True}, "'npo' moves the weights under the new adapter"),
        ({"start": "reset_smallest", "use_peft": True}, "'npo' picks single weights of the model"),
        ({"base_is_clean": True}, "base_is_clean is said of the model that the original was fine-tuned from"),
    ],
)
def test_what_a_start_needs_is_asked_for_before_the_model_is_loaded(
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    recipe: Any,
    capsys: pytest.CaptureFixture[str],
    asked: dict[str, Any],
    message: str,
) -> None:
    # Neither weights nor a record: whoever loads the model fails otherwise.
    gone = shutil.ignore_patterns("*.safetensors", "checkpoint-*", RECORD_FILE)
    shutil.copytree(lm_original, tmp_path / "original", ignore=gone)
    settings = {**lm_settings, "model_name_or_path": str(tmp_path / "original"), "method": "npo", "use_cpu": True}
    config = recipe(**{**settings, **asked, "output_dir": str(tmp_path / "out")})
    assert main(["run", "--config", str(config)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_method_in_the_guide_works(lm_original: Path, tmp_path: Path) -> None:
    guide = Path(__file__).parents[2] / "recipes" / "guides" / "adding_a_method.md"
    told = guide.read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(told, names)
    assert METHODS["unlikelihood"] is names["METHOD"]
    model = AutoModelForCausalLM.from_pretrained(lm_original, attention_dropout=0.0)
    run = trainer(tmp_path, model, method="unlikelihood", **{**QUICK, "learning_rate": 0.0}, logging_steps=1)
    batch = next(iter(run.get_train_dataloader()))
    run.train()
    read = {part: {n: v for n, v in values.items() if n != "place"} for part, values in batch.items()}
    with torch.no_grad():
        of_retained = float(model(**read["retained"]).loss)
        p = model(**read["forget"]).logits.double().softmax(-1).numpy()
    found = []
    for record, labels in enumerate(read["forget"]["labels"].tolist()):
        found += [-np.log(1 - p[record, i - 1, label]) for i, label in enumerate(labels) if i and label != -100]
    assert run.state.log_history[0]["loss"] == pytest.approx(np.mean(found) + of_retained, rel=1e-4)
