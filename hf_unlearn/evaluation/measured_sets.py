"""The sets of records that every model of a run is measured on."""

import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.arrow_tables import AnyDataset, require_columns
from ..data.encoding import PaddingCollator, RecordEncoder, encode
from ..data.format import RecordFormat
from ..data.labels import label_feature
from ..data.masking import TokenMasking
from ..errors import InputError
from ..files import written_whole
from ..models.classes import in_classes
from ..models.limits import own_padding
from ..models.loading import plain_model
from ..models.tasks import IGNORED, TASKS, Task
from .blind_baseline import BlindBaseline, Labelled, blind_baseline
from .report import SetName
from .scoring import WINDOWS, Collator, Context, best_windows, gradient_norms, score
from .statistics import Estimate, Groups, mean_loss, membership_auc, units_in
from .utility.metrics import Truth
from .verdict import OTHER_FORMS, Scores

# Membership is judged on these, so they are scored whole.
JUDGED: tuple[SetName, ...] = ("forget", "holdout")

# Of L and the test split so many records are scored at most, which is enough for their mean losses.
SAMPLE_ROWS = 1000
# Where measuring is to cost little, so many: a part of L's size, but at least these.
SAMPLE_PART, FEWEST_ROWS = 16, 64
# Usefulness is judged on the test split, so that it takes more.
FEWEST_TESTED = 400

TABLES_FOLDER = "tables"


