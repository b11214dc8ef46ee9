"""Unlearn, train, evaluate and attack: each runs the command of that name.

Each prints nothing unless asked to, and raises one ``InputError`` that names its argument.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers import PreTrainedTokenizerBase

from ..data.short_table import ShortTable, Shown
from ..data.split import RetainedSplit
from ..evaluation.attacks.report import AttackReport
from ..evaluation.report import UnlearningReport
from ..jobs.attacking import attack as attack_job
from ..jobs.evaluating import evaluate as evaluate_job
from ..jobs.training_runs import train as train_job
from ..jobs.unlearning import run_and_split
from ..methods.method import Method
from ..methods.table import register
from ..models.loading import Model, load_any, load_tokenizer, loading_of
from ..models.location import ModelSource, locate, on_named_base
from ..models.tasks import Task
from ..models.training_record import TrainingRecord, load_record
from ..publishing.publish import publish
from ..sharding.layout import load_sharding
from ..sharding.serving import ShardedModel, load_sharded
from .arguments import Data, Place, Request, hints, job_values, told_in_python


@dataclass(frozen=True, repr=False)
class Trained:
    """A model that was trained, in its folder.

    Attributes:
        folder: where it is saved.
        settings: what the function was called with.
    """

    folder: Path
    settings: dict[str, Any]

    @cached_property
    def model(self) -> Model | ShardedModel:
        """The model, loaded when it is asked for; one that is dealt into adapters knows their owners by the key."""
        source = self._source
        if load_sharding(source) is not None:
            return load_sharded(source.name, digest_key_file=self.settings.get("digest_key_file"))
        given = {name: value for name, value in self.settings.items() if value is not None}
        loaded = load_any(source, self.task, **loading_of(given))
        # An adapter comes ready to be trained.
        loaded.eval()
        return loaded

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that lies beside the model."""
        return load_tokenizer([self._source])

    @property
    def record(self) -> TrainingRecord | None:
        """How the model was trained, as later runs read it; None where nobody recorded that."""
        return load_record(self._source)

    @property
    def task(self) -> Task | None:
        """What the model does, as its record says it."""
        return self.record.task if self.record is not None else None

    @property
    def _source(self) -> ModelSource:
        given = self.settings.get
        source = locate(str(self.folder), trust_remote_code=bool(given("trust_remote_code")))
        return on_named_base(source, given("base_model_name_or_path"), given("base_model_revision"))


