"""Tasks of EleutherAI's lm-evaluation-harness (the extra ``lm-eval``): what else a model can do."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scipy import stats
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..models.loading import Model
from .scoring import evaluating, preserved_rng
from .statistics import CONFIDENCE, Estimate

BOOTSTRAP = 1000  # draws, for the metrics whose standard error has no closed form


@dataclass(frozen=True)
class HarnessScore:
    """One metric of one task.

    Attributes:
        task: its name in the harness.
        metric: the harness's name for it; with its filter, where it has one.
        value: of the metric.
        estimate: the same with the interval of the normal distribution; None where the harness gives no standard error
            above zero.
        n: examples.
    """

    task: str
    metric: str
    value: float
    estimate: Estimate | None
    n: int


def check_harness_tasks(tasks: Sequence[str], task: str) -> None:
    """Raise InputError unless the harness is installed, knows the tasks, and the model's task is for them."""
    if task != "text-generation":
        raise InputError(f"--lm_eval_tasks needs a causal language model, and this model is for {task}.")
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("--lm_eval_tasks needs lm_eval: pip install 'hf_unlearn[lm-eval]'.")
    manager = _manager(tuple(tasks))
    for name in tasks:
        if not manager.match_tasks([_name(name)]):
            raise InputError(f"lm_eval knows no task {_name(name)!r}. `lm-eval ls tasks` lists them.")


def harness_scores(
    model: Model, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[str], *, batch_size: int, seed: int
) -> list[HarnessScore]:
    """Measure a model on tasks of the harness; every process of a launch does all of it.

    Args:
        model, tokenizer: a causal language model; it stays as it is, and so do the random number generators.
        tasks: names, or YAML files that bear a task's name.
        batch_size: sequences in a forward pass.
        seed: of the examples in the prompts, and of the bootstrap.

    Returns:
        Every metric of every task and group, in the harness's order.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with evaluating(model), preserved_rng():
        found = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=[_name(name) for name in tasks],
            task_manager=_manager(tuple(tasks)),
            log_samples=False,
            bootstrap_iters=BOOTSTRAP,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    assert found is not None
    return [
        _score(name, key, values)
        for name, values in found["results"].items()
        for key, value in values.items()
        if "," in key and "_stderr," not in key and isinstance(value, int | float)
    ]


def _score(task: str, key: str, values: dict[str, Any]) -> HarnessScore:
    metric, _, chosen = key.partition(",")
    value, error, n = float(values[key]), values.get(f"{metric}_stderr,{chosen}"), int(values["sample_len"])
    estimate = None
    # Where all examples have the same result the error is zero, which gives no interval.
    if isinstance(error, int | float) and error > 0:
        half = float(stats.norm.ppf((1 + CONFIDENCE) / 2) * error)
        estimate = Estimate(value, value - half, value + half, n)
    return HarnessScore(task, metric if chosen == "none" else f"{metric} ({chosen})", value, estimate, n)


@cache
def _manager(tasks: tuple[str, ...]) -> Any:
    """The harness's index of tasks, which takes seconds to make because it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    files = [Path(name) for name in tasks if name.endswith(".yaml")]
    folders = sorted({str(file.parent) for file in files})
    return TaskManager(include_path=folders or None, include_defaults=len(files) < len(tasks))


def _name(task: str) -> str:
    return Path(task).stem if task.endswith(".yaml") else task
