"""What a report means, in words for a reader who is no engineer: what was asked, done and found, and what is left."""

from typing import NamedTuple

from ..evaluation.report import UnlearningReport
from ..evaluation.statistics import Estimate
from ..evaluation.verdict import ATTACKS, BaseIsClean
from ..evaluation.wording import OUTSIDE_ATTACKS
from ..methods.table import METHODS
from ..models.tasks import TASKS
from ..publishing.card import BEFORE_AND_AFTER, FIRST_LINES
from .audit_facts import Audited, DerivedCheck, OldWeights

SENTENCES = FIRST_LINES | {
    "exact": "In the stage of training that was done again, this model never saw the records it was asked to forget.",
    "certified": "The report calls this model certified, a word that is reserved and that no method here earns.",
    "not_distinguished": "The tests that were made cannot tell the records that this model was asked to forget from "
    "records that no model saw.",
}

# How sure the verdict is.
SURENESS = {
    "exact": "This follows from how the model was made and needs no test: the training began at weights that the "
    "records had not shaped in this stage, and used only records that stay. It is as sure as the run's own account of "
    "these two facts.",
    "certified": "Nothing here says what the word rests on; ask whoever wrote the report.",
    "not_distinguished": "This is a measurement and no proof. The margin was fixed before the run, and the tests are "
    "made so that a model whose difference is larger passes them in at most 5 of 100 runs, as far as the records for "
    "comparison are like those to forget.",
    "not_forgotten": "This is a measurement. The tests are made so that a model that did forget is accused in at most "
    "5 of 100 runs.",
    "over_forgotten": "This is a measurement. The tests are made so that a model that treats the records like unseen "
    "ones is accused in at most 5 of 100 runs.",
    "undecided": "The measurements show neither forgetting nor remembering, and that is no sign of forgetting. "
    "Section 5 says why.",
}

PAIRED = {
    "original": "Before the unlearning",
    "unlearned": "This model",
    "retrained": "Trained again without them",
}

ROAD = {
    "exact": "the exact one: the fine-tuning begins at a model from before the records came in",
    "approximate": "the approximate one: the fine-tuning begins at a model that the records have shaped",
    "as_asked": "none was chosen: the method was named by whoever started the run",
}


class Point(NamedTuple):
    """A point of a list: a short sentence, and what else there is to say about it."""

    short: str
    text: str


class Pairs(NamedTuple):
    """What the deciding attack makes of pairs of records under one model: its AUC."""

    model: str
    auc: Estimate


def asked(audited: Audited) -> list[str]:
    """What was asked, a sentence each."""
    found = _request(audited.report)
    earlier = audited.ledger.ledger.runs[:-1] if audited.ledger.ledger is not None else []
    if earlier:
        found.append(
            f"Before that, {_count(len(earlier), 'earlier run')} had made it forget "
            f"{_count(sum(run.rows for run in earlier), 'record')} (section 7)."
        )
    return found


def _request(report: UnlearningReport) -> list[str]:
    audit = report.audit
    if audit is None:
        scored = report.arms["unlearned"].sets.get("forget")
        of = f" The tests looked at {_count(scored.records, 'record')} of them." if scored else ""
        return [f"Some records were to be forgotten; the report does not say how many the request came to.{of}"]
    found = [
        f"{_count(audit.forget_rows, 'record')} of the {audit.dataset_rows:,} that the model was trained on were to "
        "be forgotten."
    ]
    if audit.ids_requested:
        found.append(
            f"The request named {_count(audit.ids_requested, 'id or value', 'ids or values')}. Found in the data set: "
            f"{audit.ids_matched:,}. Missing: {f'{audit.ids_unmatched:,}' if audit.ids_unmatched else 'none'}."
        )
    if audit.duplicates_forgotten:
        found.append(
            f"{_count(audit.duplicates_forgotten, 'of these records is a copy', 'of these records are copies')} of "
            "others, found by the text and forgotten too."
        )
    return found