@dataclass
class EvidenceSets:
    """Encoded records, by set.

    Attributes:
        task: what the models do.
        sets: the examples of each set.
        sampled: the sets of which these are a random part.
        gradients: whether the gradient norms of S and H are measured too.
        collator: stacks examples.
        batch_size: examples in a forward pass.
        classes: the names of the classes that the labels are numbered by; a model may lack some of them.
        forms: S and H in other forms, by the column of the tables that the loss in this form goes to.
    """

    task: Task
    sets: dict[SetName, Dataset]
    collator: Collator
    batch_size: int
    sampled: set[SetName] = field(default_factory=set)
    gradients: bool = False
    classes: tuple[str, ...] = ()
    forms: dict[str, dict[SetName, Dataset]] = field(default_factory=dict)

    def truth(self) -> dict[SetName, Truth]:
        """The true classes of each set; none where the models are no classifiers."""
        if not TASKS[self.task].classes:
            return {}
        return {name: _truth(part, self.classes) for name, part in self.sets.items()}

    def score(self, model: nn.Module, context: Context = nullcontext) -> dict[SetName, pa.Table]:
        """Score a model on every set (see :func:`~hf_unlearn.evaluation.scoring.score`).

        Raises:
            InputError: the loss of a record is no finite number.
        """
        collator = _padding_of(model, self.collator, self.task)
        model = in_classes(model, self.classes)

        def scored(part: Dataset, name: SetName) -> pa.Table:
            settings: dict[str, Any] = {"task": self.task, "batch_size": self.batch_size, "context": context}
            return score(model, part, collator, name=name, **settings)

        tables = {name: scored(part, name) for name, part in self.sets.items()}
        for name, table in tables.items():
            if name not in JUDGED and "log_p" in table.column_names:
                tables[name] = table.drop_columns("log_p")
        for form, parts in self.forms.items():
            for name, part in parts.items():
                tables[name] = tables[name].append_column(form, scored(part, name)["loss"])
        tables = self.with_groups(tables)
        if self.gradients:
            for name in self._judged:
                norms = gradient_norms(model, self.sets[name], collator, task=self.task, context=context)
                tables[name] = tables[name].append_column("gradient_norm", pa.array(norms))
        return tables

    def with_groups(self, tables: dict[SetName, pa.Table]) -> dict[SetName, pa.Table]:
        """Tables of these sets with the group of each record, where that is known."""
        found = dict(tables)
        for name, part in self.sets.items():
            if "group" in part.column_names:
                # The pieces of a document are all of one group; the table has a line for each document, in order.
                groups = np.array(first_pieces(part)["group"])
                found[name] = found[name].append_column("group", pa.array(groups))
        return found

    @property
    def tokens(self) -> int:
        """Tokens that one scoring reads; each of two texts passes through half of the model.

        A gradient counts three times more, because the backward pass costs twice as much as the forward pass.
        """
        columns = ("input_ids", "labels") if TASKS[self.task].two_texts else ("input_ids",)

        def read_of(part: Dataset) -> int:
            return sum(len(ids) for column in columns for ids in part[column]) // len(columns)

        read = {name: read_of(part) for name, part in self.sets.items()}
        otherwise = sum(read_of(part) for parts in self.forms.values() for part in parts.values())
        gradients = 3 * sum(read[name] for name in self._judged) if self.gradients else 0
        return sum(read.values()) + otherwise + gradients

    @property
    def _judged(self) -> list[SetName]:
        return [name for name in self.sets if name in JUDGED]

    def blind(self, seed: int) -> BlindBaseline | None:
        """How S and H differ before any model is asked; None without both."""
        if not set(JUDGED) <= self.sets.keys():
            return None
        # Of a document in pieces the first one is enough.
        forget, holdout = (first_pieces(self.sets[name]) for name in JUDGED)
        groups = None
        if all("group" in part.column_names for part in (forget, holdout)):
            groups = np.array(forget["group"]), np.array(holdout["group"])
        labels = None
        if self.task == "text-classification" and "retained" in self.sets:
            retained = self.sets["retained"]
            classes = [np.array(part["labels"]) for part in (forget, holdout, retained)]
            labels = Labelled(classes[0], classes[1], retained["input_ids"][:], classes[2])
        return blind_baseline(forget["input_ids"][:], holdout["input_ids"][:], groups, labels, seed=seed)

    def halves(self, seed: int) -> tuple["EvidenceSets", "EvidenceSets"]:
        """Two parts with half of the records, or of the groups, of S and H each, and all of the others."""
        parts: tuple[dict[SetName, Dataset], dict[SetName, Dataset]] = (dict(self.sets), dict(self.sets))
        for name in self._judged:
            units = np.array(self.sets[name]["row"])
            if "group" in self.sets[name].column_names and len(set(self.sets[name]["group"])) > 1:
                # Other records of the same author are no fresh evidence; of one alone there are no others.
                units = np.array(self.sets[name]["group"])
            first = first_half(units, seed)
            for part, mask in zip(parts, (first, ~first), strict=True):
                part[name] = self.sets[name].select(np.flatnonzero(mask))
        return self.with_sets(parts[0]), self.with_sets(parts[1])

    def with_sets(self, sets: dict[SetName, Dataset]) -> "EvidenceSets":
        """Parts of these sets, with the same records in the other forms."""
        forms = {
            form: {name: _of_records(part, sets[name]) for name, part in parts.items() if name in sets}
            for form, parts in self.forms.items()
        }
        return replace(self, sets=sets, forms=forms)

    def at_most(self, records: int, seed: int) -> "EvidenceSets":
        """The same sets with at most so many records, drawn at random, in each."""
        return self.with_sets({name: _draw(part, records, seed) for name, part in self.sets.items()})


