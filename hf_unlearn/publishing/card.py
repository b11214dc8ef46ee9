"""The model card, rendered from the report."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from transformers.utils import CHAT_TEMPLATE_FILE

from ..errors import in_one_line
from ..evaluation.report import ModelEntry, UnlearningReport
from ..evaluation.statistics import Estimate
from ..evaluation.wording import PICTURES, SET_NAMES
from ..files import write_text
from ..models.loading import AUTO_CLASSES
from ..models.tasks import TASKS
from ..output_folder import known_settings
from .sections import TEMPLATES, method_of, shared_values
from .templating import environment

CARD_FILE = "README.md"

TAGS = ["unlearning", "machine-unlearning", "hf_unlearn"]

# What a reader must know before anything else.
ALARMING = ("not_forgotten", "over_forgotten", "undecided")


@dataclass(frozen=True)
class Published:
    """What a card says only of a published model.

    Attributes:
        name: its repository.
        original_is_public: whether everybody can load the original model; None when unknown.
        tell_users_to_move: whether users of the original model are asked to move to this one.
    """

    name: str
    original_is_public: bool | None = None
    tell_users_to_move: bool = False


def write_card(folder: Path, report: UnlearningReport, overrides: Mapping[str, Any] | None = None) -> None:
    """Write the card of a finished run into its folder.

    The user's metadata are ``language``, ``license``, ``tags`` (added), ``model_name``, ``base_model``,
    ``pipeline_tag``, ``datasets`` and ``dataset_config``; None values are left out.
    """
    write_text(folder / CARD_FILE, rendered_card(folder, report, overrides))


def rendered_card(
    folder: Path,
    report: UnlearningReport,
    overrides: Mapping[str, Any] | None = None,
    published: Published | None = None,
    *,
    local: bool = True,
) -> str:
    """The card of a finished run, as :func:`write_card` writes it, or as it is published.

    Where it is ``local``, the command that repeats the run names the folders of this machine.
    """
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    places = known_settings(folder) if local else None
    has_chat = (folder / CHAT_TEMPLATE_FILE).is_file()
    return render_card(report, folder.resolve().name, pictures, overrides, published, places, has_chat=has_chat)


def render_card(
    report: UnlearningReport,
    name: str,
    pictures: Collection[str] = tuple(PICTURES),
    overrides: Mapping[str, Any] | None = None,
    published: Published | None = None,
    places: Mapping[str, Any] | None = None,
    *,
    has_chat: bool = False,
) -> str:
    """Render the card, with the pictures that lie beside it; the name counts unless published or overridden.

    ``places`` are the settings of the run with the folders of this machine, and ``has_chat`` says whether a chat
    template lies beside the model.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    name = given.get("model_name", published.name if published else name)
    loader = AUTO_CLASSES[report.task].__name__
    return (
        environment()
        .get_template("model_card.md")
        .render(
            shared_values(report, places),
            metadata=_metadata(report, name, given).to_yaml(),
            name=name,
            pictures={name: text for name, text in PICTURES.items() if name in pictures},
            is_alarming=report.verdict.word in ALARMING,
            is_lost=report.utility is not None and report.utility.word == "lost",
            published=published,
            has_chat=has_chat and TASKS[report.task].next_token,
            parent=_parent(report),
            coded=("checkpoint", *TEMPLATES),
            loader=loader.replace("AutoModel", "AutoPeftModel") if report.method.adapter_of else loader,
            on_hub_dataset=report.dataset.name if report.dataset.name and "/" in report.dataset.name else None,
        )
    )


def _metadata(report: UnlearningReport, name: str, given: dict[str, Any]) -> ModelCardData:
    parent = _parent(report)
    base_model = given.get("base_model", parent.name if parent and parent.on_hub else None)
    relation = "adapter" if report.method.adapter_of else "finetune"
    datasets = given.get("datasets", report.dataset.name)
    datasets = [datasets] if isinstance(datasets, str) else datasets or []
    tags = [*TAGS, report.method.name]
    if report.task != TASKS[report.task].pipeline_tag:
        tags.append(report.task)
    values: dict[str, Any] = {
        "language": given.get("language"),
        "license": given.get("license", report.licence),
        "library_name": "peft" if report.method.adapter_of else "transformers",
        "pipeline_tag": given.get("pipeline_tag", TASKS[report.task].pipeline_tag),
        "tags": list(dict.fromkeys([*tags, *given.get("tags", [])])),
        "base_model": base_model,
        # Of several, which only the user can name, the Hub finds out itself what they are.
        "base_model_relation": relation if isinstance(base_model, str) else None,
        "datasets": [dataset for dataset in datasets if "/" in dataset] or None,
    }
    return ModelCardData(
        model_name=name,
        eval_results=_eval_results(report, given.get("dataset_config", report.dataset.config)),
        **{key: value for key, value in values.items() if value is not None},
    )


def _parent(report: UnlearningReport) -> ModelEntry | None:
    """The model that this one was fine-tuned from, or is an adapter of."""
    if report.method.adapter_of is not None:
        return report.method.adapter_of
    row = method_of(report)
    if row and row.replaces and report.method.alpha == 1:
        return report.base if row.uses_base else None
    return report.original


def _eval_results(report: UnlearningReport, config: str | None) -> list[EvalResult]:
    """The numbers after unlearning, as the Hub wants them."""
    on_hub = report.dataset.name is not None and "/" in report.dataset.name
    arm = report.arms["unlearned"]

    def result(metric: str, metric_name: str, split: str, estimate: Estimate) -> EvalResult:
        return EvalResult(
            task_type=report.task,
            dataset_type=report.dataset.name if on_hub and report.dataset.name else "custom",
            dataset_name=report.dataset.name or "custom",
            dataset_config=config,
            dataset_split=split,
            dataset_revision=report.dataset.revision,
            metric_type=metric,
            metric_name=metric_name,
            metric_value=round(estimate.value, 6),
        )

    results = []
    for set_name, scores in arm.sets.items():
        place = SET_NAMES[set_name]
        if scores.accuracy is not None:
            results.append(result("accuracy", f"accuracy on {place}", set_name, scores.accuracy))
        if scores.perplexity is not None and scores.perplexity.value is not None:
            results.append(result("perplexity", f"perplexity on {place}", set_name, scores.perplexity))
    if arm.membership_auc is not None:
        results.append(
            result("roc_auc", "membership AUC of the forgotten against held-out records", "forget", arm.membership_auc)
        )
    return results


def new_version(unlearned: str) -> str:
    """The line in the metadata of a model's card for which the Hub shows, on its page, a link to a newer model."""
    return f"new_version: {in_one_line(unlearned)}"
