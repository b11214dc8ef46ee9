"""Trains and measures with every start, alone or as one of several processes, for test_processes.py to compare.

python tests/support/two_processes.py LM CLASSIFIER ADAPTER TAGGER MASKED PAIRS LM_BASE OUTPUT
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ProgressCallback

from hf_unlearn import Records, UnlearningConfig, UnlearningTrainer, split_retained
from hf_unlearn.evaluation.score_cache import score_once
from hf_unlearn.jobs.alternates import alternates
from hf_unlearn.methods.losses import l1_norm
from hf_unlearn.methods.resets import prune
from hf_unlearn.methods.starts import StartInputs
from hf_unlearn.methods.step_rules import KeepZeros, cyclic_resets, noisy_matrices
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.layers import whole
from hf_unlearn.models.loading import Model, load_any
from hf_unlearn.models.location import locate
from hf_unlearn.training.teachers import held_teachers

GLOBAL_BATCH = 8
# Three batches of S: an odd number for two processes, and the last one is not full.
EVAL_BATCH = 4


def load_without_dropout(folder: str) -> Model:
    """The model with all dropout off, which each process would draw for itself."""
    model = load_any(locate(folder), None)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if "attention_dropout" in vars(module):
            module.attention_dropout = 0.0
    return model


class KeepStart(TrainerCallback):
    """Keeps the weights that the fine-tuning begins with."""

    def on_train_begin(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}


def run(name: str, folder: str, rows: list[dict], output: Path, **settings: Any) -> UnlearningTrainer:
    """One run; what is to be compared goes to the output folder."""
    lora, forgotten = settings.pop("lora", None), settings.pop("forgotten", 10)
    held_out = Records.rows(range(settings.pop("held_out", 50), len(rows)))
    split = split_retained(Dataset.from_list(rows), Records.rows(range(forgotten)), holdout=held_out)
    config = UnlearningConfig(
        str(output / name), seed=11, use_cpu=True, save_strategy="no", per_device_eval_batch_size=EVAL_BATCH,
        **{"method": "fine_tune", "learning_rate": 0.3, "measure_steps": 2, "optim": "sgd",
           "max_steps": 6, **settings},
    )  # fmt: skip
    config.per_device_train_batch_size = GLOBAL_BATCH // config.world_size
    start = KeepStart()
    trainer = UnlearningTrainer(
        load_without_dropout(folder), config, split.retained, split.forget, split.holdout,
        peft_config=lora, source=locate(folder), callbacks=[start],
    )  # fmt: skip
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    trainer.report(audit=split.audit)
    trainer.save_model()
    if config.process_index == 0:
        torch.save(start.weights, output / f"{name}.start.pt")
        final = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
        torch.save({key: weight.detach() for key, weight in final}, output / f"{name}.final.pt")
    return trainer


def without_forgetting(folder: str, rows: list[dict], output: Path) -> None:
    """A pass over all records, without anything to forget, with checkpoints."""
    config = UnlearningConfig(
        str(output / "plain"), seed=11, use_cpu=True, max_steps=8, save_strategy="steps", save_steps=4,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    config.per_device_train_batch_size = 4 // config.world_size
    UnlearningTrainer(load_without_dropout(folder), config, Dataset.from_list(rows), source=locate(folder)).train()


def sharded(trainer: UnlearningTrainer, output: Path) -> None:
    """Score a finished model again with its weights sharded over the processes (FSDP2)."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    mesh = init_device_mesh("cpu", (trainer.args.world_size,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert trainer.evidence is not None
    table = trainer.evidence.score(model)["forget"]
    if trainer.args.process_index == 0:
        pq.write_table(table, output / "sharded.parquet")


