"""The report: one plain object from which the console, the card, the pictures and the tests all read.

``unlearning_report.json`` is this object as JSON (schema version 1): the attributes of :class:`UnlearningReport` and
of the dataclasses it holds, documented below, are its keys. Numbers are plain floats; what is unknown is null.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data.alternates_file import AlternatesEntry
from ..data.request.attempts import AttemptCount
from ..data.short_table import ShortTable, Shown
from ..data.split import SplitAudit
from ..files import json_values, load_json, save_json
from ..models.tasks import Task
from ..models.training_record import DataSource
from .harness import HarnessScore
from .membership import AttackResult
from .router_rates import RouterEntry
from .statistics import Estimate
from .utility.comparison import LossOf, Utility
from .verdict import BaseIsClean, Verdict
from .wording import ARM_NAMES, VERDICTS, beside_verdict, show

REPORT_FILE = "unlearning_report.json"
REPORT_VERSION = 1
DROPPED = {"plateau"}  # what reports held before

SetName = Literal["forget", "holdout", "retained", "test"]
LETTERS = {"forget": "S", "holdout": "H", "retained": "L", "test": "the test split"}


@dataclass(frozen=True)
class ModelEntry:
    """A model.

    Attributes:
        name: its Hub id, or the name of its folder.
        revision: its commit on the Hub.
        on_hub: whether the name is a Hub id.
    """

    name: str
    revision: str | None
    on_hub: bool


@dataclass(frozen=True)
class UsefulnessPoint:
    """How useful the model was at one mark of a training that ends once more of it would bring little.

    The average of the last weights is measured, on records of L that are held out and on some that are trained on.

    Attributes:
        share: of the original's epochs.
        step: after which.
        held_out_loss, trained_loss: mean losses in nats.
        held_out_right, trained_right: shares of the predictions that are right.
        gain_of: what the gain is measured in, as in :class:`~hf_unlearn.evaluation.utility.comparison.Utility`; None
            at the first mark.
        gain: since the mark before, or what was left to gain where that is less, with its 90 % interval; of the two
            sets, where it is larger.
        flattened: whether it lies below the margin.
        left: whether it is what was left to gain.
    """

    share: float
    step: int
    held_out_loss: float
    trained_loss: float
    held_out_right: float
    trained_right: float
    gain_of: LossOf | None
    gain: Estimate | None
    flattened: bool
    left: bool = False


@dataclass(frozen=True)
class MethodEntry:
    """How the model was unlearned.

    Attributes:
        name: the method; ``unknown`` for a model that another tool made.
        summary: one sentence.
        source: where the method was published.
        alpha: how far the start lay from the original (0) to the base model or a fresh model (1).
        budget: epochs as a fraction of the original training's, None when they were set directly.
        epochs, steps: trained.
        seed: of data order, dropout and new weights.
        settings: the training arguments that matter.
        lora: the LoRA settings, None for full training.
        adapter_of: the model that the result is an adapter of; None for a full model, merged or not.
        stopped_early: whether training stopped because nothing distinguished S from H, or S was treated worse.
        stop_reason: why, in words that begin with ``forgotten`` or ``overshoot``, with the tests' values.
        checkpoint: the name of the checkpoint of the original's training that the fine-tuning began at.
        start: the method whose start was taken, None for its own.
        options: its other settings.
        trained_on_forget: whether S was trained on; otherwise it was only measured.
        alternates: what it was to say in the place of S, None where nothing was written for that.
        fitted: why the settings differ from those of the original's training record; empty where they do not.
        usefulness: the curve that ended the training, or might have; None where nothing watched it.
        classes: of an adapter's head, which the model under it may lack; None for other models.
        repeated: records of S that an epoch had twice, so that all processes took equally many.
    """

    name: str
    summary: str
    source: str
    alpha: float | None
    budget: float | None
    epochs: float | None
    steps: int | None
    seed: int | None
    settings: dict[str, Any]
    lora: dict[str, Any] | None
    adapter_of: ModelEntry | None
    stopped_early: bool
    stop_reason: str | None = None
    checkpoint: str | None = None
    start: str | None = None
    options: dict[str, float] = field(default_factory=dict)
    trained_on_forget: bool = False
    alternates: AlternatesEntry | None = None
    fitted: str = ""
    usefulness: list[UsefulnessPoint] | None = None
    classes: int | None = None
    repeated: int = 0


@dataclass(frozen=True)
class CostEntry:
    """What it cost.

    Attributes:
        seconds: wall-clock time of training with the measuring in it.
        measuring_seconds: of that, and of the measurements before and after, the measuring.
        tokens: tokens trained on, without padding.
        flops: floating point operations of the training, padding included, adapters accounted for.
        measuring_flops: those of all measuring of the original and the unlearned model that this run did itself.
        peak_memory_bytes: most memory held: of the accelerator, else resident memory of the process.
        retraining_flops: what training A(L) costs, from the reference or the training record; None when unknown.
        training_ratio: flops / retraining_flops, None when unknown.
        total_ratio: (flops + measuring_flops) / retraining_flops, None when unknown.
        kept_flops: what the measurements of the original cost that an earlier run had made; in no ratio.
    """

    seconds: float
    measuring_seconds: float
    tokens: int
    flops: float
    measuring_flops: float
    peak_memory_bytes: int
    retraining_flops: float | None
    training_ratio: float | None
    total_ratio: float | None
    kept_flops: float = 0.0

    @property
    def sentence(self) -> str:
        """What it cost, beside what a retraining costs."""
        measuring = f"{self.measuring_flops:.2g} for measuring"
        spent = f"Cost: {self.seconds:.0f} s, {self.flops:.2g} FLOPs for training, {measuring}"
        if self.kept_flops:
            spent += f" ({self.kept_flops:.2g} more by an earlier run)"
        if self.training_ratio is None or self.total_ratio is None:
            return f"{spent}. The cost of retraining is unknown: there is no training record."
        return f"{spent}. That is {self.training_ratio:.0%} of retraining, {self.total_ratio:.0%} with the measuring."


@dataclass(frozen=True)
class SetScores:
    """What a model makes of a set of records.

    Attributes:
        records: how many were scored.
        loss: mean loss in nats, per token for a language model, per word for a classifier of words.
        accuracy: share of records, or of words, classified correctly (classifiers).
        perplexity: exp(loss) (language models, masked ones and encoder-decoders).
        sampled: whether the set is larger and this is a random part of it.
        probability: mean over records of exp(-loss of the record) (language models of all kinds).
        exact_memorization: mean share of a record's tokens that greedy decoding gives (language models of all kinds).
        extraction_strength: mean share at the end of a record that greedy decoding gives (all but masked ones).
        macro_f1: mean F1 of the classes that the records have, as scikit-learn defines it (classifiers).
        entity_f1: F1 of all entities together, as seqeval 1.2.2 defines it (classifiers of words, by BIO tags).
        recall: share that is found of each class, or of each type of entity (classifiers); empty for S, whose classes
            may be nobody else's.
        corrected: share of wrong labels for which the corrected one is given; None where no such label is known.
    """

    records: int
    loss: Estimate
    accuracy: Estimate | None
    perplexity: Estimate | None
    sampled: bool
    probability: Estimate | None = None
    exact_memorization: Estimate | None = None
    extraction_strength: Estimate | None = None
    macro_f1: Estimate | None = None
    entity_f1: Estimate | None = None
    recall: dict[str, Estimate] = field(default_factory=dict)
    corrected: Estimate | None = None


@dataclass(frozen=True)
class GenerationScores:
    """What a model writes, by greedy decoding, when it is shown the beginning of some records of a set.

    Attributes:
        records: how many it was shown.
        rouge_l_recall: mean ROUGE-L recall of the true text in what it writes after the prompt, or after the first
            tokens of a text without one; None where no text has a word.
        refusal_rate: share of these in which it says that it does not know or will not tell.
        extracted: by the number of tokens of the text that it was given besides the prompt, the share of texts whose
            next 50 tokens (or what is left of them) it writes without a mistake.
        rouge_l: mean F-measure of ROUGE-L where the recall is its mean; None in older reports, too.
        exact_match: share of texts that it writes as they are, without a word more; None in older reports.
    """

    records: int
    rouge_l_recall: Estimate | None
    refusal_rate: Estimate
    extracted: dict[str, Estimate]
    rouge_l: Estimate | None = None
    exact_match: Estimate | None = None


@dataclass(frozen=True)
class ArmEntry:
    """One model under the same measurements.

    Attributes:
        sets: by ``forget`` (S), ``holdout`` (H), ``retained`` (L) and ``test``.
        membership_auc: how well its loss distinguishes S from H, None without H.
        attacks: what each attack is worth, by its name in :data:`~hf_unlearn.evaluation.verdict.ATTACKS`; with two
            retrained references or more, also in :data:`~hf_unlearn.evaluation.wording.OUTSIDE_ATTACKS`.
        generation: what it writes, by set; where it was asked for and the texts are long enough.
        pair_auc: how well the change of each loss since the original distinguishes S from H; None where unknown.
    """

    sets: dict[str, SetScores]
    membership_auc: Estimate | None
    attacks: dict[str, AttackResult] = field(default_factory=dict)
    generation: dict[str, GenerationScores] = field(default_factory=dict)
    pair_auc: Estimate | None = None


@dataclass(frozen=True)
class Spread:
    """Of one number for each of several models the mean, the standard deviation (None for one model), the extremes."""

    mean: float
    deviation: float | None
    lowest: float
    highest: float


@dataclass(frozen=True)
class ReferenceEntry:
    """What the models of one kind, which differ in their seed alone, make of the records.

    Attributes:
        seeds: of the models.
        losses: the mean loss of a record over all models in nats, by set.
        aucs: of each attack, over the models; empty without H.
    """

    seeds: list[int]
    losses: dict[str, float]
    aucs: dict[str, Spread]


@dataclass(frozen=True)
class CurvePoint:
    """One measurement during training.

    Attributes:
        step: after which.
        forget_loss, holdout_loss, retained_loss: means over records.
        membership_auc, membership_auc_low, membership_auc_high: of the loss, with its 90 % interval.
        worst_gap, worst_gap_low, worst_gap_high: of the attack that decided, its AUC less 0.5, with its 95 % interval;
            None where training was not to stop early.
    """

    step: int
    forget_loss: float | None
    holdout_loss: float | None
    retained_loss: float | None
    membership_auc: float | None
    membership_auc_low: float | None
    membership_auc_high: float | None
    worst_gap: float | None = None
    worst_gap_low: float | None = None
    worst_gap_high: float | None = None


@dataclass(frozen=True)
class TrialEntry:
    """Something that was tried on the way to the result, and what it cost.

    Attributes:
        name: of its folder; ``original`` is the model from before as it is.
        method, alpha: as in :class:`MethodEntry`.
        cost: at which price; ``training_ratio`` is its share of retraining's operations.
        measured_on: ``all`` of S and H, or the half of each that was kept for a ``search``.
        membership_auc: how well its loss distinguishes S from H there, None without H.
        told: whether the verdict's tests distinguish S from the reference there; None where nobody asked.
        utility: compared with the original, None where nobody asked.
        outcome: what was found and done, in words.
    """

    name: str
    method: str
    alpha: float | None
    cost: CostEntry
    measured_on: Literal["all", "search"]
    membership_auc: Estimate | None
    told: bool | None
    utility: Utility | None
    outcome: str = ""


@dataclass(frozen=True)
class Road:
    """Which way was taken, and why.

    Attributes:
        taken: ``exact``: the fine-tuning begins at the base, so that it is exact where the base is clean;
            ``approximate``; ``as_asked``: the user named the method.
        reasons: why, in words.
        trials: all that were made, in their order, the result's own among them where it was one.
    """

    taken: Literal["exact", "approximate", "as_asked"] = "as_asked"
    reasons: list[str] = field(default_factory=list)
    trials: list[TrialEntry] = field(default_factory=list)


@dataclass(frozen=True)
class LedgerNote:
    """What ties a report to the line that the ledger has about the same run; see :mod:`~hf_unlearn.publishing.ledger`.

    Attributes:
        lines: of the ledger before that line.
        statement: SHA-256 of the line without the digests of the weights and of the report.
    """

    lines: int
    statement: str


@dataclass(frozen=True)
class MeasuredWeights:
    """Which weights were measured, so that no others are published.

    Attributes:
        digest: SHA-256 of all weights, see :func:`~hf_unlearn.models.weights_digest.weights_digest`; None where they
            were sharded over processes.
        dtype: the number format they were in, such as ``float32``.
        base: SHA-256 of each file of weights under an adapter, by name; None for a full model.
    """

    digest: str | None
    dtype: str
    base: dict[str, str] | None


@dataclass(frozen=True)
class ShardsEntry:
    """What a deletion did to a model that is dealt into adapters by owner.

    Attributes:
        adapters: how many there were.
        retrained: the numbers of those that were trained again without S.
        dropped: the numbers of those that are gone.
        kept: how many are byte for byte as before.
        unproven: how many of these were trained on other rows than the data set has for them now.
        price: record passes that were made again, as a share of those of a training of all that stay.
        copies_elsewhere: rows with a text of S in shards that it was not in; None where nobody looked.
        unknown: what answers to a deleted owner now, ``base`` or ``vote``.
    """

    adapters: int
    retrained: list[int]
    dropped: list[int]
    kept: int
    unproven: int
    price: float
    copies_elsewhere: int | None
    unknown: str


@dataclass(frozen=True)
class UnlearningReport(Shown):
    """The evidence about one unlearned model.

    Attributes:
        task: what the model does, one of the keys of :data:`~hf_unlearn.models.tasks.TASKS`.
        original, base: the models; the base is None when unknown.
        dataset: where D came from.
        audit: what the request did to D, in counts; None when the split was made elsewhere.
        method: how.
        cost: at which price; None for a model that another tool made.
        arms: ``original``, ``unlearned`` and, when there is one, ``retrained``.
        curve: the measurements during training.
        verdict: what is known.
        judged_on_part: whether S and H are the halves that neither the training nor a search looked at.
        licence: of the model it derives from, None when unknown.
        created: UTC, ISO 8601.
        software: versions.
        hardware: device and number of processes.
        schema_version: 1.
        references: by arm of ``TrainedReference``, the models to compare with; the attacks that need some took those
            of ``retrained``, without the arm ``retrained`` itself when it is among them.
        utility: what the unlearning cost in utility; None where there was nothing to compare.
        group_column: the column that says whose record it is, None where records count as independent.
        harness: what each model does on tasks of lm-evaluation-harness, by its name in ``arms``.
        road: which way to the result was chosen; the cost holds that of all trials.
        base_is_clean: whether the base that the fine-tuning began at never saw S: ``stated`` by the user; ``checked``:
            its own membership tests do not distinguish S from H; ``doubtful``: they do; ``unchecked``; None where it
            did not begin at a base.
        weights_moved: whether a weight differs from the original's; None where nobody could compare them.
        ledger: the line of the ledger beside the report that is about this run; None where no ledger was kept.
        attempts: which attempt on the same records this is; None where nobody counted.
        measured: the weights that the report is about; None in older reports and for a model that another tool made.
        shards: what was done to each adapter of a sharded model; None for other models.
        router: how often a router of a sharded model errs; None where no sentence encoder was named.
        given: the settings that `hf-unlearn run` was given, by name, in which nothing names a record or a folder of
            the machine; empty for other reports.
    """

    task: Task
    original: ModelEntry | None
    base: ModelEntry | None
    dataset: DataSource
    audit: SplitAudit | None
    method: MethodEntry
    cost: CostEntry | None
    arms: dict[str, ArmEntry]
    curve: list[CurvePoint]
    verdict: Verdict
    judged_on_part: bool
    licence: str | None
    created: str
    software: dict[str, str]
    hardware: dict[str, str]
    schema_version: int = REPORT_VERSION
    references: dict[str, ReferenceEntry] = field(default_factory=dict)
    utility: Utility | None = None
    group_column: str | None = None
    harness: dict[str, list[HarnessScore]] = field(default_factory=dict)
    road: Road = field(default_factory=Road)
    base_is_clean: BaseIsClean | None = None
    ledger: LedgerNote | None = None
    weights_moved: bool | None = None
    attempts: AttemptCount | None = None
    measured: MeasuredWeights | None = None
    shards: ShardsEntry | None = None
    router: RouterEntry | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return json_values(self)

    def short_table(self) -> ShortTable:
        """The verdict, what it means, the losses and the membership AUC of each model, the utility and the price."""
        arms = {arm: self.arms[arm] for arm in ARM_NAMES if arm in self.arms}
        rows: list[tuple[str, ...]] = []
        for name, scores in self.arms["unlearned"].sets.items():
            quality = "perplexity" if scores.accuracy is None else "accuracy"
            for measure in ("loss", quality):
                found = [vars(arm.sets[name])[measure] if name in arm.sets else None for arm in arms.values()]
                if any(found):
                    label = f"{measure} of {LETTERS.get(name, name)}" + f", n={scores.records:,}" * (measure == "loss")
                    rows.append((label, *(show(one, 2) for one in found)))
        if self.arms["unlearned"].membership_auc:
            rows.append(("membership AUC of S", *(show(arm.membership_auc, 2) for arm in arms.values())))
        verdict, lines = self.verdict, [VERDICTS[self.verdict.word]]
        if len(verdict.warnings) > 2:
            lines.append(f"Warning: {len(verdict.warnings)} things weaken this; see verdict.warnings.")
        else:
            lines += [f"Warning: {line}" for line in verdict.warnings]
        if self.weights_moved is False:
            lines.append("Warning: All weights are those of the original, so nothing was unlearned.")
        if self.utility:
            lines.append(f"Utility {self.utility.word}. {self.utility.sentence}")
        if self.cost:
            lines.append(self.cost.sentence)
        title = f"{self.method.name}: {verdict.word}{beside_verdict(verdict)}"
        return ShortTable(title, [ARM_NAMES[arm] for arm in arms], rows, lines)

    def save(self, path: Path) -> None:
        """Write the report, all of it or nothing."""
        save_json(self, path)

    @classmethod
    def load(cls, path: Path) -> "UnlearningReport":
        """Read a report; raises InputError when there is none or it is of another version."""
        return load_json(cls, path, "report", REPORT_VERSION, dropped=DROPPED)
