"""The page for an auditor: one HTML file with all that is known about a finished run and what came after it."""

import base64
from datetime import UTC, datetime

from markupsafe import Markup

from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..evaluation.statistics import Estimate
from ..evaluation.verdict import ATTACKS
from ..evaluation.verdict.sentences import WHOLE
from ..evaluation.wording import ARM_NAMES, OUTSIDE_ATTACKS, PICTURES, attempt_words, beside_word
from ..models.training_record import software_versions
from ..publishing.ledger import Erased
from ..publishing.sections import Rows, method_of, shared_values
from ..publishing.templating import environment
from .audit_facts import Audited
from .derived_models import SHOWN_MODELS
from .erase_report import GIVES

PAIRED = {
    "original": "Before the unlearning",
    "unlearned": "This model",
    "retrained": "Trained again without them",
}

KINDS = {
    "exact": "exact: the fine-tuning begins at a model from before the records came in",
    "approximate": "approximate: the fine-tuning begins at a model that has learned the records",
    "as_asked": "as asked: whoever started the run named the method",
}


def render_page(audited: Audited) -> str:
    """Render the page; it holds nothing that a browser would fetch or run."""
    report, ledger = audited.report, audited.ledger.ledger
    return (
        environment(html=True)
        .get_template("audit.html")
        .render(
            shared_values(report, audited.places),
            audited=audited,
            report_file=REPORT_FILE,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            version=software_versions()["hf_unlearn"],
            row=method_of(report),
            arm_names=ARM_NAMES,
            attack_names=ATTACKS | OUTSIDE_ATTACKS,
            pairs=deciding_aucs(report),
            single=single_records(report),
            beside_word=beside_word,
            attempt_words=attempt_words,
            kinds=KINDS,
            whole=WHOLE,
            # Reports from before this was asked do not say it.
            base_is_clean=report.base_is_clean or ("unchecked" if report.base is not None else None),
            earlier_runs=ledger.runs[:-1] if ledger is not None else [],
            erased=[event.report for event in ledger.events if isinstance(event, Erased)]
            if ledger is not None
            else [],
            gives=GIVES,
            most_lines=SHOWN_MODELS,
            pictures={PICTURES[name]: _data_uri(content) for name, content in audited.pictures.items()},
            missing_pictures=[text for name, text in PICTURES.items() if name not in audited.pictures],
        )
    )


def deciding_aucs(report: UnlearningReport) -> dict[str, Estimate]:
    """The AUC of the attack that decided, by model; empty without held-out records.

    An AUC is the probability that of a record of S and one of H the first has the higher score (Hanley and McNeil
    1982, doi:10.1148/radiology.143.1.7063747).
    """
    attack, found = report.verdict.attack, {}
    for arm, title in PAIRED.items():
        if arm in report.arms:
            entry = report.arms[arm]
            decided = entry.attacks[attack].auc if attack in entry.attacks else entry.membership_auc
            if decided is not None:
                found[title] = decided
    return found


def single_records(report: UnlearningReport) -> Rows:
    """The share of S that each attack finds with at most 1 % of H taken for S, by model."""
    rows: Rows = []
    for attack in report.arms["unlearned"].attacks if report.arms["unlearned"].membership_auc else ():
        found = {arm: entry.attacks[attack] for arm, entry in report.arms.items() if attack in entry.attacks}
        shares = {arm: scores.tpr_at_1pct for arm, scores in found.items()}
        rows.append(((ATTACKS | OUTSIDE_ATTACKS).get(attack, attack), dict(shares)))
    return rows


def _data_uri(png: bytes) -> Markup:
    return Markup("data:image/png;base64,{}").format(base64.b64encode(png).decode())
