"""The classes of a head that stay: those that a retained record has."""

import logging

from datasets import Dataset
from transformers import PreTrainedModel

from ..data.arrow_tables import AnyDataset, column_names
from ..data.format import record_format
from ..data.labels import class_ids, distinct_labels, label_ids
from ..methods.method import Method
from ..models.loading import ARCHITECTURES, load_config, quantised_bits
from ..models.tasks import TASKS, Task
from .config import UnlearningConfig
from .lineage import Lineage

logger = logging.getLogger(__name__)

FEWEST_CLASSES = 2  # in a head that tells classes apart


def kept_classes(
    retained: AnyDataset,
    args: UnlearningConfig,
    task: Task,
    model: PreTrainedModel,
    method: Method,
    alpha: float,
    lineage: Lineage,
) -> list[int] | None:
    """The ids of the classes that a result from a clean start keeps, None for all.

    Without a retained record a class is there because of S, and so is its name. It stays where the head is not drawn
    anew, or ``keep_labels`` says so, or too few would be left.
    """
    known = isinstance(retained, Dataset) and "input_ids" not in column_names(retained)
    if not TASKS[task].classes or not known or not method.is_clean(alpha) or args.keep_labels:
        return None
    if quantised_bits(model.config) is not None or _has_head(lineage, task):
        return None
    field = record_format(column_names(retained), task, **args.layout).label
    classes = class_ids(model.config)
    ids = label_ids(retained, field, classes)
    kept = sorted({ids[label] for label in distinct_labels(retained, field) if label is not None})
    if not FEWEST_CLASSES <= len(kept) < len(classes):
        return None
    logger.warning(
        "%d of the %d classes have no retained record and leave the model; keep_labels keeps them.",
        len(classes) - len(kept), len(classes),
    )  # fmt: skip
    return kept


def _has_head(lineage: Lineage, task: Task) -> bool:
    """Whether the base brings a head of its own for the task."""
    if lineage.base is None:
        return False
    return any(name in ARCHITECTURES[task].values() for name in load_config(lineage.base).architectures or [])