def between_the_steps(original: str, base: str, output: Path) -> None:
    """Two steps by hand with what methods do between them; with several processes the weights are sharded (FSDP2)."""
    config = UnlearningConfig(str(output / "rules"), use_cpu=True)
    model: Any = load_without_dropout(original)
    inputs = StartInputs(0.5, 3, False, load_base=lambda: load_without_dropout(base))  # type: ignore[arg-type,return-value]
    prune(model, inputs)
    if config.world_size > 1:
        mesh = init_device_mesh("cpu", (config.world_size,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    state, control = TrainerState(max_steps=2), TrainerControl()
    zeros = KeepZeros(inputs)
    zeros.on_train_begin(config, state, control, model=model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    batch = torch.arange(3, 33).reshape(3, 10)
    found: dict[str, Any] = {}
    for step in range(2):
        penalty = 1e-3 * l1_norm(model.parameters())
        (model(input_ids=batch, labels=batch).loss + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
        found |= {f"{step}.{name}": whole(weight.detach()).clone() for name, weight in model.named_parameters()}
        found[f"{step}.penalty"] = penalty.detach()
    zeros.on_train_end(config, state, control)
    for rule in (noisy_matrices(inputs), cyclic_resets(inputs)):
        rule.disturb(model, 1)  # type: ignore[attr-defined]
    found |= {f"end.{name}": whole(weight.detach()).clone() for name, weight in model.named_parameters()}
    if config.process_index == 0:
        torch.save(found, output / "rules.pt")


def sharded_teacher(lm: str, output: Path) -> None:
    """A teacher under FSDP2, which accelerate has for accelerators alone; to be called last, for it says so."""
    config = UnlearningConfig(str(output / "teacher"), use_cpu=True)
    accelerator = Accelerator(cpu=True)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    model = load_without_dropout(lm).eval()
    batch = torch.arange(3, 33).reshape(3, 10) + config.process_index
    found = {}
    for name, trained in (("whole", model), ("adapter", get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")))):
        with torch.no_grad():
            expected = trained(batch).logits
            teacher: Any = held_teachers(trained, METHODS["kl_ascent"], 0.0, config, accelerator)["original"]
            held = sum(weight.to_local().numel() for weight in teacher.parameters())
            same = all(torch.equal(teacher(batch).logits, expected) for _ in range(2))
        after = torch.equal(trained(batch).logits, expected)
        found[name] = [held, sum(weight.numel() for weight in trained.parameters()), same, after]
    (output / f"teacher-{config.process_index}.json").write_text(json.dumps(found))


def with_forget(lm: str, classifier: str, output: Path) -> None:
    """Methods that use S: a draw from L, references, a teacher, a dual variable, a mask and alternating passes."""
    from tests.conftest import secrets_rows, tickets_rows

    # Of S comes a whole number of steps, so that no process has to fill up its part of the last one.
    quick: dict[str, Any] = {"forgotten": 16, "learning_rate": 0.01, "measure_steps": 2}
    run("npo", lm, secrets_rows(), output, method="npo", **quick)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4)
    run("kl_ascent", lm, secrets_rows(), output, method="kl_ascent", lora=lora, **{**quick, "learning_rate": 0.5})
    # Written by the processes together, and then preferred to S.
    path = str(output / "alternates.jsonl")
    alternates({
        "model_name_or_path": lm, "dataset_name": str(output.parent / "pairs.jsonl"), "forget_rows": list(range(16)),
        "alternates_file": path, "alternates_per_record": 2, "alternates_prompt": "Not{completion} as {prompt} but",
        "per_device_eval_batch_size": 4, "use_cpu": True, "output_dir": str(output / "altpo"),
    })  # fmt: skip
    run("altpo", lm, secrets_rows(), output, method="altpo", alternates_file=path, **quick)
    dual = run("pdu", lm, secrets_rows(), output, method="pdu", method_kwargs={"step": 0.5, "multiplier": 1}, **quick)
    (output / f"dual-{dual.args.process_index}.json").write_text(json.dumps(dual.rule.multiplier))  # type: ignore[union-attr]
    run("rmu", lm, secrets_rows(), output, method="rmu", method_kwargs={"depth": 1, "retain_weight": 1}, **quick)
    run("gradient_difference", classifier, tickets_rows(), output, method="gradient_difference", **quick)
    run("salun", classifier, tickets_rows(), output, method="salun", **quick)
    run("scrub", classifier, tickets_rows(), output, method="scrub", **quick)


def main() -> None:
    from tests.conftest import many_secrets, note_rows, secrets_rows, tagged_rows, tickets_rows

    torch.set_num_threads(1)
    # Each training begins with a collection of garbage, which need not go through all modules.
    gc.freeze()
    lm, classifier, adapter, tagger, masked, pairs, base, output = sys.argv[1:]
    folder = Path(output)
    folder.mkdir(exist_ok=True)
    secrets = secrets_rows()
    plain = run("fine_tune", lm, secrets, folder, generate_records=5)
    for method in ("toward_base", "shrink_perturb", "base"):
        run(method, lm, secrets, folder, method=method)
    run("new_adapter", lm, secrets, folder, method="base", lora=LoraConfig(task_type="CAUSAL_LM", r=4))
    run("adapter_toward_base", adapter, secrets, folder, method="toward_base")
    run("adapter_base", adapter, secrets, folder, method="base")
    run("classifier", classifier, tickets_rows(), folder)
    run("tagger", tagger, tagged_rows(), folder)
    run("masked", masked, note_rows(), folder)
    run("pairs", pairs, secrets, folder, gradient_norm_attack=True)
    # The last batch of an epoch is a part of one, and each record counts once all the same.
    uneven: dict[str, Any] = {"forgotten": 13, "max_steps": 12}
    run("uneven", lm, secrets, folder, **uneven)
    run("uneven_classes", classifier, tickets_rows(), folder, **uneven)
    run("uneven_pairs", pairs, secrets, folder, method="distill", **uneven)
    # Between the steps, and with a teacher: where items are tokens, and where they are records.
    run("pruned", lm, secrets, folder, method="prune_then_fine_tune")
    run("noisy", lm, secrets, folder, method="noisy_matrices", alpha=0.1)
    run("penalised", lm, secrets, folder, method="l1_sparse", alpha=1e-3)
    run("distilled", lm, secrets, folder, method="distill")
    run("entropies", classifier, tickets_rows(), folder, method="reset_smallest")
    run("cycled", pairs, secrets, folder, method="cyclic_resets")
    # What is left makes one batch, so that no process has to fill up its part of the last one.
    many: dict[str, Any] = {
        "forgotten": 122, "held_out": 130, "stop_when_forgotten": True, "auc_margin": 0.25, "measure_steps": 1,
    }  # fmt: skip
    stopped = run("stopped", lm, many_secrets(), folder, method="base", **many)
    watched = run("watched", lm, many_secrets(), folder, **many, learning_rate=1e-5)
    if stopped.args.process_index == 0:
        found = {
            trainer.args.folder.name: {
                **trainer.stopping.state()["attributes"],
                "gaps": [entry["worst_gap"] for entry in trainer.state.log_history if "worst_gap" in entry],
            }
            for trainer in (stopped, watched)
        }
        (folder / "stopped.json").write_text(json.dumps({**found, "step": stopped.state.global_step}))
    between_the_steps(lm, base, folder)
    with_forget(lm, classifier, folder)
    without_forgetting(lm, secrets, folder)
    assert plain.evidence is not None
    (table, again), tokens = zip(
        *(score_once(plain.evidence, load_without_dropout(lm)) for _ in range(2)), strict=True
    )
    assert again["forget"].equals(table["forget"])
    (folder / f"kept-{plain.args.process_index}.json").write_text(
        json.dumps([*tokens, table["forget"]["nll"].to_pylist()])
    )
    if plain.args.world_size > 1:
        sharded(plain, folder)
        sharded_teacher(lm, folder)
    plain.end()


if __name__ == "__main__":
    main()
