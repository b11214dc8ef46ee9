"""The card of a model that is dealt into adapters, which says how to call it."""

from pathlib import Path

from huggingface_hub import ModelCardData

from ..files import write_text
from ..models.tasks import TASKS
from ..publishing.card import CARD_FILE
from ..publishing.templating import environment
from .layout import Sharding

UNKNOWN = {
    "base": "Without an owner, or to one who is unknown or deleted, the base model answers.",
    "vote": "Without an owner, or to one who is unknown or deleted, the mean of all adapters answers.",
}
OF_CLASSES = " For each class only those adapters count that saw one of its records."


def write_sharded_card(folder: Path, sharding: Sharding) -> None:
    """Write the card of a model that was just trained."""
    name, base = folder.resolve().name, Path(sharding.base)
    metadata = ModelCardData(
        model_name=name,
        library_name="peft",
        pipeline_tag=TASKS[sharding.task].pipeline_tag,
        tags=["hf_unlearn", "sharded"],
        base_model=None if base.is_dir() else sharding.base,
    )
    unknown = UNKNOWN[sharding.unknown]
    if sharding.unknown == "vote" and TASKS[sharding.task].classes:
        unknown += OF_CLASSES
    text = (
        environment()
        .get_template("sharded_card.md")
        .render(
            metadata=metadata.to_yaml(),
            name=name,
            sharding=sharding,
            base=base.resolve().name if base.is_dir() else sharding.base,
            unknown=unknown,
            task=sharding.task,
        )
    )
    write_text(folder / CARD_FILE, text)