def done(report: UnlearningReport) -> list[str]:
    """What was done, a sentence each."""
    method, row = report.method, METHODS.get(report.method.name)
    if row is None:
        found = ["Another tool made this model; how, the report does not say. It was measured here."]
    elif method.checkpoint is not None:
        found = [
            "The training went back to an earlier state of the model, and on from there with the records that stay."
        ]
    elif method.alpha is not None and row.is_clean(method.alpha):
        start = f"at {report.base.name}" if report.base is not None and row.uses_base else "at fresh weights"
        found = [f"The training began again, {start}, and used nothing but the records that stay."]
    else:
        found = [f"The training went on from the model that had learned the records. {method.summary}"]
    if method.trained_on_forget:
        found.append("For that the records to forget were used once more, and not only measured.")
    share = report.cost.training_ratio if report.cost else None
    if share is not None:
        found.append(f"That took {100 * share:.0f} % of the computing that training again without the records takes.")
    return found


def known(report: UnlearningReport) -> list[str]:
    """What is known and how sure it is, a sentence each."""
    verdict = report.verdict
    found = [SURENESS[verdict.word]]
    if verdict.gap is None:
        found.append("Nothing was measured against records that no model saw, because none were given.")
    if (
        verdict.word == "undecided"
        and verdict.smallest_margin is not None
        and verdict.smallest_margin > verdict.margin
    ):
        found.append(
            f"With so few records the tests can rule out a difference of {100 * verdict.smallest_margin:.0f} in 100, "
            f"and not, as was asked, one of {100 * verdict.margin:.0f}."
        )
    return found


def pairs(report: UnlearningReport) -> list[Pairs]:
    """The deciding attack under each model; empty without held-out records.

    An AUC is the probability that of a record of S and one of H the first has the higher score (Hanley and McNeil
    1982, doi:10.1148/radiology.143.1.7063747).
    """
    found = {arm: deciding_auc(report, arm) for arm in PAIRED if arm in report.arms}
    return [Pairs(PAIRED[arm], auc) for arm, auc in found.items() if auc is not None]


def deciding_auc(report: UnlearningReport, arm: str) -> Estimate | None:
    """The membership AUC of the attack that decided, under one of the models."""
    attack, entry = report.verdict.attack, report.arms[arm]
    if attack is not None and attack in entry.attacks:
        return entry.attacks[attack].auc
    return entry.membership_auc


def guaranteed(report: UnlearningReport) -> list[str]:
    """What is guaranteed, and what that rests on; empty when nothing is."""
    if report.verdict.word != "exact":
        return []
    return [
        "The weights that this run made never depended on the records it was to forget, for the stage of training "
        "that the reasons above name. The training began at weights that these records had not shaped in that stage, "
        "and it used the retained records only, among which no copy of a forgotten record was left (the same text up "
        "to case, white space and Unicode form).",
        "That holds however good the attacks are, because it follows from how the model was made. It rests on the "
        "run's own account of where the training began and which records it used; whoever wants to check that repeats "
        "the run.",
    ]


def measured(report: UnlearningReport) -> list[str]:
    """What is measured, and how far that goes."""
    verdict, sets = report.verdict, report.arms["unlearned"].sets
    if verdict.gap is None:
        return ["Without held-out records nothing was measured that could speak for or against the forgetting."]
    attacks = [_attack(name) for name in verdict.attacks or ["loss"]]
    tests = "One test was made: by " if len(attacks) == 1 else f"{len(attacks)} tests were made: by "
    on = ""
    if "forget" in sets and "holdout" in sets:
        on = f", on {sets['forget'].records:,} forgotten and {sets['holdout'].records:,} held-out records"
    compared = (
        "what they find in a model that was trained again without the records"
        if verdict.compared_with == "retrained"
        else "guessing"
    )
    gap = verdict.gap
    found = [
        f"{tests}{', '.join(attacks)}{on}, against {compared}.",
        f"The test that decided lies {gap.value:+.2f} from that, in AUC (95 % interval {gap.low:+.2f} to "
        f"{gap.high:+.2f}); ±{verdict.margin:.2f} counts as no difference.",
    ]
    if verdict.blind is not None:
        blind = verdict.blind.auc
        found.append(
            f"By their texts alone, without any model, S is told from H with an AUC of {blind.value:.2f} (95 % "
            f"interval {blind.low:.2f} to {blind.high:.2f}). The further that is from 0.5, the less H says about S."
        )
    return found


