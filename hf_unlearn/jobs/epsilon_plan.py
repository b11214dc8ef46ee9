"""What an epsilon would cost to prove, before anything is spent: ``hf-unlearn plan``."""

import math

from ..errors import InputError
from ..evaluation.closeness.epsilon import ALPHA, ceiling, models_needed
from ..evaluation.wording import duration
from ..methods.method import DEFAULT_BUDGET
from ..models.location import locate
from ..models.training_record import RECORD_FILE, load_record
from .console import table, terminal

TESTED = (8, 16, 32, 64, 128, 256, 512)


def plan(
    epsilon: float, *, delta: float, model_name_or_path: str | None, model_revision: str | None, budget: float | None
) -> None:
    """Show how many models the proof of an epsilon needs, and what they cost by the original's training record."""
    if budget is not None and not 0 < budget < math.inf:
        raise InputError(f"--budget {budget} is not possible; it must be above 0, such as 0.25.")
    tested = models_needed(epsilon, ALPHA, delta)
    # Half of the models choose the attack.
    trained = 2 * tested
    cost = None
    if model_name_or_path is not None:
        cost = _cost(model_name_or_path, model_revision, budget, trained)
    out = terminal()
    out.print(
        f"To prove epsilon > {epsilon:g} (delta = {delta:g}, confidence {1 - ALPHA:.0%}) an attack that makes no "
        f"mistake must be tested on {tested:,} unlearned and {tested:,} retrained models."
    )
    out.print(f"It is chosen on as many others: {trained:,} models of each kind, each with its own seed.")
    shown = table(
        "The most that can be proven",
        dict.fromkeys(("models of each kind", "of them tested", "epsilon at most"), "number"),
    )
    for n in TESTED:
        shown.add_row(f"{2 * n:,}", f"{n:,}", f"{float(ceiling(n, n, ALPHA, delta)):.2f}")
    out.print(shown)
    out.print(
        "Real attacks make mistakes and prove less. No number of models proves that epsilon is small: they can only "
        "fail to show that it is large."
    )
    if cost is not None:
        out.print(cost)


def _cost(name: str, revision: str | None, budget: float | None, models: int) -> str:
    """What the models cost by the training record of the original, in a sentence."""
    record = load_record(locate(name, revision))
    if record is None:
        return f"The cost is unknown: there is no {RECORD_FILE} beside the model."
    budget = DEFAULT_BUDGET if budget is None else budget
    shares = {f"retraining {models:,}": models, f"unlearning {models:,} at a budget of {budget:g}": models * budget}
    parts = [f"{what}: {_price(record.flops * share, record.seconds * share)}" for what, share in shares.items()]
    total = _price(record.flops * sum(shares.values()), record.seconds * sum(shares.values()))
    return (
        f"Cost, by the original's training of {_price(record.flops, record.seconds)} on its own machine: "
        f"{', '.join(parts)}, together {total}. Scoring the models adds to this."
    )


def _price(flops: float, seconds: float) -> str:
    return f"{flops:.2g} FLOPs ({duration(seconds)})"
