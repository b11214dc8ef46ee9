"""The trainer: transformers' ``Trainer`` on the retained set, from a chosen start, with the evidence around it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from huggingface_hub import CommitInfo
from peft import PeftConfig
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ..data.arrow_tables import AnyDataset, column_names, require_columns
from ..data.request.row_filter import FILTER_FILE, RowFilter
from ..data.split import ForgetRows, SplitAudit
from ..errors import InputError
from ..evaluation.assemble import save_evidence
from ..evaluation.measured_sets import JUDGED, EvidenceSets, grouped
from ..evaluation.report import Road, SetName, UnlearningReport
from ..evaluation.score_cache import score_once
from ..evaluation.scoring import preserved_rng
from ..files import save_json
from ..methods.table import CHOICES, METHODS, find_method, trains_on_forget
from ..models.classes import class_names_of
from ..models.loading import (
    Model,
    load_any,
    load_config,
    load_measurable,
    load_tokenizer,
    plain_model,
    quantised_bits,
    source_task,
    task_of,
    to_device,
)
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
from ..models.training_record import RECORD_FILE, DataSource, load_record
from ..publishing.card import write_card
from ..publishing.publish import publish
from .callbacks import MeasureForgetting, StopWhenForgotten
from .choosing import Way, auto_config, plain_config
from .config import UnlearningConfig
from .kept_classes import kept_classes
from .lineage import Lineage, find_lineage, fit_to_lineage, source_of
from .measuring import Watching, check_measures
from .method_trainer import MethodTrainer
from .retrained_model import Retraining
from .saving import save_whole
from .trained_weights import check_saved, fit_rate, trained_weights
from .trainer_data import check_tokens_of, guarded_collator, trainer_data, with_one_padding
from .trainer_report import trainer_report, usefulness_words

# Enough records for the curve during training; the report uses all of them.
MEASURED_RECORDS = 500


def _check_settings(
    args: UnlearningConfig, retained: AnyDataset, forget: AnyDataset | None, holdout: AnyDataset | None
) -> None:
    """Raise InputError where the settings and the data sets do not go together."""
    if not isinstance(retained, Dataset) and args.max_steps <= 0:
        raise InputError("A streamed data set has no length; say how many steps to train with max_steps.")
    if args.stop_when_forgotten and (forget is None or holdout is None):
        raise InputError("stop_when_forgotten needs forget_dataset and holdout_dataset, which it compares.")
    if args.method in CHOICES and args.method != "auto":
        raise InputError(
            f"{args.method!r} trains several times, and this trains once; name a method, or let "
            "hf_unlearn.jobs.run (`hf-unlearn run`) choose."
        )
    if args.method in METHODS and METHODS[args.method].chooses and (forget is None or holdout is None):
        raise InputError(
            f"The method {args.method!r} chooses by records to forget and held-out records; name both (--holdout_ids, "
            "--holdout_split or the like)."
        )
    if args.paraphrase_column is not None and trains_on_forget(args.method):
        for part in (forget, holdout):
            if part is not None:
                require_columns([args.paraphrase_column], column_names(part))


def _check_tokens(
    source: ModelSource,
    task: Task | None,
    sets: list[AnyDataset | None],
    tokenizer: PreTrainedTokenizerBase,
    args: UnlearningConfig,
) -> None:
    """Raise InputError where records have tokens that a model lacks; a classifier's are told once it is loaded."""
    config = load_config(source)
    if not TASKS[found := source_task(source, task, config)].classes:
        check_tokens_of(sets, tokenizer, config, found, args)


