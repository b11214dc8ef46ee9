"""The base of a model: what it was fine-tuned from, and never a model from which records had to be forgotten."""

from collections.abc import Iterator

from .errors import InputError
from .models.location import ModelSource, adapter_base, file_beside, locate, read_card
from .models.training_record import TrainingRecord
from .publishing.card import TAGS
from .publishing.ledger import LEDGER_FILE, Ledger, ledger_text
from .publishing.ledger_of_model import report_beside, weights_of


def find_base(
    source: ModelSource | None, record: TrainingRecord | None, name: str | None, revision: str | None
) -> ModelSource | None:
    """The model that another was fine-tuned from: as given, else from its record, its adapter, its report or its card.

    A model from which records had to be forgotten, by the ledger or the report beside the other, has seen them and is
    no base.

    Args:
        source: the fine-tuned model, None for one made in memory.
        record: its training record.
        name, revision: what the user says.

    Raises:
        InputError: the base is named but cannot be found, or is no base.
    """
    code = source is not None and source.trust_remote_code
    if name is not None:
        base = locate(name, revision, trust_remote_code=code)
        if source is not None and _had_to_forget(base, source):
            raise InputError(
                f"{base.public_name!r} cannot be the base of {source.public_name!r}: it is a model from which records "
                "had to be forgotten; name the one that it was fine-tuned from."
            )
        return base
    named = _named_bases(source, record)
    return next((base for base in named if source is None or not _had_to_forget(base, source)), None)


def _named_bases(source: ModelSource | None, record: TrainingRecord | None) -> Iterator[ModelSource]:
    """What may be the base, the most certain first."""
    code = source is not None and source.trust_remote_code
    if record is not None:
        if record.base_model is not None:
            yield locate(record.base_model, record.base_revision, trust_remote_code=code)
        return
    if source is None:
        return
    report = report_beside(source)
    if source.adapter:
        # It may lie on the very model that had to forget.
        if report is None or report.method.adapter_of != report.original:
            yield adapter_base(source)
    elif report is None and (card := read_card(source)) is not None:
        data = card.data.to_dict()
        named = data.get("base_model")
        if isinstance(named, list):
            named = named[0] if len(named) == 1 else None
        # On the card of an unlearned model it is the model from before.
        if named and TAGS[-1] not in (data.get("tags") or []):
            yield locate(named, trust_remote_code=code)
    if report is not None and report.base is not None and report.base.on_hub:
        yield locate(report.base.name, report.base.revision, trust_remote_code=code)


def _had_to_forget(base: ModelSource, source: ModelSource) -> bool:
    """Whether a model is one from which another model's ledger or report says that records had to be forgotten."""
    report, path = report_beside(source), file_beside(source, LEDGER_FILE)
    before = [report.original] if report is not None and report.original is not None else []
    if any(model.on_hub and model.name == base.name for model in before):
        return True
    if path is None:
        return False
    runs = Ledger.read(ledger_text(path), f"beside {source.public_name!r}").runs
    parents = [run.parent for run in runs if run.parent is not None]
    if any(parent.commit is not None and parent.name == base.name for parent in parents):
        return True
    # A copy of it under another name, or a folder, is known by its weights.
    return weights_of(base) in [weights for parent in parents for weights in (parent.weights,) if weights]
