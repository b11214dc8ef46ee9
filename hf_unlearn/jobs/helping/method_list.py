"""``hf-unlearn methods``: the methods by what they need, each with its price and source."""

from ...methods.method import DEFAULT_BUDGET, Method
from ...methods.table import CHOICES, METHODS, find_method
from ...models.tasks import TASKS
from ..console import table, terminal

NEEDS = {
    "L alone": "They train on the records that stay (L), from the original model or from fresh weights.",
    "the base": "They also need the model that the original was fine-tuned from.",
    "S": "They train on the records to forget (S).",
    "S and H": "They also look at one half of S and of the held-out records (H), and are judged on the other half.",
}


def methods(name: str | None) -> None:
    """Show all methods by what they need, or one with all that its row of the table says.

    Raises InputError where there is no such method.
    """
    if name is not None:
        _show(name)
        return
    out = terminal()
    out.print("`hf-unlearn methods NAME` explains one. Without --method a run takes `auto`.\n")
    for choice, what in CHOICES.items():
        out.print(f"{choice}: {what}.")
    for need, about in NEEDS.items():
        rows = [method for method in METHODS.values() if needs(method) == need]
        shown = table(f"\nNeeds {need}", {"method": "word", "price": "text", "source": "text"})
        for method in rows:
            shown.add_row(method.name, price(method), _reference(method))
        out.print(shown)
        out.print(about)
    out.print(
        "\nA price is for the training alone. Over S and L: each record of S comes with one of L. A teacher is "
        "a model that reads along. Measuring adds to the price, and --with_retrained adds a whole training."
    )


def needs(method: Method) -> str:
    """What a method needs, a key of :data:`NEEDS`."""
    if method.uses_forget:
        return "S and H" if method.chooses else "S"
    return "the base" if method.needs_base else "L alone"


def price(method: Method) -> str:
    """What the training of a method costs by default, in words."""
    taught = sum(teacher for _, teacher in method.passes.values())
    teaching = ", with a teacher" if taught else ""
    if not method.uses_forget:
        share = DEFAULT_BUDGET if method.budget is None else method.budget
        return f"{share:.0%} of a retraining{teaching}"
    epochs = method.settings.get("num_train_epochs", 3)
    beside = " and L" if method.data.retained else ""
    return f"{epochs:g} epoch{'s' if epochs != 1 else ''} over S{beside}{teaching}"


def _reference(method: Method) -> str:
    """The publication, without the settings that it gives."""
    return method.source.partition(": ")[0] or "ours"


def _show(name: str) -> None:
    out = terminal()
    if name in CHOICES:
        out.print(f"{name}: {CHOICES[name]}.")
        return
    method = find_method(name)
    out.print(method.summary)
    facts = {
        "needs": needs(method),
        "price": price(method),
        "fits": "all tasks" if set(method.fits.tasks) == set(TASKS) else ", ".join(method.fits.tasks),
        "--alpha": "none" if method.alpha is None else f"{method.alpha:g}: {method.strength}",
        "--method_kwargs": ", ".join(f"{option} {value:g}" for option, value in method.options.items()) or "none",
        "settings": ", ".join(f"{setting} {value}" for setting, value in method.settings.items()) or "none of its own",
        "source": method.source or "ours",
        "differs by": method.ours or "nothing",
    }
    shown = table("", {"": "word", name: "text"})
    for fact, value in facts.items():
        shown.add_row(fact, value)
    out.print(shown)
