"""The trainer: transformers' ``Trainer`` on the retained set, from a chosen start, with the evidence around it."""

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from huggingface_hub import CommitInfo
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerState, set_seed
from transformers.trainer_utils import TrainOutput

from .callbacks import MeasureForgetting, SaveOnInterrupt, StopWhenForgotten
from .card import write_card
from .checkpoints import finish_checkpoint, last_checkpoint
from .config import UnlearningConfig
from .cost import CostMeter, flops_per_token
from .data import PaddingCollator, encode, make_encoder, padding_id
from .errors import InputError
from .evaluation.cache import score_once
from .evaluation.evidence import EvidenceSets, attack_scores, evidence_sets, save_tables
from .evaluation.generation import generation_tables
from .evaluation.plots import draw_pictures
from .evaluation.report import REPORT_FILE, SetName, UnlearningReport, write_text
from .evaluation.scoring import preserved_rng
from .evaluation.statistics import membership_auc
from .faults import check_weights, is_out_of_memory, measuring_memory, no_number, training_memory
from .first_use import BLIND_ORDERS, CollatorWithRows, FirstUse, training_identity
from .fit import check_measures
from .hub import publish
from .layers import freeze_all_but_last
from .lineage import find_base
from .masking import MaskingCollator, NewMasksEachEpoch, token_masking
from .methods import CHOICES, METHODS
from .models import (
    PEFT_TASKS,
    Model,
    ModelSource,
    check_quantised,
    frozen_copy,
    load_anchor,
    load_like,
    load_tokenizer,
    locate,
    lora_settings,
    plain_model,
    quantised_bits,
    task_of,
    to_device,
)
from .objectives import OWN_LOSS, l1_norm, l1_weight, labelled_rows
from .record import RECORD_FILE, DataSource, load_any, load_measurable, load_record
from .reporting import trainer_report, training_record
from .retained import ForgetRows, SplitAudit
from .starts import StartInputs
from .tables import AnyDataset
from .tasks import IGNORED, TASKS, Task

# Enough records for the curve during training; the report uses all of them.
MEASURED_RECORDS = 500
TABLES_FOLDER = "tables"