def evidence_sets(
    records: Mapping[SetName, AnyDataset | None],
    encoder: RecordEncoder | None,
    collator: Collator,
    task: Task,
    batch_size: int,
    seed: int,
    masking: TokenMasking | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    group_column: str | None = None,
    classes: tuple[str, ...] = (),
    corrected_column: str | None = None,
    whole: bool = True,
    forms: Mapping[str, RecordFormat] | None = None,
) -> EvidenceSets:
    """Encode the sets to measure on; of L and the test split a random part.

    Args:
        records: records, or examples that are encoded already, by set; None for a missing set.
        encoder: encodes records; None when all are examples.
        collator: stacks examples.
        task: what the models do.
        batch_size: examples in a forward pass.
        seed: of the random parts.
        masking: hides what a masked language model has to guess, in the same way for every model.
        tokenizer: the model's; without it the attack by the size of the compressed text is left out.
        group_column: the column of S and H with each record's group, such as its author.
        classes: the names of the classes that the labels are numbered by; a model may lack some of them.
        corrected_column: the column of S with the label that each record should have had.
        whole: whether L and the test split are measured as far as they go, up to 1,000 records; else a part of that.
        forms: other forms to read S and H in, by name (:func:`~hf_unlearn.data.forms.other_forms`).

    Raises:
        InputError: a set has no record or lacks a column, or some sets are encoded and some are not.
    """
    sets: dict[SetName, Dataset] = {}
    others: dict[str, dict[SetName, Dataset]] = {f"loss_{form}": {} for form in forms or {}}
    codes: dict[Any, int] = {}
    sampled: set[SetName] = set()
    rows = SAMPLE_ROWS if whole else _sample_rows(records.get("retained"))
    for name, part in records.items():
        if part is None:
            continue
        judged = name in JUDGED
        if not isinstance(part, Dataset):
            part = Dataset.from_list(list(part if judged else part.take(rows)), features=part.features)
            if not judged:
                sampled.add(name)
        elif not judged and len(part) > (most := rows if name == "retained" else max(rows, FEWEST_TESTED)):
            part = part.select(_choice(len(part), most, seed))
            sampled.add(name)
        if len(part) == 0:
            raise InputError(f"The {name} set is empty. Leave it out, or put records in it.")
        groups = _group_codes(part, group_column, codes) if group_column is not None and judged else None
        corrected = _corrected(part, encoder, corrected_column) if name == "forget" and corrected_column else None
        if "input_ids" in part.column_names:
            sets[name] = with_rows(part)
        elif encoder is not None:
            sets[name] = encode(part, encoder, name)
            for form, layout in (forms or {}).items() if judged else ():
                other = encode(part, replace(encoder, format=layout, trained=encoder.format), name)
                others[f"loss_{form}"][name] = _of_records(other, sets[name])
        else:
            raise InputError(f"The retained set is tokenised and the {name} set is not. Tokenise both or neither.")
        if tokenizer is not None and TASKS[task].quality == "perplexity":
            sets[name] = _with_text_facts(sets[name], tokenizer)
        if masking is not None:
            # What is labelled then is not the end of the text.
            sets[name] = masking.fixed(sets[name]).remove_columns("tail" if "tail" in sets[name].column_names else [])
        # Examples may come with a column of that name which means something else.
        sets[name] = sets[name].remove_columns("group" if "group" in sets[name].column_names else [])
        if groups is not None:
            encoded = "input_ids" in part.column_names
            sets[name] = sets[name].add_column("group", groups if encoded else groups[np.array(sets[name]["row"])])
        sets[name] = sets[name].remove_columns("corrected" if "corrected" in sets[name].column_names else [])
        if corrected is not None:
            sets[name] = _with_corrected(sets[name], corrected)
    return EvidenceSets(task, sets, collator, batch_size, sampled, classes=classes, forms=others)


def _padding_of(model: nn.Module, collator: Collator, task: Task) -> Collator:
    """How to pad for one of several models; a classifier of texts without a padding token gets that of the others."""
    if not isinstance(collator, PaddingCollator) or not isinstance(model, PreTrainedModel | PeftModel):
        return collator
    config = plain_model(model).config
    if own_padding(config) is None and task == "text-classification":
        config.get_text_config().pad_token_id = collator.pad_token_id
    return collator.of(config)


