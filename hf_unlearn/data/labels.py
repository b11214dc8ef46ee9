"""The classes of labelled records and those of a model."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, LargeList, List, Value
from transformers import PretrainedConfig

from ..errors import InputError
from .arrow_tables import AnyDataset, read_tables


def class_names(dataset: AnyDataset, label_field: str) -> list[str]:
    """The class names of a data set in the order of their ids; raises InputError for neither names nor integers."""
    feature = label_feature(dataset, label_field)
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    if not isinstance(dataset, Dataset):
        raise InputError(f"The classes of {label_field!r} in a stream are unknown; declare them as a ClassLabel.")
    labels = distinct_labels(dataset, label_field)
    if labels and all(isinstance(label, str) for label in labels):
        return sorted(labels)
    if labels and all(isinstance(label, int) and label >= 0 for label in labels):
        if max(labels) >= max(1000, 10 * len(labels)):
            raise InputError(
                f"The labels in {label_field!r} are {len(labels)} integers far apart, which do not look like classes; "
                "number the classes from 0."
            )
        return [str(label) for label in range(max(labels) + 1)]
    raise InputError(f"The labels in {label_field!r} must all be names or all be integers from 0; change them.")


def class_ids(config: PretrainedConfig) -> dict[str, int]:
    """The classes of a model, from id2label, as a configuration may lack label2id."""
    return {name: int(i) for i, name in (config.id2label or {}).items()}


def label_ids(dataset: AnyDataset, label_field: str, label2id: dict[str, int]) -> dict[Any, int]:
    """Map the values of a label column to the classes of a model, by name where both have names.

    Raises InputError for a label that the model has no class for.
    """
    feature = label_feature(dataset, label_field)
    known: dict[Any, int] = {value: value for value in label2id.values()} | label2id
    if isinstance(feature, ClassLabel):
        # One unknown name must not make the other labels be read as numbers of the model's classes.
        known = {i: label2id[name] for i, name in enumerate(feature.names) if name in label2id} or known
    if not isinstance(dataset, Dataset):
        return known
    unknown = [label for label in distinct_labels(dataset, label_field) if label is not None and label not in known]
    if unknown:
        raise InputError(
            f"{len(unknown)} of the labels in column {label_field!r} are none of the model's {len(label2id):,} "
            "classes, which id2label in its config.json names; rename or remove them."
        )
    return known


def label_feature(dataset: AnyDataset, label_field: str) -> Any:
    """The type of a label; a record may have one or a list of them."""
    feature = (dataset.features or {}).get(label_field)
    return feature.feature if isinstance(feature, List | LargeList) else feature


def distinct_labels(dataset: Dataset, label_field: str) -> set[Any]:
    """The labels that occur; a record may have one or a list of them, else InputError is raised."""
    kind = label_feature(dataset, label_field)
    if not isinstance(kind, ClassLabel | Value):
        raise InputError(f"Column {label_field!r} holds {type(kind).__name__} values; a class is a name or a number.")
    found: set[Any] = set()
    for table, _ in read_tables(dataset, [label_field]):
        column = table.column(label_field)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.list_flatten(column)
        found |= set(pc.unique(column).to_pylist())
    return found


def of_classes(dataset: Dataset, label_field: str, label2id: dict[str, int]) -> Dataset:
    """The records all of whose labels are classes of a model."""
    feature = label_feature(dataset, label_field)
    known: set[Any] = {*label2id, *label2id.values()}
    if isinstance(feature, ClassLabel):
        known = {i for i, name in enumerate(feature.names) if name in label2id}

    def is_known(label: Any) -> bool:
        return all(one in known for one in (label if isinstance(label, list) else [label]))

    return dataset.filter(is_known, input_columns=[label_field])
