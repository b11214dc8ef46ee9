"""The settings of one unlearning run."""

import math
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.integrations import is_fsdp_enabled
from transformers.utils.generic import strtobool

from ..data.format import layout_of
from ..errors import InputError
from ..evaluation.verdict import LARGEST_MARGIN
from ..methods.method import ADAPTER_RATE, Method
from ..methods.retained_methods import HOT_FACTOR
from ..methods.starts import checkpoint
from ..methods.table import CHOICES, METHODS, NAMES, STARTS, find_method, register

LEARNING_RATE = 5e-5
DEFAULTS = {"lr_scheduler_type": "linear", "num_train_epochs": 3.0, "weight_decay": 0.0, "warmup_steps": 0}


def _strengths() -> str:
    told: dict[str, list[str]] = {}
    for method in METHODS.values():
        if method.alpha is not None:
            told.setdefault(method.strength, []).append(f"{method.name} {method.alpha:g}")
    return "; ".join(f"{strength} ({', '.join(names)})" for strength, names in told.items())


def _options() -> str:
    told = {name: dict(method.options) for name, method in METHODS.items() if method.options}
    return "; ".join(
        f"{name} {', '.join(f'{option} {value:g}' for option, value in options.items())}"
        for name, options in told.items()
    )


@dataclass
class UnlearningConfig(TrainingArguments):
    """Settings of :class:`~hf_unlearn.UnlearningTrainer`: those of transformers' ``TrainingArguments`` and its own.

    Each setting is explained in the ``help`` of its field, which ``--help all`` shows. The trainer takes a ``method``
    of ``METHODS``, a :class:`~hf_unlearn.methods.Method` of your own, or ``"auto"``; only ``hf-unlearn run`` takes
    ``"dial"``.
    Making the settings also checks how the processes were launched, so that a wrong launch fails early.

    NOTE: these defaults differ from the parent's: ``learning_rate`` is None, which mostly becomes the parent's 5e-5,
    ``lr_scheduler_type`` is None, which mostly becomes the parent's ``"linear"``, and so ``num_train_epochs`` is None
    for 3, ``weight_decay`` is None for 0 and ``warmup_steps`` is None for 0; ``logging_steps`` is 10 instead of 500,
    ``save_total_limit`` is 2 instead of None, ``include_num_input_tokens_seen`` is ``"non_padding"`` instead of
    ``"no"``, ``logging_nan_inf_filter`` is False instead of True, so that training stops when the loss is no number.

    Raises:
        InputError: a value that is not possible.
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "method_kwargs"]

    # > Parameters that control the method
    method: str = field(
        default="auto",
        metadata={
            "help": f"How to unlearn: {', '.join(METHODS)}. fine_tune is the baseline, which mostly forgets little. "
            f"Or let it be chosen: {'; '.join(f'{name}: {what}' for name, what in CHOICES.items())}.",
            "choices": NAMES,
        },
    )
    alpha: float | None = field(default=None, metadata={"help": f"The strength of the method: {_strengths()}."})
    start: str | None = field(
        default=None,
        metadata={
            "help": "Begin where this method begins, at the strength --alpha; for methods that begin at the original.",
            "choices": STARTS,
        },
    )
    method_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": f"Other settings of the method as JSON, such as '{{\"beta\": 0.1}}': {_options()}."},
    )
    alternates_file: str | None = field(
        default=None,
        metadata={
            "help": "The private file (.jsonl) of invented answers to the prompts of the records to forget. "
            "`hf-unlearn alternates` writes it, and the method altpo reads it. Not in output_dir."
        },
    )
    teacher_dtype: Literal["float32", "bfloat16", "float16"] | None = field(
        default=None,
        metadata={
            "help": "Type of the weights of a model that each training step compares with, such as the original; "
            "None: as the trained model's."
        },
    )
    base_model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "The model that the original was fine-tuned from, a folder or Hub id; None: as the training "
            "record, the model card or the adapter says."
        },
    )
    base_model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the base model on the Hub."}
    )
    base_is_clean: bool = field(
        default=False,
        metadata={
            "help": "Your statement that the base model never saw the records to forget. Without it a run tests that "
            "where it can, and the report says which."
        },
    )
    keep_labels: bool = field(
        default=False,
        metadata={
            "help": "Keep classes that no retained record has. Without it a clean start (base, retrain) drops them, "
            "with their names; with it the result is not exact."
        },
    )
    budget: float | None = field(
        default=None,
        metadata={
            "help": "Epochs to train, as a fraction of the original training's (0.25: a quarter of retraining's "
            "price). Needs the training_record.json that `hf-unlearn train` writes, and a method that trains on the "
            "retained records alone."
        },
    )
    train_last_layers: int | None = field(
        default=None,
        metadata={
            "help": "Train only the last so many blocks and what follows them; None: all weights, or 1 block for "
            "cf_k and eu_k."
        },
    )
    rewind_checkpoint: str | None = field(
        default=None,
        metadata={"help": "The checkpoint folder of the original's own training that the method rewind goes back to."},
    )
    merge_adapter: bool = field(
        default=False, metadata={"help": "Merge the LoRA adapter into the weights before saving."}
    )

    # > Parameters that control the data
    dataset_text_field: str = field(
        default="text", metadata={"help": "The column of the text, or of the words (then 'tokens' by default)."}
    )
    dataset_label_field: str = field(
        default="label",
        metadata={"help": "The column of the class, or of the words' classes (then 'ner_tags' by default)."},
    )
    prompt_template: str | None = field(
        default=None,
        metadata={"help": "Builds the prompt from other columns, such as 'Question: {question} Answer:'."},
    )
    completion_template: str | None = field(
        default=None, metadata={"help": "Builds the completion from other columns, such as ' {answer}'."}
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens in an example; longer documents are split (language models) or cut (classifiers, "
            "encoder-decoders). None: the model's limit, up to 1024."
        },
    )
    mlm_probability: float = field(
        default=0.15,
        metadata={"help": "Share of its tokens that a masked language model has to guess, other ones in each epoch."},
    )

    group_column: str | None = field(
        default=None,
        metadata={
            "help": "The column that says whose record it is (author, customer); by default that of the ids, where "
            "ids repeat. Then 400 records of 20 people count as 20, as records of one person resemble each other."
        },
    )

    # > Parameters that control the measuring
    measure: Literal["sample", "full"] = field(
        default="sample",
        metadata={
            "help": "How much of L and the test split is measured. sample: a sixteenth of L's size, but 64 records or "
            "more; full: up to 1,000 records, and a curve on the way. S and H are measured whole.",
            "choices": ["sample", "full"],
        },
    )
    measure_steps: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "Compare the records to forget (S) with the held-out ones (H) every so many steps, or after each "
            "such fraction of the training when below 1; 0: never. None: 0.2 with --measure full or "
            "--stop_when_forgotten, else 0."
        },
    )
    stop_when_forgotten: bool = field(
        default=False,
        metadata={
            "help": "Stop once the verdict's tests find S forgotten, or treated worse than H. They look at half of "
            "each and share its error of 0.05; the verdict judges the other half."
        },
    )
    stop_when_useful: bool = field(
        default=False,
        metadata={
            "help": "End the training once more of it would bring little: at marks on the way usefulness is measured "
            "on a tenth of L, which is held out. For methods that train on L alone."
        },
    )
    auc_margin: float = field(
        default=0.10,
        metadata={
            "help": "Distance of the membership AUC from 0.5 within which S counts as not distinguished from H; "
            f"at most {LARGEST_MARGIN}."
        },
    )
    utility_margin: float = field(
        default=0.05,
        metadata={
            "help": "How much worse than the retrained model, or the original, the result may do on other records: in "
            "F1 or ROUGE-L, or as a fraction of what the fine-tuning had gained in loss over the base."
        },
    )
    corrected_label_column: str | None = field(
        default=None,
        metadata={
            "help": "The column of the records to forget with the label that each should have had (classifiers). The "
            "report then says how many now get it."
        },
    )

    paraphrase_column: str | None = field(
        default=None,
        metadata={
            "help": "The column with each prompt, or each text of a classifier, in other words. `evaluate` and "
            "methods that train on S ask by it beside fixed phrases, and `attack` in place of them."
        },
    )
    gradient_norm_attack: bool = field(
        default=False,
        metadata={
            "help": "Also compare S with H by the norm of each record's gradient. Costs a backward pass a record and "
            "the memory of a gradient of all weights."
        },
    )
    generate_records: int = field(
        default=0,
        metadata={
            "help": "So many records of S and of H that the models continue, for ROUGE-L recall, verbatim extraction "
            "and refusals (models that write). Costs a greedy generation each. 0: none."
        },
    )

    # > Defaults that differ from the parent's
    # None is what nobody has set, so that a method's own value can go before a default; __post_init__ fills it in.
    learning_rate: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "The peak of the learning rate. None: as the method, or the training record, says, else 5e-05; "
            f"{HOT_FACTOR} times that for fine_tune_high_lr and shrink_reheat. Published rates are for all weights; "
            f"an adapter gets {ADAPTER_RATE} times the method's."
        },
    )
    lr_scheduler_type: str = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "The shape of the learning rate. None: the method's own, else as the record says, or linear."
        },
    )
    num_train_epochs: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "Epochs: over the records to forget for a method that trains on them, else over the retained "
            "ones. None: the method's own, else 3."
        },
    )
    weight_decay: float = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "Weight decay. None: the method's own, else as the record says, or 0."},
    )
    warmup_steps: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "Steps until the learning rate is at its peak (below 1: fraction). None: the method's own, else "
            "as the record says, or 0."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are no number out of the log instead of stopping."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps (below 1: fraction)."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    include_num_input_tokens_seen: str | bool = field(
        default="non_padding", metadata={"help": "Count the tokens read: 'all', 'non_padding' or 'no'."}
    )

    def __post_init__(self) -> None:
        if self.push_to_hub:
            raise InputError(
                "push_to_hub=True would publish before the verdict is known; publish after it with "
                "trainer.push_to_hub(), `hf-unlearn run --push` or `hf-unlearn push`."
            )
        if isinstance(self.method, Method):
            self.method = register(self.method).name
        names = [one.name for one in fields(self) if one.init and vars(self)[one.name] != _default(one)]
        self.given = {name: vars(self)[name] for name in names}
        self._check_choice()
        # Each method that a choice tries gets a configuration of its own; these settings are around them.
        method = find_method("fine_tune" if self.method in CHOICES else self.method, self.start)
        method.resolve_alpha(self.alpha)
        self._check_forget(method)
        # Whoever knows whether an adapter is trained may replace it.
        self.rate_is_published = self.learning_rate is None and "learning_rate" in method.settings
        rate = {"learning_rate": LEARNING_RATE * method.learning_rate_factor}
        for name, value in {**DEFAULTS, **rate, **method.settings}.items():
            if vars(self)[name] is None:
                setattr(self, name, value)
        if self.measure_steps is None:
            self.measure_steps = 0.2 if self.measure == "full" or self.stop_when_forgotten else 0
        self._check_rewind()
        self._check_alternates(method)
        for name, value in vars(self).items():
            _require(not isinstance(value, float) or math.isfinite(value), name, value, "a finite number")
        for name in ("learning_rate", "weight_decay", "adam_epsilon", "dataloader_num_workers"):
            _require(vars(self)[name] >= 0, name, vars(self)[name], "0 or more")
        for name in ("adam_beta1", "adam_beta2"):
            _require(0 <= vars(self)[name] < 1, name, vars(self)[name], "0 or more and below 1")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            _require(vars(self)[name] >= 1, name, vars(self)[name], "1 or more")
        _require(self.num_train_epochs > 0, "num_train_epochs", self.num_train_epochs, "above 0")
        _require(self.alpha is None or 0 <= self.alpha <= 1, "alpha", self.alpha, "between 0 and 1")
        _require(self.budget is None or self.budget > 0, "budget", self.budget, "above 0, such as 0.25")
        layers = self.train_last_layers
        _require(layers is None or layers >= 1, "train_last_layers", layers, "1 or more")
        margins = f"above 0 and at most {LARGEST_MARGIN}"
        _require(0 < self.auc_margin <= LARGEST_MARGIN, "auc_margin", self.auc_margin, margins)
        _require(0 < self.utility_margin < 1, "utility_margin", self.utility_margin, "between 0 and 1")
        _require(0 < self.mlm_probability < 1, "mlm_probability", self.mlm_probability, "between 0 and 1")
        _require(self.measure_steps >= 0, "measure_steps", self.measure_steps, "0 or more")
        _require(self.generate_records >= 0, "generate_records", self.generate_records, "0 or more")
        parts = self.optim_args.split(",") if self.optim_args else []
        _require(all(part.count("=") == 1 for part in parts), "optim_args", self.optim_args, "name=value,name=value")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "between 0 and 4294967295")
        if self.stop_when_forgotten and self.measure_steps == 0:
            raise InputError("stop_when_forgotten needs measurements; set measure_steps, such as 0.1.")
        try:
            super().__post_init__()
            if self.lr_scheduler_kwargs is not None:
                if not isinstance(self.lr_scheduler_kwargs, dict):
                    raise InputError("lr_scheduler_kwargs must be a mapping of options to values.")
                _make_scheduler(self.lr_scheduler_type, self.lr_scheduler_kwargs)
            if self.method_kwargs is not None and not isinstance(self.method_kwargs, dict):
                raise InputError("method_kwargs must be a mapping of options to numbers.")
        except (TypeError, ValueError) as error:
            raise InputError(" ".join(str(error).split())) from None
        except OSError as error:
            raise InputError(f"A setting names {error.filename!r}, which cannot be read: {error.strerror}.") from None
        method.resolve_options(self.asked_options)
        self._check_launch(method)
        if self.device.type == "cpu":
            # Pinned memory is for copies to an accelerator; without one torch warns at every training.
            self.dataloader_pin_memory = False
        self.made = dict(vars(self))

    def _check_choice(self) -> None:
        if self.method not in CHOICES:
            return
        for name in ("alpha", "rewind_checkpoint", "start", "method_kwargs"):
            if vars(self)[name] is not None:
                raise InputError(f"{self.method!r} chooses the method and its {name}; leave {name} out, or name one.")
        if self.stop_when_forgotten:
            raise InputError(
                f"{self.method!r} and stop_when_forgotten do not go together: S would decide both what is trained and "
                "when that stops; leave stop_when_forgotten out, or name a method."
            )

    def _check_forget(self, method: Method) -> None:
        """Refuse settings that mean nothing where S is trained on."""
        if not method.uses_forget:
            if self.stop_when_useful and self.stop_when_forgotten:
                raise InputError("stop_when_useful and stop_when_forgotten exclude each other; give one of them.")
            return
        if self.stop_when_useful:
            raise InputError(
                f"stop_when_useful watches a training on the retained records alone, and {self.method!r} trains on "
                "the records to forget; leave it out."
            )
        if self.budget is not None:
            raise InputError(
                f"budget is a fraction of the epochs over D, and {method.name!r} counts its epochs on the records to "
                "forget; set num_train_epochs instead."
            )
        if method.chooses and self.stop_when_forgotten:
            raise InputError(
                f"{method.name!r} chooses an epoch by S, and stop_when_forgotten would stop before it can; leave that "
                "out, or use the method without the choice."
            )
        if self.train_sampling_strategy != "random":
            raise InputError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} is not possible with {method.name!r}, "
                "which draws records of both sets at random; leave it out."
            )

    def _check_rewind(self) -> None:
        rewinds = self.method in METHODS and METHODS[self.method].start is checkpoint
        if rewinds != (self.rewind_checkpoint is not None):
            told = "needs the checkpoint folder" if rewinds else "goes back to no checkpoint; leave out what names one"
            raise InputError(f"The method {self.method!r} {told}, rewind_checkpoint.")
        if self.rewind_checkpoint is not None and not Path(self.rewind_checkpoint).is_dir():
            raise InputError(f"rewind_checkpoint {self.rewind_checkpoint!r} is no folder; name a checkpoint's.")

    def _check_alternates(self, method: Method) -> None:
        if method.data.instead != "alternates":
            return
        told = f"The method {method.name!r} needs alternates_file, the other answers to what S asks"
        if self.alternates_file is None:
            raise InputError(f"{told}; name a file, and write it first with `hf-unlearn alternates`.")
        if not Path(self.alternates_file).is_file():
            raise InputError(
                f"{told}, and there is no {self.alternates_file!r}; write it with `hf-unlearn alternates`."
            )

    def _check_launch(self, method: Method) -> None:
        """Refuse launches under which the processes would not work together."""
        launched = int(os.environ.get("WORLD_SIZE", 1))
        if launched != self.world_size:
            raise InputError(
                f"{launched} processes were launched and there is no accelerator for them, so each would run alone; "
                "launch one process, or several on the CPU as recipes/accelerate/cpu_2_processes.yaml does."
            )
        # The original is scored and moved to its start before it is sharded.
        if is_fsdp_enabled():
            raise InputError(
                "fsdp_cpu_ram_efficient_loading gives the weights to one process only, and the original is scored on "
                "all of them; set it to false in the launcher's configuration."
            )

        if self.deepspeed_plugin is not None and (method.rule is not None or method.objective.l1):
            raise InputError(
                f"{method.name!r} works on the model between the steps, which DeepSpeed keeps to itself; use one "
                "process, data parallelism or FSDP2 (recipes/accelerate)."
            )
        if self.sharded and (
            method.trains_block_ends or (method.uses_forget and (method.picks_weights or method.chooses))
        ):
            told = f"The method {method.name!r} needs whole weights, and these are sharded over processes"
            raise InputError(f"{told}; use one process, or data parallelism (recipes/accelerate).")
        if self.stop_when_useful and self.sharded:
            raise InputError(
                "stop_when_useful averages whole weights, and these are sharded over processes; give a budget instead."
            )
        if self.gradient_norm_attack and self.sharded:
            raise InputError(
                "gradient_norm_attack is not possible while the weights are sharded; leave it out, and measure the "
                "result with `hf-unlearn evaluate --gradient_norm_attack` in one process."
            )
        if self.merge_adapter and self.sharded:
            raise InputError(
                "merge_adapter is not possible while the weights are sharded over processes; leave it out, and merge "
                "the adapter in one process with its merge_and_unload()."
            )

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded over processes."""
        return self.deepspeed_plugin is not None or strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false")) == 1

    @property
    def asked_options(self) -> dict[str, Any]:
        """The options of the method that were asked for."""
        assert not isinstance(self.method_kwargs, str)
        return self.method_kwargs or {}

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(str(self.output_dir))

    @property
    def layout(self) -> dict[str, Any]:
        """The options of :func:`~hf_unlearn.data.format.record_format`."""
        return layout_of(vars(self))


def _make_scheduler(name: str, options: dict[str, Any]) -> None:
    """Try out the options of the learning rate's schedule, which the trainer reads when it is training already."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    get_scheduler(name, optimizer, 1, 10, dict(options))


def _default(setting: Field) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def _require(holds: bool, name: str, value: object, needed: str) -> None:
    if not holds:
        raise InputError(f"{name}={value} is not possible; it must be {needed}.")