class UnlearningTrainer(Trainer):
    """Fine-tunes a model on the retained set and measures what it still knows of the forget set.

    ``train()`` scores the original model, moves it to the start of the method, and fine-tunes from there with the
    method's objective on L; S never enters a training batch. ``report()`` scores the result and reaches the verdict.
    A masked language model is measured under masks that are fixed for each record.

    Args:
        model: the original model A(D): a folder or Hub id, or a model in memory.
        args: the settings.
        train_dataset: L, as records (see :mod:`hf_unlearn.data`) or as examples with ``input_ids`` and ``labels`` (for
            a masked language model the token wherever one may be masked, -100 elsewhere).
        forget_dataset: S; it is only ever measured. Without it this is plain training.
        holdout_dataset: H, records like S that no model saw.
        eval_dataset: a test split.
        processing_class: the tokenizer; that of the model when None.
        data_collator: stacks examples; pads them, and masks those that are trained on, when None.
        peft_config: trains an adapter instead of the weights; not for a model that is an adapter already.
        callbacks: added to the trainer's own.
        source: where a model in memory came from, for the training record and the card.
        task: what the model does; read from its architecture when None.

    Raises:
        InputError: something does not fit together; nothing has been written then.

    Attributes:
        chosen_by_forget: whether S had a say in what is trained, as in a search on one half of it; to be set by who
            chose. S and H are then the other halves.
    """

    model: Model
    args: UnlearningConfig

    def __init__(
        self,
        model: str | Model,
        args: UnlearningConfig | None = None,
        train_dataset: AnyDataset | None = None,
        forget_dataset: AnyDataset | None = None,
        holdout_dataset: AnyDataset | None = None,
        eval_dataset: AnyDataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        data_collator: Callable[[list[dict]], dict[str, torch.Tensor]] | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        *,
        source: ModelSource | None = None,
        task: Task | None = None,
    ):
        # Args
        args = UnlearningConfig() if args is None else args
        if train_dataset is None:
            raise InputError("The trainer needs the retained set as train_dataset.")
        if not isinstance(train_dataset, Dataset) and args.max_steps <= 0:
            raise InputError("A streamed data set has no length; say how many steps to train with max_steps.")
        if args.stop_when_forgotten and (forget_dataset is None or holdout_dataset is None):
            raise InputError(
                "stop_when_forgotten needs forget_dataset and holdout_dataset to tell one from the other."
            )
        if args.method in CHOICES:
            raise InputError(
                f"{args.method!r} chooses among methods, and this trains one; name a method, or let "
                "hf_unlearn.jobs.run (`hf-unlearn run`) choose."
            )
        self.method = METHODS[args.method]
        self.alpha = self.method.resolve_alpha(args.alpha)

        # Model
        self.source = source or _source_of(model)
        if isinstance(model, str):
            assert self.source is not None
            loaded = load_any(self.source, task)
        else:
            loaded = model
        plain = plain_model(loaded)
        self.task: Task = task_of(str(plain.name_or_path), plain.config, task, architecture=type(plain).__name__)
        check_measures(self.task, args, quantised_bits(plain.config))
        self.trained_adapter = isinstance(loaded, PeftModel)

        # Lineage
        self.record = load_record(self.source) if self.source else None
        base_name = args.base_model_name_or_path
        if base_name is None and self.source is None and isinstance(loaded, PeftModel):
            base_name = loaded.active_peft_config.base_model_name_or_path
        self.base = find_base(self.source, self.record, base_name, args.base_model_revision)
        self._check_lineage(args)

        # Tokenizer
        if processing_class is None:
            processing_class = load_tokenizer([place for place in (self.source, self.base) if place is not None])

        # Trained weights
        if self.method.picks_weights and (self.trained_adapter or peft_config is not None):
            raise InputError(
                f"{args.method!r} picks single weights of the model, and an adapter leaves them out; merge it into "
                "the model, and train all weights."
            )
        check_quantised(
            plain.config,
            adapter=self.trained_adapter or peft_config is not None,
            moved=self.method.moves(self.alpha) and not self.trained_adapter,
            merged=args.merge_adapter,
        )
        if peft_config is not None:
            loaded = self._add_adapter(loaded, peft_config, args)
        if args.train_last_layers is not None:
            freeze_all_but_last(plain, args.train_last_layers)
        self.lora = lora_settings(loaded)

        # Data
        masking = token_masking(self.task, processing_class, args.mlm_probability, args.seed)
        self.training_collator: MaskingCollator | None = None
        if data_collator is None:
            data_collator = PaddingCollator(padding_id(processing_class))
            if masking is not None:
                self.training_collator = MaskingCollator(masking, data_collator)
        encoder = make_encoder(train_dataset, self.task, plain.config, processing_class, args.max_length, args.layout)
        sets: dict[SetName, AnyDataset | None] = {
            "forget": forget_dataset,
            "holdout": holdout_dataset,
            "retained": train_dataset,
            "test": eval_dataset,
        }
        self.evidence: EvidenceSets | None = None
        self.retained_rows = len(train_dataset) if isinstance(train_dataset, Dataset) else None
        # Of a training on all of D, S included, for those who will ask later what had been used by when.
        self.data_fingerprint = train_dataset._fingerprint if isinstance(train_dataset, Dataset) else None
        self.first_use: FirstUse | None = None
        in_blind_order = args.train_sampling_strategy in BLIND_ORDERS
        if self.retained_rows is not None and forget_dataset is None and encoder is not None and in_blind_order:
            self.first_use = FirstUse.of(self.retained_rows)
        with args.main_process_first(desc="tokenising"):
            if forget_dataset is not None:
                batch_size = args.per_device_eval_batch_size
                self.evidence = evidence_sets(
                    sets,
                    encoder,
                    data_collator,
                    self.task,
                    batch_size,
                    args.seed,
                    masking,
                    processing_class,
                    args.group_column,
                )
            if encoder is not None:
                train_dataset = encode(train_dataset, encoder, "retained")
                eval_dataset = encode(eval_dataset, encoder, "test") if eval_dataset is not None else None
            if masking is not None and isinstance(eval_dataset, Dataset):
                eval_dataset = masking.fixed(eval_dataset)

        try:
            super().__init__(
                model=loaded,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
            )
        except ValueError as error:
            # Settings that do not go together, such as eval_strategy without a test split.
            raise InputError(" ".join(str(error).split())) from None
        # The parent counts items for models that take their number only (Esm's do not); compute_loss needs it for all.
        self.model_accepts_loss_kwargs |= not TASKS[self.task].next_token
        if self.training_collator is not None:
            self.add_callback(NewMasksEachEpoch(self.training_collator))
        if self.method.rule is not None:
            self.add_callback(self.method.rule(self._start_inputs()))
        self.teacher: nn.Module | None = None
        self._prepare_measuring()

    def _check_lineage(self, args: UnlearningConfig) -> None:
        if self.base is not None and self.base == self.source:
            raise InputError(
                f"The base {self.base.name!r} is the original itself; name the model it was trained from."
            )
        if self.method.needs_base and self.base is None:
            raise InputError(
                f"The method {args.method!r} needs the model that the original was fine-tuned from, which neither a "
                "training record nor the card names; give it with base_model_name_or_path."
            )
        if args.budget is not None:
            if self.record is None:
                raise InputError(
                    "budget is a fraction of the original training, and there is no training_record.json beside the "
                    "model that tells what that was; set num_train_epochs instead."
                )
            args.num_train_epochs = args.budget * self.record.epochs
        if args.base_is_clean and self.base is None:
            raise InputError(
                "base_is_clean is said of the model that the original was fine-tuned from, which nobody names; give "
                "it with base_model_name_or_path."
            )

    def _add_adapter(self, model: Model, peft_config: PeftConfig, args: UnlearningConfig) -> PeftModel:
        if isinstance(model, PeftModel):
            raise InputError(
                "The model is an adapter already, and that is what will be trained; leave peft_config out."
            )
        if self.method.moves(self.alpha) and not self.starts_at_base and not args.merge_adapter:
            raise InputError(
                f"{args.method!r} moves the weights under the new adapter, so the adapter alone would not be the "
                "result; set merge_adapter, or train without an adapter."
            )
        if self.task not in PEFT_TASKS:
            raise InputError(f"PEFT knows no adapters for {self.task}; train all weights.")
        set_seed(args.seed)
        wrapped = get_peft_model(model, peft_config)
        assert isinstance(wrapped, PeftModel)
        return wrapped

    def _prepare_measuring(self) -> None:
        self.tables: dict[str, dict[SetName, pa.Table]] = {}
        self.generated: dict[str, dict[SetName, pa.Table]] = {}
        self.evidence_report: UnlearningReport | None = None
        self.chosen_by_forget = False
        self._measured: dict[str, float] = {}
        self._flops_per_token: tuple[float, float] | None = None
        self.cost, self.interrupt = CostMeter(), SaveOnInterrupt()
        self.stopping = StopWhenForgotten(self.args.auc_margin, self.args.measure_steps)
        self._watched_base: dict[SetName, pa.Table] | None = None
        self.add_callback(self.cost)
        self.add_callback(self.interrupt)
        if self.evidence is None:
            return
        watched = self.evidence
        self.evidence = replace(watched, gradients=self.args.gradient_norm_attack)
        if self.args.measure_steps == 0:
            return
        if self.args.stop_when_forgotten:
            watched, _ = watched.halves(self.args.seed)
            _, self.evidence = self.evidence.halves(self.args.seed)
        self.watched = watched.at_most(MEASURED_RECORDS, self.args.seed)
        self.add_callback(MeasureForgetting(self.measure, self.args.measure_steps))
        if self.args.stop_when_forgotten:
            self.add_callback(self.stopping)

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Score the original, move to the start, fine-tune on L (see ``Trainer.train``).

        Args:
            resume_from_checkpoint: a checkpoint folder, or True for the last complete one in ``output_dir``.
            args, kwargs: as for the parent.

        Raises:
            InputError: there is no checkpoint to resume from.
            KeyboardInterrupt: after Ctrl-C, once a checkpoint has been saved.
        """
        if self.tables:
            raise InputError("This trainer has trained already; make another one for another run.")
        checkpoint: str | None = None
        if resume_from_checkpoint is True:
            checkpoint = last_checkpoint(self.args.folder)
            if checkpoint is None:
                raise InputError(f"There is no complete checkpoint in {self.args.folder} to resume from.")
        elif resume_from_checkpoint:
            checkpoint = str(resume_from_checkpoint)
        if checkpoint is not None:
            state = TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json"))
            if "CostMeter" not in state.stateful_callbacks:
                raise InputError(f"{checkpoint} is not a checkpoint of this trainer.")
            self.cost.restore(state.stateful_callbacks["CostMeter"]["attributes"])
            if "StopWhenForgotten" in state.stateful_callbacks:
                self.stopping.restore(state.stateful_callbacks["StopWhenForgotten"]["attributes"])
            if self.first_use is not None:
                self.first_use = FirstUse.load(Path(checkpoint), self._identity(state.max_steps))
        with preserved_rng():
            if self.evidence is not None:
                counted = self.cost.kept_flops
                self.tables["original"] = self._score(self.evidence, kept=True)
                if checkpoint is not None:
                    # What is read now was made, or read, before the interruption, and the checkpoint counts it.
                    self.cost.kept_flops = counted
                self.generated["original"] = self._write_on(self.evidence)
            if self.args.stop_when_forgotten:
                self._prepare_stopping()
            if self.method.objective.needs_teacher:
                self.teacher = frozen_copy(self.model, self.args.device)
            # Also before a checkpoint is loaded: an adapter's holds nothing of the weights under it.
            self._move_to_start()
        # The parent seeds when it is made; whatever was drawn since then must not matter.
        set_seed(self.args.seed)
        try:
            output = super().train(checkpoint, *args, **kwargs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(training_memory(self.args)) from None
        finally:
            self.interrupt.restore()
        if self.interrupt.interrupted:
            raise KeyboardInterrupt(f"stopped after step {self.state.global_step} of {self.state.max_steps}")
        self.teacher = None
        self._check_loss(output.training_loss)
        if self.args.merge_adapter and isinstance(self.model, PeftModel):
            self.model = self.model_wrapped = self.model.merge_and_unload()
        return output

    def _prepare_stopping(self) -> None:
        """Score what the stopping rule compares with, on the records that it watches."""
        original = self._score(self.watched)
        if (base := self._base_to_measure()) is not None:
            self._watched_base = self._score(self.watched, base)
        self.stopping.watch(attack_scores(original, self._watched_base), self.watched.blind(self.args.seed))

    @property
    def adapter_base(self) -> ModelSource | None:
        """The model that an adapter lies on; None for full training or when it is unknown."""
        if self.lora is None:
            return None
        return self.base if self.trained_adapter or self.starts_at_base else self.source

    @property
    def starts_at_base(self) -> bool:
        """Whether the fine-tuning begins at the model that the original was fine-tuned from, bit for bit."""
        return self.method.replaces and self.method.uses_base and self.alpha == 1 and self.base is not None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A checkpoint of the last step leaves nothing to do, but in the middle of an epoch the parent takes one step.
        if self.stopping.stopped or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _start_inputs(self) -> StartInputs:
        base, rewind = self.base, self.args.rewind_checkpoint

        def load_base() -> PreTrainedModel:
            assert base is not None
            plain = plain_model(self.model)
            return load_anchor(base, self.task, plain.config, dtype=plain.dtype, seed=self.args.seed)

        def load_checkpoint() -> Model:
            assert rewind is not None
            plain = plain_model(self.model)
            place = locate(rewind, trust_remote_code=self.source is not None and self.source.trust_remote_code)
            return load_like(place, self.task, plain.config, dtype=plain.dtype, seed=self.args.seed)

        return StartInputs(
            alpha=self.alpha,
            seed=self.args.seed,
            trained_adapter=self.trained_adapter,
            load_base=None if base is None else load_base,
            load_checkpoint=None if rewind is None else load_checkpoint,
            last_layers=self.args.train_last_layers,
        )

    def _move_to_start(self) -> None:
        self.method.start(self.model, self._start_inputs())
        base = self.base
        if self.starts_at_base and isinstance(self.model, PeftModel) and base is not None:
            for config in self.model.peft_config.values():
                config.base_model_name_or_path, config.revision = base.name, base.revision

    def get_train_dataloader(self) -> DataLoader:
        """Batches of L; those of a masked language model are masked here, and nowhere else."""
        self._set_signature_columns_if_needed()
        measuring, read = self.data_collator, self._signature_columns
        assert read is not None
        self.data_collator = self.training_collator or measuring
        if self.first_use is not None:
            self.data_collator, self._signature_columns = CollatorWithRows(self.data_collator), [*read, "row"]
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator, self._signature_columns = measuring, read

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
        labels = inputs["labels"]
        if TASKS[self.task].next_token or num_items_in_batch is None:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        else:
            # BertForSequenceClassification, BertForMaskedLM, EncoderDecoderModel and others take num_items_in_batch
            # and average over the batch all the same, so the parent's gradient would grow with the accumulation
            # steps. Without the number all of them average; without accumulation this factor is one.
            share = (labels != IGNORED).sum() * self._averaged_processes / num_items_in_batch
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            loss = loss * share
        if model.training and self.method.objective != OWN_LOSS:
            loss = self._objective(loss, outputs.logits, {**inputs, "labels": labels}, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    @property
    def _averaged_processes(self) -> int:
        """Over how many processes a gradient is averaged whose loss was divided by the items of all of them."""
        return self.accelerator.num_processes if self.args.average_tokens_across_devices else 1

    def _objective(
        self,
        own: torch.Tensor,
        logits: torch.Tensor,
        inputs: dict[str, torch.Tensor],
        items: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The method's objective on a batch; where items are not counted the parent divides by a step's batches."""
        objective, task = self.method.objective, TASKS[self.task]
        student = teacher = None
        share: torch.Tensor | float = 0.0
        penalty: torch.Tensor | float = 0.0
        if self.teacher is not None:
            # An encoder-decoder makes from the labels what it reads.
            read = {name: values for name, values in inputs.items() if name != "labels" or task.two_texts}
            with torch.no_grad(), self.accelerator.autocast():
                told = self.teacher(**read).logits
            rows = [labelled_rows(values, inputs["labels"], task.next_token) for values in (logits, told)]
            student, teacher = rows
            share = 1 / max(1, len(student)) if items is None else self._averaged_processes / items
        if objective.l1:
            trained = (weight for weight in self.model.parameters() if weight.requires_grad)
            strength = l1_weight(self.alpha, self.state.global_step / self.state.max_steps)
            penalty = strength * l1_norm(trained) / (1 if items is None else self.current_gradient_accumulation_steps)
        return objective(own, student, teacher, share, penalty)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor | Any]) -> int:
        """Operations of a forward and backward pass, for frozen weights and adapters too, and of a teacher's forward.

        Per token two for each weight forward, two backward for each weight from the first trained one on, two more for
        each trained weight; embeddings are left out, as by the parent.
        """
        tokens = inputs["input_ids"].numel()
        if TASKS[self.task].two_texts:
            # Each text passes through half of the model.
            tokens = (tokens + inputs["labels"].numel()) / 2
        per_token = self._flops()[0] + (flops_per_token(self.teacher)[1] if self.teacher is not None else 0.0)
        return int(tokens * per_token)

    def _flops(self) -> tuple[float, float]:
        """Operations per token of a training step and of a forward pass."""
        if self._flops_per_token is None:
            self._flops_per_token = flops_per_token(self.accelerator.unwrap_model(self.model))
        return self._flops_per_token

    # Measuring

    def measure(self) -> None:
        """Measure the watched records now and hand the numbers to the next log; no random number is drawn."""
        with preserved_rng():
            tables = self._score(self.watched)
        for name in ("forget", "holdout", "retained"):
            if name in tables:
                self._measured[f"{name}_loss"] = float(np.mean(tables[name]["loss"].to_numpy()))
        found = attack_scores(tables, self._watched_base)
        if found is not None:
            auc = membership_auc(-found.forget["loss"], -found.holdout["loss"], confidence=0.90)
            self._measured |= {
                "membership_auc": auc.value,
                "membership_auc_low": auc.low,
                "membership_auc_high": auc.high,
            }
            if self.args.stop_when_forgotten:
                self._measured |= self.stopping.look(found, self.state)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the measurement that was made at this step if there was one; stop when the loss is no number."""
        self._check_loss(logs.get("loss", 0.0))
        if self._measured:
            logs = {**logs, **self._measured}
            self._measured = {}
        super().log(logs, start_time)

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise InputError(no_number(self.args, self.state.global_step))

    def _score(self, sets: EvidenceSets, model: Model | None = None, kept: bool = False) -> dict[SetName, pa.Table]:
        """Score the model, or read what an earlier run made of the same weights and records, and note what it cost."""
        started, tokens = time.perf_counter(), sets.tokens
        model = self.model if model is None else model
        try:
            if kept:
                tables, tokens = score_once(sets, model, self.accelerator.autocast)
            else:
                tables = sets.score(model, self.accelerator.autocast)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(measuring_memory(self.args)) from None
        flops = self._flops()[1]
        self.cost.measured(time.perf_counter() - started, flops * tokens, flops * (sets.tokens - tokens))
        return tables

    def _write_on(self, sets: EvidenceSets) -> dict[SetName, pa.Table]:
        """Let the model write on from some records, when that is asked for, and note what it cost."""
        started = time.perf_counter()
        try:
            tables, tokens = self._written(sets, self.model)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(measuring_memory(self.args)) from None
        self.cost.measured(time.perf_counter() - started, self._flops()[1] * tokens)
        return tables

    def _written(self, sets: EvidenceSets, model: Model) -> tuple[dict[SetName, pa.Table], int]:
        if not self.args.generate_records:
            return {}, 0
        tokenizer, records, seed = self.processing_class, self.args.generate_records, self.args.seed
        assert isinstance(tokenizer, PreTrainedTokenizerBase)
        return generation_tables(model, sets, tokenizer, records=records, seed=seed, context=self.accelerator.autocast)

    # Results

    def report(
        self,
        *,
        audit: SplitAudit | None = None,
        dataset: DataSource | None = None,
        retrained: str | None = None,
        forget_rows: ForgetRows | None = None,
    ) -> UnlearningReport:
        """Measure the model as it is now and reach a verdict.

        Args:
            audit: of the split that made L and S; without it nothing is known about copies of S in L.
            dataset: where D came from.
            retrained: a model that was trained on L alone, a folder or Hub id, to compare with.
            forget_rows: where S is in D, of the split; without it ``rewind`` cannot be shown to be exact.

        Returns:
            The evidence; ``save_model`` writes it beside the model.

        Raises:
            InputError: there is no forget set to measure, or the retrained model does not fit.
        """
        if self.evidence is None:
            raise InputError("Without forget_dataset there is nothing to report on.")
        reference = None
        with preserved_rng():
            self.tables["unlearned"] = self._score(self.evidence)
            self.generated["unlearned"] = self._write_on(self.evidence)
            if retrained is not None:
                place = locate(retrained)
                reference = load_record(place)
                bits = quantised_bits(plain_model(self.model).config)
                model = to_device(load_any(place, self.task, bits=bits), self.args.device)
                # The yardstick is not part of what unlearning costs.
                self.tables["retrained"], _ = score_once(self.evidence, model, self.accelerator.autocast)
                self.generated["retrained"], _ = self._written(self.evidence, model)
            if (base := self._base_to_measure()) is not None:
                # How hard each record is by nature, for the attack that takes it into account.
                self.tables["base"], _ = score_once(self.evidence, base, self.accelerator.autocast)
        self.evidence_report = trainer_report(self, audit, dataset or DataSource(), reference, forget_rows)
        return self.evidence_report

    def _base_to_measure(self) -> Model | None:
        """The base, where it does the same task with the same tokens; None where it does not."""
        return load_measurable(self.base, self.task, plain_model(self.model).config, self.args.device)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model and, once there is a report, the evidence and the card; no file is ever there by half.

        Args:
            output_dir: where to; ``args.output_dir`` when None.
            _internal_call: set by the parent for checkpoints, which hold the model alone.
        """
        target = Path(output_dir) if output_dir else self.args.folder
        if _internal_call:
            self._save_weights(target)
            return
        staging = target / ".model.part"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        try:
            self._save_weights(staging)
            if not self.args.should_save:
                return
            check_weights(staging)
            # PEFT writes a card of its own, which would name a folder of this machine as the base.
            (staging / "README.md").unlink(missing_ok=True)
            for file in sorted(staging.iterdir()):
                os.replace(file, target / file.name)
        finally:
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
        if self.record is not None:
            write_text(target / RECORD_FILE, self.record.to_json())
        if self.evidence_report is not None:
            save_tables(self.tables, target / TABLES_FOLDER)
            draw_pictures(self.evidence_report, self.tables, target)
            self.evidence_report.save(target / REPORT_FILE)
            self.create_model_card()

    def _save_weights(self, folder: Path) -> None:
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
        return training_identity(training_record(self, DataSource(fingerprint=self.data_fingerprint)), steps)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the card from the report; the arguments are the parent's and override what the report says."""
        if not self.is_world_process_zero():
            return
        if self.evidence_report is None:
            raise InputError("The card is written from the report; call report() first.")
        overrides = {
            "language": language,
            "license": license,
            "tags": [tags] if isinstance(tags, str) else tags,
            "model_name": model_name,
            "base_model": finetuned_from,
            "pipeline_tag": tasks,
            "datasets": dataset_tags or dataset,
            "dataset_config": dataset_args,
        }
        write_card(self.args.folder, self.evidence_report, overrides)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        push_anyway: bool = False,
        push_to_existing: bool = False,
        tell_users_to_move: bool = False,
        **kwargs: Any,
    ) -> CommitInfo | None:
        """Publish the model with its evidence in one commit, to the repository ``args.hub_model_id``.

        Args:
            commit_message: the commit's first line; says the method and the verdict when None.
            blocking: must be True; the commit is the last thing a run does.
            token: for the Hub; ``args.hub_token`` or that of ``hf auth login`` when None.
            revision: the branch.
            private: whether a new repository is private; ``args.hub_private_repo`` when None.
            push_anyway: publish a model whose verdict is ``not_forgotten`` or ``over_forgotten``.
            push_to_existing: publish to a repository that has files already, whose history keeps them readable.
            tell_users_to_move: ask users of the original, in the card, to move to this model.
            kwargs: for :meth:`create_model_card`.

        Returns:
            The commit; None on the processes that do not write.

        Raises:
            InputError: the verdict forbids it, the repository exists, or the Hub refuses.
        """
        if not blocking:
            raise InputError("blocking=False is not possible: a model is published whole, in one commit.")
        if self.evidence_report is None:
            self.report()
        self.save_model()
        if not self.is_world_process_zero():
            return None
        if kwargs:
            self.create_model_card(**kwargs)
        return publish(
            self.args.folder,
            self.args.hub_model_id or self.args.folder.absolute().name,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            push_anyway=push_anyway,
            push_to_existing=push_to_existing,
            tell_users_to_move=tell_users_to_move,
        )


# Helpers


def _source_of(model: str | Model) -> ModelSource | None:
    """Where a model came from, None for one that was made in memory."""
    if isinstance(model, str):
        return locate(model)
    name = model.name_or_path if isinstance(model, PreTrainedModel) else None
    return locate(name) if name else None
