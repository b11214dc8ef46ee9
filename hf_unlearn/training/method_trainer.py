"""The part of the trainer that trains: from a method's start, on its batches, by its objective and its rule.

What a method does to a model is all here, with what a checkpoint holds of it. What is measured on the way, and what is
made of the result, is not: see :mod:`~hf_unlearn.training.trainer`.
"""

import math
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerState, set_seed
from transformers.trainer_utils import TrainOutput

from ..data.filled_up import filled_up, repeated
from ..data.masking import NewMasksEachEpoch
from ..errors import InputError
from ..evaluation.measured_sets import EvidenceSets
from ..evaluation.report import CostEntry, SetName
from ..evaluation.scoring import preserved_rng
from ..machine_faults import no_number, telling_memory, training_memory
from ..methods.forget_batches import PartsCollator
from ..methods.items import labels_in_place
from ..methods.method import Method
from ..methods.step import PARTS, Batch, Branch, InStep, Part, Passes, Step, count, in_parts
from ..methods.step_rules import DualVariable, PreparedRule, Rewind
from ..models.classes import keep_classes
from ..models.layers import flops_per_token
from ..models.loading import Model, plain_model
from ..models.location import ModelSource
from ..models.tasks import IGNORED, TASKS, Task
from ..models.training_record import TRAINING_SETTINGS, DataSource, TrainingRecord, software_versions
from .callbacks import SaveOnInterrupt
from .config import UnlearningConfig
from .cost import CostMeter
from .first_use_of_rows import CollatorWithRows, FirstUse, training_identity
from .lineage import Lineage
from .measuring import Measuring
from .saving import KeptSettings, finish_checkpoint, last_checkpoint
from .start_inputs import start_inputs
from .teachers import held_teachers, log_probabilities
from .trained_weights import movement_digest, name_base
from .trainer_data import TrainerData
from .useful import StopWhenUseful


