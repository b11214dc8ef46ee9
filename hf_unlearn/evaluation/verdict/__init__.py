"""The verdict: one word for what is known about the forgetting, with the numbers it rests on.

Provenance alone decides ``exact``. Everything else is measured, and the strongest word for a measurement is
``not_distinguished``: by these attacks, on so many records. Accuracy never decides.
"""

from .base_check import check_base
from .decision import decide
from .facts import ATTACKS, LARGEST_MARGIN, OTHER_FORMS, BaseIsClean, Provenance, Scores, Verdict, VerdictWord

__all__ = [
    "ATTACKS",
    "LARGEST_MARGIN",
    "OTHER_FORMS",
    "BaseIsClean",
    "Provenance",
    "Scores",
    "Verdict",
    "VerdictWord",
    "check_base",
    "decide",
]
