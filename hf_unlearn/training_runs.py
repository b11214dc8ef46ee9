"""The two trainings that there are: plainly from a base, and unlearning from an original."""

import copy
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import set_seed

from .data.arrow_tables import AnyDataset
from .models.loading import load_any, load_model
from .models.location import ModelSource
from .models.tasks import Task
from .models.training_record import DataSource
from .output_folder import start_folder
from .training.config import UnlearningConfig
from .training.saving import last_checkpoint
from .training.trainer import UnlearningTrainer


def train_plainly(
    base: ModelSource,
    task: Task,
    labels: list[str] | None,
    dataset: AnyDataset,
    config: UnlearningConfig,
    source: DataSource,
    lora: LoraConfig | None,
    loading: dict[str, Any],
    settings: dict[str, Any],
    test: AnyDataset | None = None,
) -> UnlearningTrainer:
    """Train a base model on a data set and save it with its training record; goes on from the last checkpoint.

    Args:
        base: what to start from.
        task: what the model is to do.
        labels: the classes of a classifier.
        dataset: the records.
        config: the settings; their method is ``fine_tune``.
        source: where the data came from.
        lora: trains an adapter.
        loading: options of :func:`~hf_unlearn.models.loading.load_model`.
        settings: noted in the output folder once the trainer has found nothing wrong; see
            :func:`~hf_unlearn.output_folder.start_folder`.
        test: a test split, for settings that look at one during training.
    """
    set_seed(config.seed)
    id2label = dict(enumerate(labels)) if labels else None
    model = load_model(base, task, id2label=id2label, new_head=True, **loading)
    trainer = UnlearningTrainer(model, config, dataset, eval_dataset=test, peft_config=lora, source=base, task=task)
    start_folder(config.folder, settings)
    trainer.train(resume_from_checkpoint=last_checkpoint(config.folder) or False)
    rows = len(dataset) if isinstance(dataset, Dataset) else None
    fingerprint = dataset._fingerprint if isinstance(dataset, Dataset) else None
    trainer.record = trainer.training_record(
        DataSource(source.name, source.config, source.split, source.revision, fingerprint, rows)
    )
    trainer.save_model()
    return trainer


def unlearn(
    original: ModelSource,
    task: Task,
    retained: AnyDataset,
    config: UnlearningConfig,
    lora: LoraConfig | None,
    loading: dict[str, Any],
    settings: dict[str, Any],
    *,
    forget: AnyDataset | None = None,
    holdout: AnyDataset | None = None,
    test: AnyDataset | None = None,
    begin: Callable[[UnlearningTrainer], None] | None = None,
) -> UnlearningTrainer:
    """Put an original through unlearning; goes on from the last checkpoint. Nothing is saved in the end.

    Args:
        original: what to unlearn.
        task: what it does.
        retained: L.
        config: the settings.
        lora: trains an adapter.
        loading: options of :func:`~hf_unlearn.models.loading.load_model`.
        settings: as for :func:`train_plainly`.
        forget, holdout, test: S, H and a test split, to be measured.
        begin: called once the trainer has found nothing wrong, before anything is written.
    """
    trainer = UnlearningTrainer(
        load_any(original, task, **loading),
        config,
        train_dataset=retained,
        forget_dataset=forget,
        holdout_dataset=holdout,
        eval_dataset=test,
        peft_config=copy.deepcopy(lora),
        source=original,
        task=task,
    )
    if begin is not None:
        begin(trainer)
    start_folder(config.folder, settings)
    trainer.train(resume_from_checkpoint=last_checkpoint(config.folder) or False)
    return trainer
