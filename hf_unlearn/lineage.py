"""What a model was made of: where it lives, how it was trained, and what it was fine-tuned from."""

from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel

from .bases import find_base
from .config import UnlearningConfig
from .errors import InputError
from .methods.method import Method
from .models.loading import Model
from .models.location import ModelSource, locate
from .models.training_record import TrainingRecord, load_record


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