def _sample_rows(retained: AnyDataset | None) -> int:
    """How many records of L are measured where that is to cost little."""
    if not isinstance(retained, Dataset):
        return SAMPLE_ROWS
    return min(SAMPLE_ROWS, max(FEWEST_ROWS, len(retained) // SAMPLE_PART))


def _truth(examples: Dataset, names: tuple[str, ...]) -> Truth:
    """The true classes in examples, by record; the pieces of a record in their order."""
    rows, which = np.unique(examples["row"], return_inverse=True)
    found: dict[str, list[list[int]]] = {
        column: [[] for _ in rows] for column in ("labels", "corrected") if column in examples.column_names
    }
    for column, values in found.items():
        for record, label, value in zip(which, examples["labels"], examples[column], strict=True):
            labels, given = ([label], [value]) if isinstance(label, int) else (label, value)
            values[record] += [one for own, one in zip(labels, given, strict=True) if own != IGNORED]
    arrays = {column: [np.array(one, dtype=np.int32) for one in values] for column, values in found.items()}
    return Truth(arrays["labels"], names, arrays.get("corrected"))


def _corrected(part: Dataset, encoder: RecordEncoder | None, column: str) -> dict[int, Any]:
    """The labels by row that another column gives, as numbers of classes; without the rows where it is empty."""
    require_columns([column], part.column_names)
    if encoder is None:
        return dict(zip(with_rows(part)["row"], part[column], strict=True))
    kinds = [label_feature(part, name) for name in (column, encoder.format.label)]
    if isinstance(kinds[1], ClassLabel) and not isinstance(kinds[0], ClassLabel) and kinds[0].dtype.startswith("int"):
        # They are numbers of the same classes.
        part = part.cast_column(column, part.features[encoder.format.label])
    given = [row for row, label in enumerate(part[column]) if label is not None]
    reader = replace(encoder, format=replace(encoder.format, label=column))
    examples = encode(part.select(given), reader, "corrected")
    assert isinstance(examples, Dataset)
    return {given[row]: labels for row, labels in zip(examples["row"], examples["labels"], strict=True)}


def _with_corrected(examples: Dataset, corrected: dict[int, Any]) -> Dataset:
    """Examples with the column ``corrected``, -100 where there is no other label."""
    rows = zip(examples["row"], examples["labels"], strict=True)
    unknown = [(row, IGNORED if isinstance(label, int) else [IGNORED] * len(label)) for row, label in rows]
    return examples.add_column("corrected", [corrected.get(row, nothing) for row, nothing in unknown])


def halves_of_records(records: AnyDataset, group_column: str | None, seed: int) -> tuple[Dataset, Dataset]:
    """Records of S or of H in two halves, as :meth:`EvidenceSets.halves` divides them: groups stay whole."""
    if not isinstance(records, Dataset):
        records = Dataset.from_list(list(records), features=records.features)
    units = np.arange(len(records))
    if group_column is not None and len(set(codes := _group_codes(records, group_column, {}))) > 1:
        units = codes
    first = first_half(units, seed)
    return records.select(np.flatnonzero(first)), records.select(np.flatnonzero(~first))


def grouped(evidence: EvidenceSets, records: Mapping[SetName, AnyDataset | None], group_column: str) -> EvidenceSets:
    """Sets that were encoded without groups, with those of S and H, which ``records`` has as they were given."""
    sets, codes = dict(evidence.sets), dict[Any, int]()
    for name in JUDGED:
        part = records.get(name)
        if name in sets and part is not None:
            if not isinstance(part, Dataset):
                part = Dataset.from_list(list(part), features=part.features)
            groups = _group_codes(part, group_column, codes)[np.array(sets[name]["row"])]
            sets[name] = sets[name].add_column("group", groups)
    return replace(evidence, sets=sets)


def attack_scores(tables: Mapping[SetName, pa.Table], base: Mapping[SetName, pa.Table] | None = None) -> Scores | None:
    """The score of each attack for each record of S and H, None unless both were scored.

    With the sign turned: the mean loss per token in nats (Yeom et al. 2018), that over the bytes of the compressed
    text (Carlini et al. 2021), that less the base model's (Watson et al. 2022), entropy and gradient norm. With a base
    the best windows and the losses in other forms are those of the difference to it, too. The other columns are scores
    as they stand.

    Args:
        tables: a model's, by set.
        base: those of the base model, which show how hard a record is by nature.
    """
    if not set(JUDGED) <= tables.keys():
        return None

    def scores(name: SetName) -> dict[str, np.ndarray]:
        columns = {
            column: tables[name][column].to_numpy() for column in tables[name].column_names if column != "log_p"
        }
        found = {"loss": -columns["loss"]}
        if "zlib" in columns:
            found["zlib"] = -columns["loss"] / columns["zlib"]
        stands = ("min_k", "min_k_plus", "exact", "extraction", *(f"window_{length}" for length in WINDOWS))
        found |= {name: columns[name] for name in stands if name in columns}
        for column in ("entropy", "gradient_norm", *OTHER_FORMS):
            if column in columns:
                found[column] = -columns[column]
        if base is not None:
            found["reference"] = base[name]["loss"].to_numpy() - columns["loss"]
            found |= _window_gains(tables[name], base[name])
            found |= {form: found[form] + base[name][form].to_numpy() for form in OTHER_FORMS if form in columns}
        return found

    return Scores(scores("forget"), scores("holdout"), judged_units(tables))


def judged_units(tables: Mapping[SetName, pa.Table]) -> Groups | None:
    """The groups of the records of S and of H; None where those of one are independent."""
    forget, holdout = (units_in(tables[name]) for name in JUDGED)
    return None if forget is None or holdout is None else (forget, holdout)


def _window_gains(table: pa.Table, base: pa.Table) -> dict[str, np.ndarray]:
    """By how much a model is surer than the base of the passage where it is most so; empty for classifiers."""
    if "log_p" not in table.column_names:
        return {}
    own, other = (part["log_p"].combine_chunks().flatten().to_numpy() for part in (table, base))
    return best_windows(own - other, table["tokens"].to_numpy())


def loss_and_auc(tables: Mapping[SetName, pa.Table]) -> tuple[Estimate, Estimate | None]:
    """The mean loss of S in nats, and the membership AUC by the loss, None without H; both of groups, if any."""
    forget, found = tables["forget"], attack_scores(tables)
    auc = membership_auc(-found.forget["loss"], -found.holdout["loss"], groups=found.groups) if found else None
    return mean_loss(forget["nll"].to_numpy(), forget["tokens"].to_numpy(), groups=units_in(forget)), auc


def save_tables(tables: dict[str, dict[SetName, pa.Table]], folder: Path) -> None:
    """Write the scores of each record, one parquet file a model; rows are positions within their set."""
    folder.mkdir(parents=True, exist_ok=True)
    for arm, sets in tables.items():
        parts = [table.append_column("set", pa.array([name] * table.num_rows)) for name, table in sets.items()]
        with written_whole(folder / f"{arm}.parquet") as temporary:
            # Only S and H have groups.
            pq.write_table(pa.concat_tables(parts, promote_options="default"), temporary)


def _with_text_facts(examples: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Examples with ``tail``, how many labelled tokens at the end carry no text, and ``zlib``, the compressed size."""
    special = set(tokenizer.all_special_ids)
    blank: dict[int, bool] = {}

    def is_blank(token: int) -> bool:
        if token not in blank:
            blank[token] = token in special or not str(tokenizer.decode([token])).strip()
        return blank[token]

    def facts(example: dict[str, Any]) -> dict[str, int]:
        tokens = [token for token in example["labels"] if token != IGNORED]
        tail = 0
        while tail < len(tokens) and is_blank(tokens[-1 - tail]):
            tail += 1
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
        return {"tail": tail, "zlib": len(zlib.compress(text.encode("utf-8", "surrogatepass")))}

    return examples.map(facts, desc="Measuring texts")


def _of_records(examples: AnyDataset, own: Dataset) -> Dataset:
    """The examples of the records that these examples are of."""
    assert isinstance(examples, Dataset)
    return examples.select(np.flatnonzero(np.isin(examples["row"], own["row"])))


def first_pieces(examples: Dataset) -> Dataset:
    """The first example of each record, in the order of the records."""
    return examples.select(np.unique(examples["row"], return_index=True)[1])


def with_rows(examples: Dataset) -> Dataset:
    """Examples with the column ``row``; where it is missing each example is a record."""
    if "row" in examples.column_names:
        return examples
    return examples.add_column("row", list(range(len(examples))))


def _group_codes(part: Dataset, column: str, codes: dict[Any, int]) -> np.ndarray:
    """A number for the group of each record, the same one for the same label in every set that shares ``codes``."""
    require_columns([column], part.column_names)
    found = []
    for label in part.select_columns([column])[column]:
        # A record without a label is a group of its own.
        key = (len(codes),) if label is None else str(label)
        found.append(codes.setdefault(key, len(codes)))
    return np.array(found)


def first_half(units: np.ndarray, seed: int) -> np.ndarray:
    """Which lines belong to the half of the units that is drawn first."""
    drawn = np.random.default_rng(seed).permutation(np.unique(units))
    return np.isin(units, drawn[: len(drawn) // 2])


def _draw(examples: Dataset, records: int, seed: int) -> Dataset:
    rows = np.array(examples["row"])
    unique = np.unique(rows)
    if len(unique) <= records:
        return examples
    return examples.select(np.flatnonzero(np.isin(rows, unique[_choice(len(unique), records, seed)])))


def _choice(n: int, size: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))
