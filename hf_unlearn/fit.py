"""Whether data and model fit each other, found out before the model is loaded."""

from collections.abc import Sequence
from typing import Any, Literal

from transformers import PretrainedConfig

from .checks import check_examples, check_records
from .config import UnlearningConfig
from .data import record_format
from .errors import InputError
from .evaluation.generation import check_writes
from .labels import class_ids, label_ids
from .methods import CHOICES, find_method
from .models.loading import ARCHITECTURES
from .models.location import ModelSource
from .models.tasks import TASKS, Task
from .tables import AnyDataset, column_names


def check_fit(
    sets: Sequence[AnyDataset | None],
    source: ModelSource | None,
    model_config: PretrainedConfig,
    task: Task,
    layout: dict[str, Any],
) -> None:
    """Look through all the records that a model is to read.

    Args:
        sets: records, or examples that are tokenised already; None for a set that there is none of.
        source: the model; None where it has yet to learn the classes of the data.
        model_config: its configuration.
        task: what it does.
        layout: options of :func:`~hf_unlearn.data.record_format`.

    Raises:
        InputError: a record does not fit the task or the model.
    """
    for part in sets:
        if part is None:
            continue
        columns = column_names(part)
        if "input_ids" in columns:
            check_examples(part, task, model_config.get_text_config().vocab_size)
            continue
        form = record_format(columns, task, **layout)
        check_records(part, form)
        # The classes of a classifier that is an adapter are in its training record; encoding looks at them.
        if TASKS[task].classes and source is not None and not source.adapter:
            label_ids(part, form.label, class_ids(model_config))


def check_measures(task: Task, config: UnlearningConfig, bits: Literal[4, 8] | None) -> None:
    """Raise InputError where a measurement is asked for that a model cannot be put to.

    Args:
        task: what the model does.
        config: the settings.
        bits: of the weights, None when they are whole.
    """
    if config.gradient_norm_attack and bits is not None:
        raise InputError(f"gradient_norm_attack needs a gradient, and weights in {bits} bits have none; leave it out.")
    if config.generate_records:
        check_writes(task)


def check_method(task: Task, config: UnlearningConfig) -> None:
    """Raise InputError where the method does not fit what the model does."""
    if config.method not in CHOICES:
        find_method(config.method, config.start).check_task(task)


def check_head(base: ModelSource, model_config: PretrainedConfig, task: Task, classes: int) -> None:
    """Raise InputError where a model that is a classifier already has another number of classes than the data."""
    architecture = (model_config.architectures or [""])[0]
    if architecture in ARCHITECTURES[task].values() and model_config.num_labels != classes:
        raise InputError(
            f"{base.name!r} is a classifier of {model_config.num_labels} classes and the data set has {classes}; "
            "start from a model without a classifier's head, or one with as many classes."
        )