def not_measured(report: UnlearningReport, missing_pictures: list[str]) -> list[Point]:
    """What was not looked at, and what would look."""
    unlearned, facts = report.arms["unlearned"], TASKS[report.task]
    known = [
        (
            unlearned.membership_auc,
            "No records that no model saw were given.",
            "Without them no attack can be judged.",
        ),
        (
            "retrained" in report.arms or report.references,
            "No model was trained without the records.",
            "The attacks are compared with guessing. The flag --with_retrained trains one.",
        ),
        (
            "original" in report.arms,
            "The model from before was not measured.",
            "What it knew is not known here.",
        ),
        (
            report.verdict.blind,
            "Nobody looked whether the held-out records differ from the forgotten ones.",
            "If they differ by nature, an attack tells them apart without any memory.",
        ),
        (
            unlearned.generation or not (facts.next_token or facts.two_texts),
            "What the model writes was not looked at.",
            "The flag --generate_records does.",
        ),
        (
            report.harness or report.task != "text-generation",
            "Other tasks were not measured.",
            "The flag --lm_eval_tasks does.",
        ),
    ]
    found = [Point(short, text) for there, short, text in known if not there]
    found.append(
        Point(
            "Whether training, rounding or other prompts bring the records back is not on this page.",
            "The command hf-unlearn attack looks for it and writes a report of its own.",
        )
    )
    if missing_pictures:
        found.append(Point("Some pictures are missing.", f"There are none of: {'; '.join(missing_pictures)}."))
    return found


def not_guaranteed(report: UnlearningReport) -> list[Point]:
    """What this model's verdict does not promise."""
    adapter_of = report.method.adapter_of
    found = [_weights(report)]
    if adapter_of is not None and adapter_of == report.original:
        found.append(
            Point(
                "The weights under the adapter still know the records.",
                f"This is an adapter on top of {adapter_of.name}, whose own weights saw the forgotten records and are "
                "in use wherever the adapter is.",
            )
        )
    return [
        *found,
        Point(
            "What resembles the records and stayed may teach them again.",
            "Near copies, translations and quotations of a forgotten record teach the model what the record taught, "
            "as far as they stayed in the retained data. Section 2 says what was looked for.",
        ),
        Point(
            "What other records say of the same people or facts stays known.",
            "Only the records named were taken out. What the retained records say of the same people or facts the "
            "model may know, and is meant to.",
        ),
        Point(
            "The model from before, and models made from it, still know the records.",
            f"Sections 8 and 9 say what is known about them. {BEFORE_AND_AFTER}",
        ),
        Point(
            "Whether the records were deleted elsewhere is not looked at.",
            "This page is about a model, not about data sets, backups and logs.",
        ),
        Point(
            "Whether a legal duty is met is for others to judge.",
            "The page states technical facts and no more.",
        ),
    ]


def _weights(report: UnlearningReport) -> Point:
    """What is not guaranteed of the weights themselves."""
    if report.verdict.word == "exact":
        of_base = {
            "stated": "That the model it began at never saw the records is its owner's statement, and not found here.",
            "checked": "Whether the model it began at had seen the records was tested, and no sign of them was found; "
            "a test can miss them.",
            "unchecked": "Nobody looked whether the model it began at had seen the records before.",
        }.get(_base_is_clean(report) or "", "What is known of earlier stages is in the reasons of section 5.")
        return Point(
            "What other stages of training took from the records is not covered.",
            f"The guarantee covers the stage that section 5 names and no other. {of_base}",
        )
    if report.verdict.word in ("not_forgotten", "over_forgotten"):
        return Point(
            "The weights do hold something of the records.",
            "The tests show it. What else of the records the weights hold they do not show.",
        )
    return Point(
        "The weights may hold something of the records that no test has found.",
        "The verdict rests on measurements. A stronger attack may find what these did not, and a figure for all "
        "records together can hide single ones that are still known.",
    )


