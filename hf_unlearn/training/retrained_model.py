"""Whether a model that passes for retrained saw the records to forget, as its own training record says."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..data.request.forgotten_digests import Forgotten
from ..data.split import RetainedSplit, SplitAudit
from ..errors import InputError
from ..models.location import ModelSource
from ..models.training_record import RECORD_FILE, DataSource, TrainingRecord, load_record
from ..publishing.ledger_of_model import report_beside


@dataclass(frozen=True)
class Retraining:
    """What a model has to have been trained on to count as retrained.

    Attributes:
        audit: of the split of D.
        dataset: where D came from.
        retained: the fingerprint of L, None for a stream.
        trained: the fingerprint of D without the held-out rows, None where nobody knows it.
        forgotten: the digests of S, None where nobody has the key.
        original: the model that saw S.
    """

    audit: SplitAudit
    dataset: DataSource
    retained: str | None
    trained: str | None
    forgotten: Forgotten | None
    original: ModelSource | None

    @classmethod
    def on(cls, parts: RetainedSplit, dataset: DataSource, original: ModelSource | None) -> "Retraining":
        """What the parts of a split of D ask for."""
        retained = parts.retained._fingerprint if isinstance(parts.retained, Dataset) else None
        trained = parts.forget_rows.fingerprint if parts.forget_rows is not None else None
        return cls(parts.audit, dataset, retained, trained, parts.forgotten, original)

    def check(self, place: ModelSource) -> TrainingRecord | None:
        """The training record of a model, None where it has none; loads no weights.

        Raises:
            InputError: by that record the training saw S, or left out other records than S.
        """
        record = load_record(place)
        report = report_beside(place)
        # Beside a model that was unlearned lies the record of its original.
        if record is None or (report is not None and report.verdict.word == "exact"):
            return record
        if why := self._contradiction(record):
            raise InputError(
                f"The model {place.name!r} is no retrained one: by its {RECORD_FILE} {why}; name a model that was "
                "trained on the retained records of this request, as `hf-unlearn train --train_on retained` does."
            )
        return record

    def _contradiction(self, record: TrainingRecord) -> str:
        """What a record has against it, in words; empty where nothing."""
        seen, left_out, audit = record.dataset, record.left_out, self.audit
        if self.original is not None and record.base_model is not None and _is_place(record, self.original):
            return "its training began at the original, which saw the records to forget"
        if seen.fingerprint is not None and seen.fingerprint == self.retained:
            return ""
        if left_out is not None and left_out.rows and self.forgotten is None:
            # Its digest cannot be compared here, and says more than numbers of rows.
            return ""
        source = (seen.name, seen.config, seen.split, seen.revision)
        asked = self.dataset
        same = seen.name is not None and source == (asked.name, asked.config, asked.split, asked.revision)
        if same and left_out is not None and left_out.rows and self.forgotten is not None:
            # Digests that were made with another key say nothing.
            if left_out.records == self.forgotten.records:
                return ""
            if left_out.key_check == self.forgotten.key_check:
                return "its training left out other records than those to forget"
        more = seen.rows is None or seen.rows > audit.retained_rows
        whole = same and more and left_out is not None and left_out.rows == 0
        if whole or seen.fingerprint in {audit.dataset_fingerprint, self.trained} - {None}:
            return "it was trained on all of the data, with the records to forget"
        # Held-out rows of D may have been trained on too.
        holdout = 0 if self.trained is not None and self.trained == audit.dataset_fingerprint else audit.holdout_rows
        if same and seen.rows is not None and seen.rows > audit.retained_rows + holdout:
            return (
                f"it was trained on {seen.rows:,} rows of the data, of which {audit.retained_rows:,} are retained, so "
                "that it saw records to forget"
            )
        return ""


def _is_place(record: TrainingRecord, original: ModelSource) -> bool:
    """Whether a training began at this model."""
    assert record.base_model is not None
    if original.is_local:
        return Path(record.base_model).resolve() == Path(original.name).resolve()
    return (record.base_model, record.base_revision) == (original.name, original.revision)
