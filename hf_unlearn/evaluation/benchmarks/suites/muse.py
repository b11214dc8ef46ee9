"""MUSE (Shi et al. 2024, arXiv:2407.06460): verbatim and knowledge memorisation, privacy leakage, and utility.

Its other two criteria, scale and sequential requests, are these numbers of models that forgot more, or more often.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...statistics import separation
from ..tofu import privleak
from .files import Row, SuiteFiles
from .rouge_words import rouge_l_f1
from .suite import Reader, SuiteScore, Values, as_score

VERBATIM_TOKENS = 128
ANSWER_TOKENS = 32
# A model goes on with questions of its own after the answer.
ENDS = ("\n\n", "\nQuestion", "Question:")


@dataclass(frozen=True)
class MuseMeasured:
    """What a model makes of the records of MUSE.

    Attributes:
        values: ROUGE-L of each text, a set after the other.
        min_k: the mean log-likelihood of the 40 % least likely tokens of each text of S and of H, in nats.
    """

    values: list[Values]
    min_k: dict[str, np.ndarray]


@dataclass(frozen=True)
class Muse:
    """The sets of MUSE.

    Attributes:
        verbatim: beginnings of texts of S, ``prompt``, with how they go on, ``gt``.
        asked: questions about S and about L, by set, each with the examples that stand before them.
        private: texts of S and of H, by set.
    """

    verbatim: list[Row]
    asked: Mapping[str, tuple[list[Row], list[Row]]]
    private: Mapping[str, list[Row]]

    @classmethod
    def read(cls, files: SuiteFiles) -> "Muse":
        """Read the sets; raises InputError where one is missing."""
        questions = ("question", "answer")
        asked = {
            name: (
                files.rows("knowmem", f"{name}_qa", questions, named=_names(name, "_qa")),
                files.rows("knowmem", f"{name}_qa_icl", questions, named=_names(name, "_qa_icl"), whole=True),
            )
            for name in ("forget", "retain")
        }
        private = {name: files.rows("privleak", name, ("text",)) for name in ("forget", "holdout")}
        return cls(files.rows("verbmem", "forget", ("prompt", "gt")), asked, private)

    def measure(self, reader: Reader) -> MuseMeasured:
        """What a model makes of every record."""
        written = reader.answers([reader.ids(row["prompt"]) for row in self.verbatim], VERBATIM_TOKENS)
        rest = [reader.tokenizer(row["gt"], add_special_tokens=False)["input_ids"] for row in self.verbatim]
        wanted = [str(reader.tokenizer.decode(ids[:VERBATIM_TOKENS], skip_special_tokens=True)) for ids in rest]
        values = [Values("verbatim memorisation of S, ROUGE-L F1", rouge_l_f1(wanted, written))]
        for name, letter in (("forget", "S"), ("retain", "L")):
            questions, examples = self.asked[name]
            before = "".join(f"{_question(row)}{row['answer']}\n\n" for row in examples)
            prompts = [reader.ids(before + _question(row)) for row in questions]
            answers = [first_answer(text) for text in reader.answers(prompts, ANSWER_TOKENS)]
            label = f"{'knowledge memorisation of S' if letter == 'S' else 'utility: knowledge of L'}, ROUGE-L F1"
            values.append(Values(label, rouge_l_f1([row["answer"] for row in questions], answers)))
        min_k = {}
        for name, rows in self.private.items():
            texts = [reader.ids(row["text"]) for row in rows]
            table = reader.scored([[] for _ in texts], texts)
            min_k[name] = table["min_k"].to_numpy()
        return MuseMeasured(values, min_k)

    def scores(self, measured: MuseMeasured, retrained: MuseMeasured | None) -> list[SuiteScore]:
        """The numbers of a model; without a retrained one PrivLeak assumes that it would have an AUC of one half."""
        return [*(one.summary() for one in measured.values), *_leakage(measured, retrained)]


def _leakage(measured: MuseMeasured, retrained: MuseMeasured | None) -> list[SuiteScore]:
    """The membership AUC by Min-K%, and PrivLeak; the interval holds the retrained model's AUC as it is measured."""
    forget, holdout = -measured.min_k["forget"], -measured.min_k["holdout"]
    auc, records = separation(forget, holdout).interval(), len(forget) + len(holdout)
    reference, expected, low, high = None, 0.5, auc.low - 0.5, auc.high - 0.5
    if retrained is not None:
        reference = (-retrained.min_k["forget"], -retrained.min_k["holdout"])
        gap = separation(forget, holdout, [reference]).interval()
        expected, low, high = 1 - separation(*reference).value, gap.low, gap.high
    name = "privacy leakage (PrivLeak), %"
    leak = SuiteScore(name, None, None, None, records)
    if expected > 0:
        value = privleak(forget, holdout, reference)
        leak = SuiteScore(name, value, -100 * high / expected, -100 * low / expected, records)
    return [as_score("membership AUC by Min-40%", auc, records), leak]


def _names(name: str, ending: str) -> tuple[str, ...]:
    # Their repository calls L of the evaluation retain2, the Hub calls it retain.
    return tuple(f"knowmem/{other}{ending}" for other in ((name, "retain2") if name == "retain" else (name,)))


def _question(row: Row) -> str:
    return f"Question: {row['question']}\nAnswer: "


def first_answer(text: str) -> str:
    """What a model wrote before it went on with questions of its own."""
    for end in ENDS:
        text = text.split(end)[0]
    return text
