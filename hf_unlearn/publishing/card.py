"""The model card, rendered from the report."""

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..errors import in_one_line
from ..evaluation.plots import PICTURES
from ..evaluation.report import ModelEntry, UnlearningReport
from ..evaluation.statistics import Estimate
from ..evaluation.verdict import ATTACKS
from ..evaluation.wording import OUTSIDE_ATTACKS, REFERENCE_NAMES, SET_NAMES, generation_rows
from ..files import write_text
from ..methods.method import Method
from ..methods.table import METHODS, find_method
from ..models.loading import AUTO_CLASSES
from ..models.tasks import TASKS
from .templating import _in_code, environment

CARD_FILE = "README.md"

TAGS = ["unlearning", "machine-unlearning", "hf_unlearn"]

SHOWN_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_sampling_strategy",
    "train_last_layers",
    "max_length",
    "bf16",
    "fp16",
)

TEMPLATES = ("prompt_template", "completion_template")

REPEATED_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_last_layers",
    "max_length",
    "dataset_text_field",
    *TEMPLATES,
)

# What a reader must know before anything else.
FIRST_LINES = {
    "not_forgotten": "This model still knows the records it was asked to forget.",
    "over_forgotten": "This model treats the records it was asked to forget worse than records it never saw, which "
    "gives them away.",
    "undecided": "Whether this model has forgotten the records it was asked to forget could not be decided.",
}

# Chen et al., CCS 2021, attack both versions of a model that was retrained; Du et al., ICML 2025, both versions of a
# language model (TULA), and there recover texts as well.
BEFORE_AND_AFTER = (
    "Whoever holds the models from before and after can compare them and find out what was removed, also where the "
    "unlearning is exact (Chen et al. 2021, arXiv:2005.02205; for language models Du et al. 2024, arXiv:2406.13348)."
)


@dataclass(frozen=True)
class Published:
    """What a card can only say of a model that is published.

    Attributes:
        name: its repository.
        original_is_public: whether everybody can load the model from before; None when unknown.
        tell_users_to_move: whether users of that one are asked to move to this one.
    """

    name: str
    original_is_public: bool | None = None
    tell_users_to_move: bool = False


def write_card(folder: Path, report: UnlearningReport, overrides: Mapping[str, Any] | None = None) -> None:
    """Write the card of a finished run into its folder.

    Args:
        folder: the output folder.
        report: what the card says.
        overrides: metadata that the user sets: ``language``, ``license``, ``tags`` (added), ``model_name``,
            ``base_model``, ``pipeline_tag``, ``datasets``, ``dataset_config``; None values are left out.
    """
    write_text(folder / CARD_FILE, rendered_card(folder, report, overrides))


def rendered_card(
    folder: Path,
    report: UnlearningReport,
    overrides: Mapping[str, Any] | None = None,
    published: Published | None = None,
) -> str:
    """The card of a finished run, as :func:`write_card` writes it, or as it is published."""
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    return render_card(report, folder.resolve().name, pictures, overrides, published)


def render_card(
    report: UnlearningReport,
    name: str,
    pictures: Collection[str] = tuple(PICTURES),
    overrides: Mapping[str, Any] | None = None,
    published: Published | None = None,
) -> str:
    """Render the card.

    Args:
        report: what the card says.
        name: of the model, unless it is published or overridden.
        pictures: those of :data:`~hf_unlearn.evaluation.plots.PICTURES` that lie beside it.
        overrides: see :func:`write_card`.
        published: None for a model that is not.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    name = given.get("model_name", published.name if published else name)
    loader = AUTO_CLASSES[report.task].__name__
    return (
        environment()
        .get_template("model_card.md")
        .render(
            report=report,
            metadata=_metadata(report, name, given).to_yaml(),
            name=name,
            pictures={name: text for name, text in PICTURES.items() if name in pictures},
            first_line=FIRST_LINES.get(report.verdict.word),
            published=published,
            before_and_after=BEFORE_AND_AFTER,
            arms=[arm for arm in ("original", "unlearned", "retrained") if arm in report.arms],
            sets=[s for s in SET_NAMES if s in report.arms["unlearned"].sets],
            set_names=SET_NAMES,
            reference_names=REFERENCE_NAMES,
            parent=_parent(report),
            settings=_settings(report),
            strength=row.strength if (row := method_of(report)) else "",
            ours=row.ours if row else "",
            flags=reproducing_flags(report),
            facts=TASKS[report.task],
            attack_names=ATTACKS | OUTSIDE_ATTACKS,
            generation_rows=generation_rows(report),
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


def method_of(report: UnlearningReport) -> Method | None:
    """The method, with the start that it was given; None when another tool made the model."""
    return find_method(report.method.name, report.method.start) if report.method.name in METHODS else None


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


def shown_settings(report: UnlearningReport) -> dict[str, str]:
    """The settings worth a reader's time; all of them are in the report."""
    settings = report.method.settings
    names = (*SHOWN_SETTINGS, *TASKS[report.task].settings, *TEMPLATES)
    own = {"start": f"that of {report.method.start}"} if report.method.start else {}
    own |= {name: f"{value:g}" for name, value in report.method.options.items()}
    return own | {name: str(settings[name]) for name in names if settings.get(name) not in (None, False, "")}


def _settings(report: UnlearningReport) -> dict[str, str]:
    return {name: _in_code(value) if name in TEMPLATES else value for name, value in shown_settings(report).items()}


def reproducing_flags(report: UnlearningReport) -> list[str]:
    """The flags that repeat the run, without where its records were."""
    method = report.method
    flags: dict[str, Any] = {}
    if report.original:
        flags |= {"model_name_or_path": report.original.name, "model_revision": report.original.revision}
    flags |= {"dataset_name": report.dataset.name, "dataset_revision": report.dataset.revision}
    flags["method"] = method.name
    row = method_of(report)
    if row and row.alpha is not None:
        flags["alpha"] = method.alpha
    flags |= {"start": method.start, "rewind_checkpoint": method.checkpoint}
    if row and method.options != row.options:
        flags["method_kwargs"] = json.dumps(method.options)
    flags["alternates_file"] = "alternates.jsonl" if method.alternates else None
    if report.base and row and row.uses_base:
        flags["base_model_name_or_path"] = report.base.name
    flags |= {"budget": method.budget} if method.budget else {"num_train_epochs": method.epochs}
    flags |= {name: method.settings.get(name) for name in (*REPEATED_SETTINGS, *TASKS[report.task].settings)}
    flags["group_column"] = report.group_column
    flags["base_is_clean"] = "true" if report.base_is_clean == "stated" else None
    if method.lora:
        flags |= {"use_peft": "true", "lora_r": method.lora["r"], "lora_alpha": method.lora["lora_alpha"]}
        flags["merge_adapter"] = None if method.adapter_of else "true"
    flags["seed"] = method.seed
    return [f"--{name} {_in_shell(str(value))}" for name, value in flags.items() if value is not None]


def _in_shell(value: str) -> str:
    """A value as bash reads it, on one line."""
    if value.isprintable():
        return shlex.quote(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return "$'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + "'"


def new_version(unlearned: str) -> str:
    """The line in the metadata of a model's card for which the Hub shows, on its page, a link to a newer model."""
    return f"new_version: {in_one_line(unlearned)}"
