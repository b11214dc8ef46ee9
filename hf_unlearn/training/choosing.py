"""``method="auto"``: the exact way where a base is known, else an approximate one."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from ..models.training_record import TrainingRecord
from .config import UnlearningConfig
from .fitted import APPROXIMATE, EXACT, inherited_settings
from .lineage import Lineage
from .useful import FEWEST_HELD_OUT, HELD_OUT

# Of the retained records: with fewer, too few can be held out to see when more training brings little.
FEWEST_TO_WATCH = round(FEWEST_HELD_OUT / HELD_OUT)


@dataclass(frozen=True)
class Way:
    """A method with its settings, and why it was taken, in sentences."""

    taken: Literal["exact", "approximate"]
    method: str
    settings: dict[str, Any]
    reasons: list[str]


def auto_way(lineage: Lineage, asked: Mapping[str, Any], rows: int | None, *, sharded: bool = False) -> Way:
    """Choose a way to unlearn, by what is known before anything is trained; S has no part in it.

    Args:
        lineage: what the original was made of.
        asked: the settings that the user gave.
        rows: of L, None when it is streamed.
        sharded: whether the weights will be sharded over processes.
    """
    length = {} if {"budget", "num_train_epochs", "max_steps"} & set(asked) else {"budget": 1.0}
    if lineage.record is None:
        length = {}
    base = lineage.base
    if base is None:
        return Way("approximate", APPROXIMATE, {}, [no_base(lineage.record)])
    known = f"The base model {base.public_name} is known, so it is fine-tuned on the retained records, which is exact."
    if rows is None or sharded or "max_steps" in asked:
        return Way("exact", EXACT, length, [known])
    if rows < FEWEST_TO_WATCH:
        return Way(
            "exact",
            EXACT,
            length,
            [
                known,
                f"{rows:,} retained records are so few that all else would cost more than it saves, so it trains as "
                "long as the original did: a retraining.",
            ],
        )
    return Way(
        "exact",
        EXACT,
        {**length, "stop_when_useful": True},
        [known, "The training ends once more of it would bring little, at the latest as a retraining does."],
    )


def no_base(record: TrainingRecord | None) -> str:
    """Why no exact way is taken, what opens one, and what it would cost."""
    told = (
        "No base model is known that the fine-tuning could begin at. --base_model_name_or_path names one and opens "
        "the exact way."
    )
    if record is not None and record.base_model is None:
        minutes = record.seconds / 60
        told += (
            f" Training from scratch is exact, too: --method retrain, for about {minutes:.3g} minutes by the "
            "original's training record."
        )
    return told


def given_settings(args: UnlearningConfig) -> dict[str, Any]:
    """What was asked for: what differed from the defaults, and what was set since."""
    names = [one.name for one in fields(args) if one.init]
    return args.given | {name: vars(args)[name] for name in names if vars(args)[name] != args.made[name]}


def plain_config(args: UnlearningConfig) -> UnlearningConfig:
    """The settings of a training that forgets nothing."""
    return UnlearningConfig(**{**given_settings(args), "method": "fine_tune"})


def auto_config(args: UnlearningConfig, lineage: Lineage, rows: int | None) -> tuple[UnlearningConfig, Way]:
    """The settings of the way that is chosen: as given, else from the original's training record, else by default."""
    given = given_settings(args)
    way = auto_way(lineage, given, rows, sharded=args.sharded)
    values = {**given, **way.settings, "method": way.method}
    names = {one.name for one in fields(UnlearningConfig) if one.init}
    inherited = {name: value for name, value in inherited_settings(lineage.record, values).items() if name in names}
    return UnlearningConfig(**{**inherited, **values}), way