class MethodTrainer(Trainer):
    """Trains a model as a method says; S enters training batches only where the method uses it.

    The weights of ``model`` that are to be trained are ready for it; ``lora`` are the settings of its adapter.
    """

    model: Model
    args: UnlearningConfig

    def __init__(
        self,
        model: Model,
        args: UnlearningConfig,
        data: TrainerData,
        tokenizer: PreTrainedTokenizerBase,
        callbacks: list[TrainerCallback] | None,
        *,
        method: Method,
        alpha: float,
        task: Task,
        source: ModelSource | None,
        lineage: Lineage,
        lora: dict[str, Any] | None,
    ):
        self.method, self.alpha, self.task, self.data = method, alpha, task, data
        self.source, self.record, self.base = source, lineage.record, lineage.base
        self.trained_adapter, self.lora = lineage.adapter, lora
        self.training_collator, self.first_use = data.training_collator, data.first_use
        self.retained_rows, self.data_fingerprint = data.rows, data.fingerprint
        self.mixed, self.forget_examples, self.alternates = data.mixed, data.forget, data.alternates
        self.half_to_choose_by: EvidenceSets | None = None
        if method.chooses and data.evidence is not None:
            self.half_to_choose_by, _ = data.evidence.halves(args.seed)
        self.options = method.resolve_options(args.asked_options)
        self.start_log_p: dict[Part, torch.Tensor] = {}
        self.rule: TrainerCallback | None = None
        self.useful: StopWhenUseful | None = None
        self.weights_moved: bool | None = None
        self.kept_settings = KeptSettings(plain_model(model))
        try:
            super().__init__(
                model=model,
                args=args,
                data_collator=data.collator,
                train_dataset=data.train,
                eval_dataset=data.test,
                processing_class=tokenizer,
                callbacks=[self.kept_settings, *(callbacks or [])],
            )
        except ValueError as error:
            # Settings that do not go together, such as eval_strategy without a test split.
            raise InputError(" ".join(str(error).split())) from None
        # The parent counts items for models that take their number only (Esm's do not); compute_loss needs it for all.
        self._model_takes_items = self.model_accepts_loss_kwargs
        self.model_accepts_loss_kwargs |= not TASKS[task].next_token or method.uses_forget
        self.passes = Passes(task, self.model, self.accelerator.autocast)
        told_wrong = self._error if self.half_to_choose_by is not None else None
        self.start_inputs = start_inputs(
            self.model, args, data, self.passes, source, lineage, alpha=alpha, options=self.options, error=told_wrong
        )
        if method.uses_forget:
            # It is run on S and on L before the pass back, and buffers that are sent around in between would change
            # what that pass needs.
            buffers = [name for name, _ in self.model.named_buffers()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, buffers)
        if self.training_collator is not None:
            self.add_callback(NewMasksEachEpoch(self.training_collator))
        if method.rule is not None:
            self.rule = method.rule(self.start_inputs)
            self.add_callback(self.rule)
        self.cost, self.interrupt = CostMeter(), SaveOnInterrupt()
        self.measuring = Measuring(
            args, tokenizer, self.accelerator.autocast, self.cost, lambda: self.flops_per_token[1]
        )
        if data.useful is not None:
            part = 1.0 if args.budget is None else args.budget
            self.useful = StopWhenUseful(
                data.useful, lambda sets: self.measuring.score(sets, self.model), args.utility_margin, part, args.seed
            )
            self.add_callback(self.useful)
        self.add_callback(self.cost)
        self.add_callback(self.interrupt)

    # The training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Measure the original, move it to the start and train from there (see ``Trainer.train``).

        Args:
            resume_from_checkpoint: a checkpoint folder, or True for the last complete one in ``output_dir``.

        Raises:
            InputError: there is no checkpoint to resume from, or this trainer has trained already.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint has been saved.
        """
        checkpoint: str | None = None
        if resume_from_checkpoint is True:
            checkpoint = last_checkpoint(self.args.folder)
            if checkpoint is None:
                raise InputError(f"There is no complete checkpoint in {self.args.folder} to resume from.")
        elif resume_from_checkpoint:
            checkpoint = str(resume_from_checkpoint)
        if checkpoint is not None:
            state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
            self._restore(checkpoint, state.stateful_callbacks)
            if self.first_use is not None:
                self.first_use = FirstUse.load(Path(checkpoint), self._identity(state.max_steps))
        with preserved_rng():
            before = movement_digest(self.model)
            self._look_at_original(resumed=checkpoint is not None)
            self._hold_teachers()
            # Also before a checkpoint is loaded: an adapter's holds nothing of the weights under it.
            self._move_to_start()
            self._find_start_log_p()
            if isinstance(self.rule, PreparedRule):
                self.rule.prepare(self.model)
            if self.useful is not None:
                self.useful.begin()
            if checkpoint is not None:
                # What was run now was run before the interruption, and the checkpoint counts it.
                self.passes.flops = 0.0
        # The parent seeds when it is made; whatever was drawn since then must not matter.
        set_seed(self.args.seed)
        try:
            with telling_memory(training_memory(self.args)):
                output = super().train(checkpoint, *args, **kwargs)
        finally:
            self.interrupt.restore()
        if self.interrupt.interrupted:
            raise KeyboardInterrupt(f"stopped after step {self.state.global_step} of {self.state.max_steps}")
        after = movement_digest(self.model)
        self.weights_moved = None if before is None or after is None else after != before
        self.passes.teachers.clear()
        self._check_loss(output.training_loss)
        if self.args.merge_adapter and isinstance(self.model, PeftModel):
            self.model = self.model_wrapped = self.model.merge_and_unload()
        return output

    def _look_at_original(self, *, resumed: bool) -> None:
        """Called while the model is still the original; random numbers that are drawn here change nothing."""

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A checkpoint of the last step leaves nothing to do, but in the middle of an epoch the parent takes one step.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; stop when the loss is no number."""
        self._check_loss(logs.get("loss", 0.0))
        super().log(logs, start_time)

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise InputError(no_number(self.args, self.state.global_step))

    # The start

    @property
    def adapter_base(self) -> ModelSource | None:
        """The model that an adapter lies on; None for full training or when it is unknown."""
        if self.lora is None:
            return None
        return self.base if self.trained_adapter or self.starts_at_base else self.source

    @property
    def starts_at_base(self) -> bool:
        """Whether the fine-tuning begins at the model that the original was fine-tuned from, bit for bit."""
        return self.method.begins_at_base(self.alpha, known=self.base is not None)

    def _move_to_start(self) -> None:
        if self.data.kept_classes is not None:
            keep_classes(self.model, self.data.kept_classes)
        self.method.start(self.model, self.start_inputs)
        name_base(self.model, self.adapter_base)

    def _error(self, name: str) -> float:
        """The share of its items that the model tells wrong now, on the half of a set that it may choose by."""
        half, chosen = self.half_to_choose_by, cast(SetName, name)
        assert half is not None
        only = replace(half, sets={chosen: half.sets[chosen]}, forms={})
        table = only.score(self.model, self.accelerator.autocast)[chosen]
        self.cost.measured(0.0, self.flops_per_token[1] * only.tokens)
        return 1 - sum(table["correct"].to_pylist()) / sum(table["tokens"].to_pylist())

    # What it is compared with

    def _hold_teachers(self) -> None:
        """Keep the models that the trained one is compared with, while it is still the original."""
        self.passes.teachers = held_teachers(self.model, self.method, self.alpha, self.args, self.accelerator)

    def _find_start_log_p(self) -> None:
        """Find out log-probabilities under the start, or read what an earlier run has found."""
        if not self.method.objective.start_log_p or self.mixed is None:
            return
        for part, examples in self.mixed.sets.items():
            if part != "retained":
                self.start_log_p[part], tokens = log_probabilities(
                    self.model, self.task, examples, self.data_collator, self.args, self.accelerator.autocast
                )
                # They are a part of what the method costs, whoever paid for them.
                self.passes.flops += self.flops_per_token[1] * tokens

    # A step

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule of the settings, or one that may end early."""
        if self.useful is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            made = self.optimizer if optimizer is None else optimizer
            assert made is not None
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(made, self.useful.schedule(num_training_steps))
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        """Batches of L, or as the method says; those of a masked language model are masked here, and nowhere else."""
        self._set_signature_columns_if_needed()
        measuring, read = self.data_collator, self._signature_columns
        assert read is not None
        self.data_collator = self.training_collator or measuring
        if self.first_use is not None:
            self.data_collator, self._signature_columns = CollatorWithRows(self.data_collator), [*read, "row"]
        try:
            if (mixed := self.mixed) is None:
                if self.repeated == 0:
                    return super().get_train_dataloader()
                rows, order = filled_up(self.train_dataset, self._get_train_sampler(), self.repeated, self.args)
                return self._get_dataloader(rows, "Training", self._train_batch_size, order, True)
            self.data_collator, self._signature_columns = PartsCollator(self.data_collator), [*read, *PARTS]
            return self._get_dataloader(mixed, "Training", self._train_batch_size, lambda _: mixed.draws, True)
        finally:
            self.data_collator, self._signature_columns = measuring, read

    @property
    def repeated(self) -> int:
        """Records that come twice in an epoch of several processes; of L the second ones teach nothing."""
        rows = self.train_dataset if self.mixed is None else self.mixed.draws
        return repeated(rows, self._train_batch_size, self.args.world_size)

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The parent's step on a batch, whose rows are noted."""
        if self.first_use is not None:
            self.first_use.note(inputs.pop("row").cpu().numpy(), self.state.global_step + 1)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The method's objective, normalised over all items of an optimiser step; the model's own loss elsewhere."""
        if not model.training:
            loss, outputs = self._own_loss(model, inputs, num_items_in_batch)
            return (loss, outputs) if return_outputs else loss
        step = self._step(model, inputs, num_items_in_batch)
        loss = self.method.objective.loss(step)
        return (loss, step.retained.outputs) if return_outputs else loss

    def _own_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], items: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, Any]:
        """The model's own loss on a batch, as it adds up, and its outputs."""
        labels = inputs["labels"]
        own = (labels_in_place(labels, TASKS[self.task].next_token) != IGNORED).sum()
        # Records that fill up the last batch have no labels, and the mean over nothing would be no number.
        read = {**inputs, "labels": torch.where(own == 0, labels.clamp(min=0), labels)}
        if items is None or (TASKS[self.task].next_token and self._model_takes_items):
            loss, outputs = super().compute_loss(model, read, True, items)
            return loss * (own > 0), outputs
        # BertForSequenceClassification and others take num_items_in_batch and average over the batch all the same, so
        # the parent's gradient would grow with the accumulation steps. Without the number all of them average.
        share = own * self._averaged_processes / items
        loss, outputs = super().compute_loss(model, read, return_outputs=True)
        return loss * share, outputs

    def _step(self, model: nn.Module, inputs: dict[str, torch.Tensor | Any], items: torch.Tensor | int | None) -> Step:
        """An objective's view of a batch."""
        self.passes.wrapped = model
        processes = self._averaged_processes
        if "input_ids" in inputs:
            parts: dict[Part, Branch] = {
                "retained": self._branch("retained", cast(Batch, inputs), InStep(items, None, processes))
            }
        else:
            assert isinstance(items, torch.Tensor)
            parts = {
                part: self._branch(part, cast(Batch, inputs[part]), InStep(counts[0], counts[1], processes))
                for part, counts in zip(PARTS, items, strict=True)
                if part in inputs
            }
        return Step(
            parts=parts,
            progress=self.state.global_step / max(1, self.state.max_steps),
            alpha=self.alpha,
            options=self.options,
            passes=self.passes,
            batches=1 if items is None else self.current_gradient_accumulation_steps,
            rule=self.rule,
            seed=self.args.seed,
        )

    def _branch(self, part: Part, batch: dict[str, torch.Tensor], in_step: InStep) -> Branch:
        read = {name: values for name, values in batch.items() if name != "place"}

        def own() -> tuple[torch.Tensor, Any]:
            self.passes.trained(read)
            return self._own_loss(self.passes.wrapped, read, in_step.items)

        start_log_p = self.start_log_p[part][batch["place"]] if part in self.start_log_p else None
        return Branch(read, self.passes, in_step, own if part == "retained" else None, start_log_p)

    @property
    def _averaged_processes(self) -> int:
        """Over how many processes a gradient is averaged whose loss was divided by the items of all of them."""
        return self.accelerator.num_processes if self.args.average_tokens_across_devices else 1

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | int | None:
        """Of a method that uses S, items and records of each part, int64 of shape (parts, 2)."""
        if self.mixed is None:
            return super()._get_num_items_in_batch(batch_samples, device)
        if not batch_samples:
            return None
        counts = torch.stack([count(batch, TASKS[self.task].next_token) for batch in batch_samples]).sum(0).to(device)
        if self.args.average_tokens_across_devices:
            counts = self.accelerator.gather(counts[None]).sum(0)
        return counts

    def _track_num_input_tokens(self, inputs: dict[str, torch.Tensor | Any]) -> None:
        parts = in_parts(inputs)
        names = ("input_ids", "attention_mask")
        super()._track_num_input_tokens({name: torch.cat([part[name].flatten() for part in parts]) for name in names})

    @cached_property
    def flops_per_token(self) -> tuple[float, float]:
        """Operations per token of a training step and of a forward pass, before an adapter is merged."""
        return flops_per_token(self.accelerator.unwrap_model(self.model))

    def floating_point_ops(self, inputs: dict[str, torch.Tensor | Any]) -> int:
        """Operations that were run since this was last asked: the trained model's, forward and back, and teachers'."""
        spent, self.passes.flops = self.passes.flops, 0.0
        return int(spent)

    # Checkpoints

    def _restore(self, checkpoint: str, states: dict[str, Any]) -> None:
        """Give the callbacks their states in a checkpoint; raises InputError where it is not of this trainer."""
        if "CostMeter" not in states:
            raise InputError(f"{checkpoint} is not a checkpoint of this trainer.")
        self.cost.restore(states["CostMeter"]["attributes"])
        if self.useful is not None:
            self.useful.restore(states["StopWhenUseful"]["attributes"], Path(checkpoint))
        if isinstance(self.rule, DualVariable | Rewind):
            self.rule.restore(states[type(self.rule).__name__]["attributes"])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, as for a checkpoint; nothing is pushed, whatever ``_internal_call`` says."""
        folder = Path(output_dir) if output_dir else self.args.folder
        with self.kept_settings.as_they_were():
            super().save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            # A pickle of the arguments, with the token for the Hub in it; nothing here reads it.
            (folder / "training_args.bin").unlink(missing_ok=True)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # What was lost since the last log must not displace a good checkpoint.
        self._check_loss(float(self._tr_loss))
        # The parent would remove older checkpoints before it is certain that this one is whole.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        folder = self.args.folder / f"checkpoint-{self.state.global_step}"
        self._save_first_use(folder)
        if self.useful is not None and self.args.should_save:
            self.useful.average.save(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            finish_checkpoint(folder, limit, self.state.best_model_checkpoint)

    def _save_first_use(self, folder: Path) -> None:
        if self.first_use is None:
            return
        own = torch.from_numpy(self.first_use.steps.astype(np.int64)).to(self.args.device)
        first = self.accelerator.gather(own[None]).amin(0).cpu().numpy()
        if self.args.should_save:
            FirstUse(first.astype(np.uint32)).save(folder, self._identity(self.state.max_steps))

    def _identity(self, steps: int) -> str:
        return training_identity(self.training_record(DataSource(fingerprint=self.data_fingerprint)), steps)

    # What it tells of itself

    def training_record(self, dataset: DataSource) -> TrainingRecord:
        """``training_record.json``: how the model has just been trained, plainly, from the one at ``source``."""
        values = self.args.to_dict()
        labels = self.model.config.id2label if TASKS[self.task].classes else None
        return TrainingRecord(
            task=self.task,
            labels=[labels[i] for i in sorted(labels)] if labels else None,
            base_model=self.source.name if self.source else None,
            base_revision=self.source.revision if self.source else None,
            dataset=dataset,
            settings={name: values[name] for name in TRAINING_SETTINGS},
            peft=self.lora,
            seed=self.args.seed,
            epochs=self.state.epoch or 0.0,
            steps=self.state.global_step,
            world_size=self.args.world_size,
            tokens=int(self.state.num_input_tokens_seen),
            flops=self.state.total_flos,
            seconds=self.cost.training_seconds,
            software=software_versions(),
            asked_epochs=self.args.num_train_epochs if self.args.max_steps <= 0 else None,
            asked_steps=self.args.max_steps if self.args.max_steps > 0 else None,
        )

    def cost_entry(self, retraining: TrainingRecord | None) -> CostEntry:
        """What has been spent so far, and what retraining costs by its own record, or else by the original's."""
        retraining_flops = retraining.flops if retraining else None
        record, rows = self.record, self.retained_rows
        if retraining_flops is None and record is not None and rows and record.dataset.rows:
            retraining_flops = record.flops * rows / record.dataset.rows
        training = self.state.total_flos
        total = training + self.cost.measuring_flops
        return CostEntry(
            seconds=self.cost.training_seconds,
            measuring_seconds=self.cost.measuring_seconds,
            tokens=int(self.state.num_input_tokens_seen),
            flops=training,
            measuring_flops=self.cost.measuring_flops,
            peak_memory_bytes=self.cost.peak_memory_bytes,
            retraining_flops=retraining_flops,
            training_ratio=training / retraining_flops if retraining_flops else None,
            total_ratio=total / retraining_flops if retraining_flops else None,
            kept_flops=self.cost.kept_flops,
        )