def remaining(audited: Audited) -> list[Point]:
    """What remains to be done about the model and its records, as far as is known."""
    found = [*_of_the_verdict(audited.report), *_of_the_request(audited.report)]
    if audited.ledger.trouble is not None:
        found.insert(0, Point("Find out why the ledger of requests does not hold.", audited.ledger.trouble))
    return [*found, *_of_the_old_weights(audited.old_weights), *_of_the_derived(audited.derived)]


def _of_the_verdict(report: UnlearningReport) -> list[Point]:
    word = report.verdict.word
    found = []
    if word in ("not_forgotten", "over_forgotten"):
        found.append(
            Point(
                "Unlearn again, by another method.",
                "This model must not be presented as one that has forgotten. The surest way is to begin again at a "
                "model from before the records came in, or to train again without them.",
            )
        )
    elif word in ("undecided", "certified"):
        found.append(
            Point(
                "Find out whether it has forgotten.",
                "More held-out records, or such as are more like those to forget, or models that were trained without "
                "the records, to compare with (hf-unlearn references), make a decision possible.",
            )
        )
    elif word == "not_distinguished":
        found.append(
            Point(
                "Test again when stronger tests are known.",
                "The finding holds for the tests named here, and hf-unlearn attack tries to bring the records back.",
            )
        )
    elif _base_is_clean(report) == "unchecked":
        found.append(
            Point(
                "Find out whether the model it began at had seen the records.",
                "If the model that the training began at learned from the same records, it still knows what it took "
                "from them.",
            )
        )
    if report.verdict.warnings:
        found.append(Point("Look into the warnings of the verdict.", "They are in section 5."))
    return found


def _of_the_request(report: UnlearningReport) -> list[Point]:
    audit = report.audit
    copies = None if audit is None else audit.duplicates_retained
    near = None if audit is None else audit.near_duplicates_retained
    found = []
    if copies or near:
        found.append(
            Point(
                "Take what copies or resembles the records out of what stays, and unlearn again.",
                f"{_count(copies or 0, 'copy', 'copies')} and {_count(near or 0, 'near copy', 'near copies')} of "
                "forgotten records kept teaching them.",
            )
        )
    if copies is None:
        found.append(Point("Look for copies of the records in what stays.", "Nobody looked for them."))
    if near is None:
        found.append(Point("Look for near copies and quotations in what stays.", "Nobody looked for them."))
    if audit is not None and audit.ids_unmatched:
        found.append(
            Point(
                "Find out why a part of the request was not in the data set.",
                f"{_count(audit.ids_unmatched, 'id or value', 'ids or values')} of the request were not found. They "
                "may never have been there, or be written in another way.",
            )
        )
    found.append(
        Point(
            "Delete the records themselves, wherever they are.",
            "They may be in the data set and its history, in backups, logs, checkpoints and copies of any of these.",
        )
    )
    return found


def _base_is_clean(report: UnlearningReport) -> BaseIsClean | None:
    # Reports from before this was asked do not say it.
    return report.base_is_clean or ("unchecked" if report.base is not None else None)


def _of_the_old_weights(old: OldWeights) -> list[Point]:
    if old.gone:
        return []
    if old.repo is None:
        return [Point("Delete the old weights.", "They are where the owner keeps them; nobody looked.")]
    text = f"Nothing shows that they are gone from {old.repo}. The command hf-unlearn erase takes them away there."
    return [Point("Erase the old weights.", text)]


def _of_the_derived(check: DerivedCheck) -> list[Point]:
    if check.found is None:
        return [Point("Find out which models were made from the old one.", "Nobody could look; section 9 says why.")]
    if check.old:
        return [
            Point(
                f"Ask the owners of {_count(len(check.old), 'model')} made from the old one to make them again.",
                "They are in section 9. A text for each owner is written by hf-unlearn derived.",
            )
        ]
    return []


def _attack(name: str) -> str:
    return (ATTACKS | OUTSIDE_ATTACKS).get(name, name)


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
