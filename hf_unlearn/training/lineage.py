"""What a model was made of: how it was trained, and what it was fine-tuned from."""

from collections.abc import Iterator
from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from ..errors import InputError
from ..evaluation.report import UnlearningReport
from ..methods.method import Method
from ..models.loading import Model, kept_of_adapter
from ..models.location import ModelSource, adapter_base, adapter_config, file_beside, locate, on_named_base, read_card
from ..models.training_record import TrainingRecord
from ..publishing.card import TAGS
from ..publishing.ledger import LEDGER_FILE, Ledger, ledger_text
from ..publishing.ledger_of_model import report_beside, weights_of
from .config import UnlearningConfig


@dataclass(frozen=True)
class Lineage:
    """Where an original comes from: its training record, its base model if one is named, whether it is an adapter.

    ``kept`` says in words what of the adapter no scaling of its matrices reaches; it is empty where there is nothing.
    """

    record: TrainingRecord | None
    base: ModelSource | None
    adapter: bool
    kept: str = ""


def source_of(model: str | Model, args: UnlearningConfig) -> ModelSource | None:
    """Where a model came from, None for one that was made in memory."""
    if isinstance(model, str):
        return on_named_base(locate(model), args.base_model_name_or_path, args.base_model_revision)
    name = model.name_or_path if isinstance(model, PreTrainedModel) else None
    return locate(name) if name else None


def find_lineage(
    source: ModelSource | None, record: TrainingRecord | None, args: UnlearningConfig, model: Model | None = None
) -> Lineage:
    """Look up what an original was fine-tuned from, see :func:`find_base`; its weights need not be loaded."""
    name = args.base_model_name_or_path
    if name is None and source is None and isinstance(model, PeftModel):
        name = model.active_peft_config.base_model_name_or_path
    base = find_base(source, record, name, args.base_model_revision)
    adapter = isinstance(model, PeftModel) if model is not None else source is not None and source.adapter
    under = _under(source, model)
    if base is not None and under is not None:
        base = _under_adapter(under, base, source, named=name is not None)
    if isinstance(model, PeftModel):
        kept = kept_of_adapter(model.active_peft_config)
    else:
        kept = kept_of_adapter(adapter_config(source)) if source is not None and source.adapter else ""
    return Lineage(record, base, adapter, kept)


def _under(source: ModelSource | None, model: Model | None) -> ModelSource | None:
    """The model that an adapter lies on, None for a full model or where nobody names it."""
    if source is not None:
        return adapter_base(source) if source.adapter else None
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    return (
        locate(config.base_model_name_or_path, config.revision) if config and config.base_model_name_or_path else None
    )


def _under_adapter(
    under: ModelSource, base: ModelSource, source: ModelSource | None, *, named: bool
) -> ModelSource | None:
    """The base of an adapter is the model that it lies on, for it is trained, measured and published there.

    Raises InputError where the user names one with other weights.
    """
    if (base.name, base.revision) == (under.name, under.revision) or weights_of(base) == weights_of(under):
        return base
    if named:
        raise InputError(
            f"The adapter lies on {under.public_name!r}, which has other weights than the base {base.public_name!r}; "
            "leave the base out, or merge the adapter into its model and unlearn all weights."
        )
    return None if source is not None and _had_to_forget(under, source, report_beside(source)) else under


def fit_to_lineage(args: UnlearningConfig, method: Method, lineage: Lineage) -> None:
    """Turn a budget into epochs; raises InputError where a base or a record is missing that is needed."""
    if method.needs_base and lineage.base is None:
        needing = f"The method {args.method!r}" if args.start is None else f"start={args.start!r}"
        raise InputError(
            f"{needing} needs the model that the original was fine-tuned from, which neither a "
            "training record nor the card names; give it with base_model_name_or_path."
        )
    # Without either, nobody knows which training the method repeats.
    if method.budget is not None and lineage.base is None and lineage.record is None:
        raise InputError(
            f"The method {args.method!r} repeats the original's training, and nobody says how that began: there is no "
            "training_record.json, and no base model is known; name that model with base_model_name_or_path."
        )
    if args.budget is not None:
        if lineage.record is None:
            raise InputError(
                "budget is a fraction of the original training, and there is no training_record.json beside the "
                "model that tells what that was; set num_train_epochs instead."
            )
        record = lineage.record
        if record.asked_steps is None:
            args.num_train_epochs = args.budget * record.planned_epochs
        elif args.max_steps <= 0:
            own = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
            args.max_steps = max(1, round(args.budget * record.asked_steps * record.step_records / own))
    if args.base_is_clean and lineage.base is None:
        raise InputError(
            "base_is_clean is said of the model that the original was fine-tuned from, which nobody names; give "
            "it with base_model_name_or_path."
        )


def find_base(
    source: ModelSource | None, record: TrainingRecord | None, name: str | None, revision: str | None
) -> ModelSource | None:
    """The model that another was fine-tuned from: as given, else from its record, its adapter, its report or its card.

    A model from which records had to be forgotten, by the ledger or the report beside the other, has seen them and is
    no base. ``name`` and ``revision`` are what the user says.

    Raises:
        InputError: the base is named but cannot be found, or is no base.
    """
    if source is None:
        return locate(name, revision) if name is not None else None
    report = report_beside(source)
    if name is None:
        named = _named_bases(source, record, report)
        base = next((base for base in named if not _had_to_forget(base, source, report)), None)
    else:
        base = locate(name, revision, trust_remote_code=source.trust_remote_code)
        if _had_to_forget(base, source, report):
            raise InputError(
                f"{base.public_name!r} cannot be the base of {source.public_name!r}: it is a model from which records "
                "had to be forgotten; name the one that it was fine-tuned from."
            )
    if base is not None and base == source:
        raise InputError(f"The base {base.name!r} is the original itself; name the model it was trained from.")
    return base


def _named_bases(
    source: ModelSource, record: TrainingRecord | None, report: UnlearningReport | None
) -> Iterator[ModelSource]:
    """What may be the base, the most certain first."""
    code = source.trust_remote_code
    if record is not None:
        if record.base_model is not None:
            yield locate(record.base_model, record.base_revision, trust_remote_code=code)
        return
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


def _had_to_forget(base: ModelSource, source: ModelSource, report: UnlearningReport | None) -> bool:
    """Whether a model is one from which another model's ledger or report says that records had to be forgotten."""
    before = report.original if report is not None else None
    if before is not None and before.on_hub and before.name == base.name:
        return True
    if (path := file_beside(source, LEDGER_FILE)) is None:
        return False
    runs = Ledger.read(ledger_text(path), f"beside {source.public_name!r}").runs
    parents = [run.parent for run in runs if run.parent is not None]
    if any(parent.commit is not None and parent.name == base.name for parent in parents):
        return True
    # A copy of it under another name, or a folder, is known by its weights.
    return weights_of(base) in [parent.weights for parent in parents if parent.weights]
