"""``--method auto``: the exact way where a base is known, else an approximate one."""

from datasets import Dataset

from ..errors import InputError
from ..evaluation.report import UnlearningReport
from ..training.choosing import Way, auto_way
from ..training.trainer import UnlearningTrainer
from .console import console
from .preparation import Preparation, print_inherited
from .training_runs import unlearn
from .trials import Choice, approximate_obstacle, with_method


def auto(choice: Choice) -> tuple[UnlearningTrainer, UnlearningReport]:
    """Choose a way to unlearn, and take it: the trainer of the result, not yet saved, and its report."""
    run, way = choice.run, _way(choice.run)
    made, parts = with_method(run, way.method, settings=way.settings), run.parts
    trainer = unlearn(
        made, choice.settings, forget=parts.forget, holdout=parts.holdout, begin=choice.begin(way.method)
    )
    trainer.way = way
    return trainer, trainer.report(
        audit=parts.audit, dataset=run.data, retrained=choice.retrained, more_retrained=choice.more_retrained
    )


def check_auto(run: Preparation) -> None:
    """Say which way will be taken and why; raises InputError where none is possible."""
    way, obstacle = _way(run), approximate_obstacle(run)
    if way.taken == "approximate" and obstacle is not None:
        raise InputError(
            f"No base model is known (--base_model_name_or_path names one), and {obstacle}; or name a --method."
        )
    out, made = console(run.config), with_method(run, way.method, settings=way.settings)
    for reason in way.reasons:
        out.print(reason)
    print_inherited(out, run.lineage.record, made.inherited, made.config)


def _way(run: Preparation) -> Way:
    retained = run.parts.retained
    rows = len(retained) if isinstance(retained, Dataset) else None
    return auto_way(run.lineage, run.values, rows, sharded=run.config.sharded)
