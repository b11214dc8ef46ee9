"""What a model was made of: where it lives, how it was trained, and what it was fine-tuned from."""

from collections.abc import Iterator
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from ..errors import InputError
from ..methods.method import Method
from ..models.loading import Model
from ..models.location import ModelSource, adapter_base, file_beside, locate, read_card
from ..models.training_record import TrainingRecord, load_record
from ..publishing.card import TAGS
from ..publishing.ledger import LEDGER_FILE, Ledger, ledger_text
from ..publishing.ledger_of_model import report_beside, weights_of
from .config import UnlearningConfig


@dataclass(frozen=True)
class Lineage:
    """Where an original comes from.

    Attributes:
        source: where it lives, None for one that was made in memory.
        record: of its training, None when there is none.
        base: the model that it was fine-tuned from, None when nobody names one.
        adapter: whether it is an adapter; otherwise its full weights were trained.
    """

    source: ModelSource | None
    record: TrainingRecord | None
    base: ModelSource | None
    adapter: bool


def source_of(model: str | Model) -> ModelSource | None:
    """Where a model came from, None for one that was made in memory."""
    if isinstance(model, str):
        return locate(model)
    name = model.name_or_path if isinstance(model, PreTrainedModel) else None
    return locate(name) if name else None


def find_lineage(source: ModelSource | None, model: Model | None, args: UnlearningConfig, method: Method) -> Lineage:
    """Find where an original comes from; a budget becomes the number of epochs that it stands for.

    Args:
        source: where it lives, None for one that was made in memory.
        model: its weights, None where they are not loaded yet.
        args: the settings.
        method: to be used on it.

    Raises:
        InputError: something is missing that the method or the settings need.
    """
    record = load_record(source) if source else None
    base_name = args.base_model_name_or_path
    if base_name is None and source is None and isinstance(model, PeftModel):
        base_name = model.active_peft_config.base_model_name_or_path
    base = find_base(source, record, base_name, args.base_model_revision)
    if base is not None and base == source:
        raise InputError(f"The base {base.name!r} is the original itself; name the model it was trained from.")
    if method.needs_base and base is None:
        needing = f"The method {args.method!r}" if args.start is None else f"start={args.start!r}"
        raise InputError(
            f"{needing} needs the model that the original was fine-tuned from, which neither a "
            "training record nor the card names; give it with base_model_name_or_path."
        )
    if args.budget is not None:
        if record is None:
            raise InputError(
                "budget is a fraction of the original training, and there is no training_record.json beside the "
                "model that tells what that was; set num_train_epochs instead."
            )
        args.num_train_epochs = args.budget * record.epochs
    if args.base_is_clean and base is None:
        raise InputError(
            "base_is_clean is said of the model that the original was fine-tuned from, which nobody names; give "
            "it with base_model_name_or_path."
        )
    adapter = isinstance(model, PeftModel) if model is not None else source is not None and source.adapter
    return Lineage(source, record, base, adapter)


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