@dataclass(frozen=True, repr=False)
class Result(Trained, Shown):
    """An unlearned model with its evidence; printed, it shows the report.

    Attributes:
        report: the evidence and the verdict.
        split: L, S and H, and the counts of the request.
    """

    report: UnlearningReport
    split: RetainedSplit

    def short_table(self) -> ShortTable:
        return self.report.short_table()

    @property
    def task(self) -> Task:
        return self.report.task

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Publish model, tokenizer, card, report and pictures in one commit.

        Args:
            repo_id: ``owner/name``; created when it does not exist.
            options: those of :func:`~hf_unlearn.publish`, such as ``private`` and ``push_anyway``.

        Raises:
            InputError: the verdict forbids it, the repository has files, or the Hub refuses.
        """
        with told_in_python():
            return publish(self.folder, repo_id, **options)

    def evaluate(self, *, output_dir: Place | None = None, show: bool = False, **settings: Any) -> UnlearningReport:
        """Measure the model again, as :func:`evaluate` does, on the same data and request.

        Args:
            output_dir: where the new report goes; beside the folder when None.
            show: whether to print what the command prints.
            settings: what is to differ, such as ``generate_records=50``.
        """
        dropped = {"model", "model_revision", "method"}
        kept = {name: value for name, value in self.settings.items() if name not in dropped}
        if isinstance(self.settings["model"], str | os.PathLike):
            kept["original_model"] = self.settings["model"]
        known = {*hints("evaluate"), "dataset", "forget", "holdout"}
        asked = {name: value for name, value in kept.items() if name in known} | settings
        beside = self.folder.with_name(f"{self.folder.name}-evaluation")
        return evaluate(self.folder, **asked, output_dir=output_dir or beside, show=show)


def unlearn(
    model: Place | Model,
    dataset: Data,
    *,
    forget: Request | None = None,
    holdout: Request | None = None,
    method: str | Method = "auto",
    output_dir: Place = "unlearned",
    tokenizer: PreTrainedTokenizerBase | None = None,
    show: bool = False,
    **settings: Any,
) -> Result:
    """Make a fine-tuned model forget records, and measure whether it did: ``hf-unlearn run``.

    Args:
        model: the original: a folder, a Hub id, or a model in memory. One in memory that is not what its own name
            leads to has no training record and no ledger; it is saved beside ``output_dir`` until the function ends.
        dataset: D: a Hub id, a folder, a file, or a data set in memory.
        forget: the records to forget: ``Records``, a data set of rows like them, or a file of ids, which needs
            ``forget_id_column``. Other settings, such as ``forget_values``, can name them too.
        holdout: records like these that no model saw, in the same forms.
        method: the name of a method, ``auto``, ``dial``, or a ``Method`` of your own.
        output_dir: where model, card and report go; the same call goes on there after an interruption.
        tokenizer: of a model in memory; by default that of its own name.
        show: whether to print what the command prints.
        settings: all others of the command by name, such as ``budget``, ``learning_rate`` or ``use_peft``.

    Returns:
        Model, tokenizer, report and split.

    Raises:
        AlreadyForgotten: all that is asked for was forgotten before.
        InputError: something does not fit together; nothing has been written then.
    """
    with told_in_python():
        name = register(method).name if isinstance(method, Method) else method
    given = {"forget": forget, "holdout": holdout, "method": name, **settings}
    with job_values("run", model, dataset, given, output_dir, tokenizer, show) as values:
        report, split = run_and_split(values)
        given |= {"model": model, "dataset": dataset, "dtype": values.get("dtype")}
    return Result(Path(output_dir), given, report, split)


def train(
    model: Place | Model,
    dataset: Data,
    *,
    forget: Request | None = None,
    holdout: Request | None = None,
    output_dir: Place = "original",
    tokenizer: PreTrainedTokenizerBase | None = None,
    show: bool = False,
    **settings: Any,
) -> Trained:
    """Fine-tune a base model with the record that later runs read: ``hf-unlearn train``.

    Args:
        model: the base: a folder, a Hub id, or a model in memory that is what its own name leads to.
        dataset: D, which it is trained on without the rows of D that ``holdout`` names.
        forget: with ``train_on="retained"`` the records to leave out.
        holdout, output_dir, tokenizer, show: as for :func:`unlearn`.
        settings: those of the command by name, such as ``task``, ``num_train_epochs`` or ``shards``.

    Returns:
        The model in its folder, with its tokenizer and record.

    Raises:
        InputError: something does not fit together.
    """
    given = {"forget": forget, "holdout": holdout, **settings}
    with job_values("train", model, dataset, given, output_dir, tokenizer, show) as values:
        train_job(values)
        given |= {"model": model, "dataset": dataset, "dtype": values.get("dtype")}
    return Trained(Path(output_dir), given)


def evaluate(
    model: Place | Model,
    dataset: Data,
    *,
    forget: Request | None = None,
    holdout: Request | None = None,
    output_dir: Place = "evaluation",
    tokenizer: PreTrainedTokenizerBase | None = None,
    show: bool = False,
    **settings: Any,
) -> UnlearningReport:
    """Measure whether a model has forgotten records, whatever tool made it: ``hf-unlearn evaluate``.

    Args:
        model: the model to measure.
        dataset, forget, holdout, tokenizer, show: as for :func:`unlearn`.
        output_dir: where the report and its pictures go.
        settings: those of the command by name, such as ``original_model`` and ``retrained_model``, to compare with.

    Returns:
        The report.

    Raises:
        InputError: something does not fit together.
    """
    given = {"forget": forget, "holdout": holdout, **settings}
    with job_values("evaluate", model, dataset, given, output_dir, tokenizer, show) as values:
        return evaluate_job(values)


def attack(
    model: Place | Model,
    dataset: Data,
    *,
    forget: Request | None = None,
    holdout: Request | None = None,
    output_dir: Place = "attacks",
    tokenizer: PreTrainedTokenizerBase | None = None,
    show: bool = False,
    **settings: Any,
) -> AttackReport:
    """Try to bring forgotten records back, on copies of the model: ``hf-unlearn attack``.

    Args:
        model: the model to attack.
        dataset, forget, holdout, tokenizer, show: as for :func:`unlearn`.
        output_dir: where ``attacks.json`` and its plots go.
        settings: those of the command by name, such as ``attack_steps`` and ``original_model``.

    Returns:
        What the attacks found.

    Raises:
        InputError: something does not fit together.
    """
    given = {"forget": forget, "holdout": holdout, **settings}
    with job_values("attack", model, dataset, given, output_dir, tokenizer, show) as values:
        return attack_job(values)