class UnlearningTrainer(MethodTrainer):
    """Fine-tunes a model on the retained set and measures what it still knows of the forget set.

    ``train()`` scores the original model, moves it to the start of the method, and fine-tunes from there with the
    method's objective: on the retained set L and, for the methods that use it, on the forget set S. ``report()``
    scores the result and reaches the verdict. A masked language model is measured under masks that are fixed for each
    record.

    Args:
        model: the original model A(D): a folder or Hub id, or a model in memory.
        args: the settings.
        train_dataset: L, as records (see :mod:`~hf_unlearn.data.encoding`) or as examples with ``input_ids`` and
            ``labels`` (for a masked language model the token wherever one may be masked, -100 elsewhere).
        forget_dataset: S, which most methods only measure. Without it this is plain training.
        holdout_dataset: the held-out set H, records like S that no model saw.
        eval_dataset: a test split, or several by name.
        processing_class: the tokenizer; that of the model when None.
        data_collator: stacks examples; pads them, and masks those that are trained on, when None.
        peft_config: trains an adapter instead of the weights; not for a model that is an adapter already.
        callbacks: added to the trainer's own.
        source: where a model in memory came from, for the training record and the card.
        task: what the model does; read from its architecture when None.
        lineage: how the model was trained, and from what, where that has been looked up.

    Raises:
        InputError: something does not fit together; nothing has been written then.

    Attributes:
        chosen_by_forget: whether S helped to choose what is trained, as in a search on one half of it. Whoever chose
            so sets it, and gives the other halves as S and H.
        way: which method was chosen for ``method="auto"``, and why; None where one was named.
        row_filter: of the rows it was trained on; whoever has the owner's key sets it, to be saved beside the model.
        others: what further retrained models make of the records, by their names in the report's ``more_retrained``.
    """

    def __init__(
        self,
        model: str | Model,
        args: UnlearningConfig | None = None,
        train_dataset: AnyDataset | None = None,
        forget_dataset: AnyDataset | None = None,
        holdout_dataset: AnyDataset | None = None,
        eval_dataset: AnyDataset | dict[str, AnyDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        data_collator: Callable[[list[dict]], dict[str, torch.Tensor]] | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        *,
        source: ModelSource | None = None,
        task: Task | None = None,
        lineage: Lineage | None = None,
    ):
        args = UnlearningConfig() if args is None else args
        if train_dataset is None:
            raise InputError("The trainer needs the retained set as train_dataset.")
        _check_settings(args, train_dataset, forget_dataset, holdout_dataset)
        source = source or source_of(model, args)
        if lineage is None:
            record = load_record(source) if source else None
            lineage = find_lineage(source, record, args, None if isinstance(model, str) else model)
        way: Way | None = None
        if args.method == "auto" and forget_dataset is None:
            # Nothing is to be forgotten, so it is trained as it is.
            args = plain_config(args)
        elif args.method == "auto":
            rows = len(train_dataset) if isinstance(train_dataset, Dataset) else None
            args, way = auto_config(args, lineage, rows)
        self.way = way
        method = find_method(args.method, args.start)
        alpha = method.resolve_alpha(args.alpha)
        fit_to_lineage(args, method, lineage)
        fit_rate(args, method, adapter=lineage.adapter or peft_config is not None)
        if processing_class is None:
            processing_class = load_tokenizer([place for place in (source, lineage.base) if place is not None])
        loaded = model if not isinstance(model, str) else None
        if loaded is None and source is not None:
            _check_tokens(source, task, [train_dataset, forget_dataset, holdout_dataset], processing_class, args)
            loaded = load_any(source, task)
        assert loaded is not None
        plain = plain_model(loaded)
        task = task_of(str(plain.name_or_path), plain.config, task, architecture=type(plain).__name__)
        check_measures(task, args, quantised_bits(plain.config), forget_dataset)
        processing_class = with_one_padding(loaded, processing_class, task)

        loaded, lora = trained_weights(loaded, peft_config, args, method, alpha, task, lineage)
        data = trainer_data(
            train_dataset,
            forget_dataset,
            holdout_dataset,
            eval_dataset,
            args,
            task,
            plain.config,
            processing_class,
            guarded_collator(data_collator),
            method,
            kept_classes(train_dataset, args, task, plain, method, alpha, lineage),
        )
        super().__init__(
            loaded,
            args,
            data,
            processing_class,
            callbacks,
            method=method,
            alpha=alpha,
            task=task,
            source=source,
            lineage=lineage,
            lora=lora,
        )
        self.judged: dict[SetName, AnyDataset | None] = {"forget": forget_dataset, "holdout": holdout_dataset}
        self._prepare_measuring(data.evidence)

        check_saved(args, self.adapter_base, loaded, len(processing_class))

    def _prepare_measuring(self, evidence: EvidenceSets | None) -> None:
        self.evidence = evidence
        self.tables: dict[str, dict[SetName, pa.Table]] = {}
        self.generated: dict[str, dict[SetName, pa.Table]] = {}
        self.others: dict[str, dict[SetName, pa.Table]] = {}
        self.evidence_report: UnlearningReport | None = None
        self.row_filter: RowFilter | None = None
        self.chosen_by_forget = False
        self.stopping = StopWhenForgotten(self.args.auc_margin, self.args.measure_steps)
        self.watching: Watching | None = None
        self._measured: dict[str, float] = {}
        if evidence is None:
            return
        stops, seed = self.args.stop_when_forgotten, self.args.seed
        self.evidence = replace(evidence, gradients=self.args.gradient_norm_attack)
        if self.method.chooses:
            self.chosen_by_forget = True
            _, self.evidence = self.evidence.halves(seed)
        if self.args.measure_steps == 0:
            return
        if stops:
            evidence, _ = evidence.halves(seed)
            _, self.evidence = self.evidence.halves(seed)
        else:
            # The curve shows the loss alone.
            evidence = replace(evidence, forms={})
        self.watched = evidence.at_most(MEASURED_RECORDS, seed)
        self.watching = Watching(self.measuring, self.watched, self.stopping if stops else None)
        self.add_callback(MeasureForgetting(self.measure, self.args.measure_steps))
        if stops:
            self.add_callback(self.stopping)

    # Measuring

    def _restore(self, checkpoint: str, states: dict[str, Any]) -> None:
        super()._restore(checkpoint, states)
        if self.args.stop_when_forgotten and "StopWhenForgotten" in states:
            self.stopping.restore(states["StopWhenForgotten"]["attributes"])

    def _look_at_original(self, *, resumed: bool) -> None:
        if self.tables:
            raise InputError("This trainer has trained already; make another one for another run.")
        if self.evidence is None:
            return
        counted = self.cost.kept_flops
        self.tables["original"] = self.measuring.score(self.evidence, self.model, kept=True)
        if resumed:
            # What is read now was made, or read, before the interruption, and the checkpoint counts it.
            self.cost.kept_flops = counted
        self.generated["original"] = self.measuring.write_on(self.evidence, self.model)
        if self.watching is not None:
            self.watching.begin(self.model, self._base_to_measure)

    def measure(self) -> None:
        """Measure the watched records now and hand the numbers to the next log; draws no random number."""
        assert self.watching is not None
        with preserved_rng():
            self._measured |= self.watching.look(self.model, self.state)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with what was measured at this step; stop when the loss is no number."""
        measured, self._measured = self._measured, {}
        super().log({**logs, **measured}, start_time)

    # Results

    def report(
        self,
        *,
        audit: SplitAudit | None = None,
        dataset: DataSource | None = None,
        retrained: str | None = None,
        more_retrained: Sequence[str] = (),
        forget_rows: ForgetRows | None = None,
    ) -> UnlearningReport:
        """Measure the model as it is now and reach a verdict.

        Args:
            audit: of the split that made L and S; without it nothing is known about copies of S in L. It also says
                which records count as one group where ``args.group_column`` does not.
            dataset: where D came from.
            retrained: a model that was trained on L alone, a folder or Hub id, to compare with.
            more_retrained: others that differ from it in their seed; from two on their spread counts in the verdict.
            forget_rows: where S is in D, of the split; without it ``rewind`` cannot be shown to be exact.

        Returns:
            The evidence; ``save_model`` writes it beside the model.

        Raises:
            InputError: there is no forget set to measure, S or H lack the column of their groups, or a retrained
                model does not fit, or saw S by its own record.
        """
        if self.evidence is None:
            raise InputError("Without forget_dataset there is nothing to report on.")
        if audit is not None and audit.group_column is not None and self.args.group_column is None:
            self.args.group_column = audit.group_column
            self.evidence = grouped(self.evidence, self.judged, audit.group_column)
            self.tables = {arm: self.evidence.with_groups(tables) for arm, tables in self.tables.items()}
        data = dataset or DataSource()
        place = locate(retrained) if retrained is not None else None
        retraining = load_record(place) if place is not None else None
        if audit is not None:
            trained = forget_rows.fingerprint if forget_rows is not None else None
            asked = Retraining(audit, data, self.data_fingerprint, trained, None, self.source)
            for other in [*([place] if place is not None else []), *map(locate, more_retrained)]:
                asked.check(other)
        with preserved_rng():
            self.tables["unlearned"] = self.measuring.score(self.evidence, self.model)
            self.generated["unlearned"] = self.measuring.write_on(self.evidence, self.model)
            if place is not None:
                bits = quantised_bits(plain_model(self.model).config)
                model = to_device(load_any(place, self.task, bits=bits), self.args.device)
                # What it is compared with is not part of what unlearning costs.
                self.tables["retrained"], self.generated["retrained"] = self.measuring.uncounted(self.evidence, model)
            self.others = {name: self._score_other(name) for name in more_retrained}
            if (base := self._base_to_measure()) is not None:
                # How hard each record is by nature, for the attack that takes it into account.
                self.tables["base"] = self.measuring.score(self._of_base(), base, kept=True)
        self.evidence_report = trainer_report(
            self,
            self.tables,
            self.generated,
            self.evidence,
            self.stopping,
            others=list(self.others.values()),
            chosen_by_forget=self.chosen_by_forget,
            audit=audit,
            dataset=data,
            retraining=retraining,
            forget_rows=forget_rows,
        )
        if self.way is not None:
            method = self.evidence_report.method
            reasons = [*self.way.reasons, method.fitted, usefulness_words(method)]
            road = Road(self.way.taken, [reason for reason in reasons if reason])
            self.evidence_report = replace(self.evidence_report, road=road)
        return self.evidence_report

    def _score_other(self, name: str) -> dict[SetName, pa.Table]:
        """The tables of a model that the run's own are compared with."""
        assert self.evidence is not None
        model = load_any(locate(name), self.task, bits=quantised_bits(plain_model(self.model).config))
        return score_once(self.evidence, to_device(model, self.args.device), self.accelerator.autocast)[0]

    def _of_base(self) -> EvidenceSets:
        """What is measured of the base: S and H, and the rest where usefulness is a part of the gain over it."""
        assert self.evidence is not None
        if not TASKS[self.task].classes:
            return self.evidence
        return self.evidence.with_sets({name: part for name, part in self.evidence.sets.items() if name in JUDGED})

    def _base_to_measure(self) -> Model | None:
        """The base, where it does the same task with the same tokens; None where it does not."""
        return load_measurable(self.base, self.task, plain_model(self.model).config, self.args.device)

    # Saving

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model to ``output_dir`` or ``args.output_dir``, and with it the report, the evidence and the card.

        No file is ever there by half. For a checkpoint the parent sets ``_internal_call``; it holds the model alone.
        """
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        target, save = Path(output_dir) if output_dir else self.args.folder, super().save_model
        save_whole(lambda folder: save(str(folder), _internal_call=True), target, writes=self.args.should_save)
        if not self.args.should_save:
            return
        if self.row_filter is not None:
            # Before the record, by which a finished training is known.
            save_json(self.row_filter, target / FILTER_FILE)
        if (record := self.record) is not None:
            if self.data.kept_classes is not None:
                record = replace(record, labels=list(class_names_of(plain_model(self.model).config)))
            save_json(record, target / RECORD_FILE)
        if self.evidence_report is not None:
            save_evidence(self.evidence_report, self.tables, target)
            self.create_model_card()

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
        """Write the card from the report; what the parent's arguments say goes before the report."""
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
            blocking: must be True; the commit is the last thing a run does.
            kwargs: for :meth:`create_model_card`.

        The other arguments are those of :func:`~hf_unlearn.publish`; where they are None, the settings decide.

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
