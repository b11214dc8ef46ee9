"""The model card: a golden file, and what must never be in it."""

import ast
import os
import re
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hf_unlearn.data.copies.search import NearAudit
from hf_unlearn.data.split import SplitAudit
from hf_unlearn.evaluation.report import (
    ArmEntry,
    CostEntry,
    CurvePoint,
    MethodEntry,
    ModelEntry,
    Road,
    SetScores,
    TrialEntry,
    UnlearningReport,
)
from hf_unlearn.evaluation.statistics import Estimate
from hf_unlearn.evaluation.utility.comparison import Utility
from hf_unlearn.evaluation.verdict import Verdict
from hf_unlearn.evaluation.wording import VERDICTS
from hf_unlearn.models.tasks import TASKS
from hf_unlearn.models.training_record import DataSource
from hf_unlearn.publishing.card import Published, render_card, rendered_card
from hf_unlearn.publishing.sections import BEFORE_AND_AFTER

GOLDEN = Path(__file__).parents[1] / "golden_card.md"
FORBIDDEN = [
    "None",
    "none)",
    "[](",
    "()",
    "nan",
    "inf ",
    "More information needed",
    "licence",
    "{{",
    "}}",
    "TODO",
    "\n\n\n\n",
]


def scores(loss: float, accuracy: float | None) -> SetScores:
    quality = Estimate(accuracy, accuracy - 0.1, min(accuracy + 0.1, 1.0), 40) if accuracy is not None else None
    perplexity = None if quality else Estimate(7.0, 6.0, 8.0, 40)
    return SetScores(40, Estimate(loss, loss - 0.05, loss + 0.05, 40), quality, perplexity, False)


def example_report(task: Any = "text-classification", word: Any = "not_distinguished") -> UnlearningReport:
    """A report with everything in it."""
    accuracy = 0.9 if TASKS[task].quality == "accuracy" else None

    def arm(loss: float, auc: float, pair: Estimate | None = None) -> ArmEntry:
        sets = {name: scores(loss, accuracy) for name in ("forget", "holdout", "retained", "test")}
        return ArmEntry(sets, Estimate(auc, auc - 0.06, min(auc + 0.06, 1.0), 80), pair_auc=pair)

    pairs = Estimate(0.91, 0.84, 0.98, 80), Estimate(0.96, 0.92, 1.0, 80)

    return UnlearningReport(
        task=task,
        original=ModelEntry("acme/router", "a" * 40, True),
        base=ModelEntry("acme/encoder", "b" * 40, True),
        dataset=DataSource("acme/messages", None, "train", "c" * 40, "f" * 16, 960),
        audit=SplitAudit(
            dataset_rows=960,
            forget_rows=40,
            retained_rows=920,
            holdout_rows=40,
            ids_requested=1,
            ids_matched=1,
            ids_unmatched=0,
            duplicate_columns=["text"],
            duplicate_policy="report",
            duplicates_retained=0,
            duplicates_forgotten=0,
            near_duplicates_retained=3,
            holdout_overlap=0,
            dataset_fingerprint="f" * 16,
            dataset_revision="c" * 40,
            request_digest="d" * 64,
            near_duplicate_policy="report",
            near_duplicates=[NearAudit(None, 0.55, 3, 4, [0, 0, 0, 0, 0, 1, 0, 0, 0, 3])],
            id_columns=["customer"],
        ),
        method=MethodEntry(
            name="toward_base",
            summary="The original model moved part of the way back, then fine-tuned on the retained records.",
            source="",
            alpha=0.6,
            budget=0.25,
            epochs=1.0,
            steps=58,
            seed=0,
            settings={
                "learning_rate": 1e-4,
                "lr_scheduler_type": "linear",
                "per_device_train_batch_size": 16,
                "gradient_accumulation_steps": 1,
                "prompt_template": None,
            },
            lora=None,
            adapter_of=None,
            stopped_early=False,
        ),
        cost=CostEntry(33.0, 14.0, 25519, 2.1e12, 1.3e12, 2**30, 8.4e12, 0.25, 0.4),
        arms={
            "original": arm(0.02, 0.99),
            "unlearned": arm(1.0, 0.52, pairs[0]),
            "retrained": arm(1.1, 0.5, pairs[1]),
        },
        curve=[CurvePoint(12, 0.5, 1.0, 0.1, 0.8, 0.7, 0.9)],
        verdict=Verdict(
            word,
            ["The loss attack no longer tells S from H within ±0.10."],
            [],
            0.10,
            0.21,
            Estimate(0.02, -0.04, 0.08, 80),
            "retrained",
        ),
        judged_on_part=False,
        licence="apache-2.0",
        created="2026-01-01T00:00:00+00:00",
        software={"python": "3.11.7", "hf_unlearn": "0.1.0", "torch": "2.13.0"},
        hardware={"device": "x86_64 CPU, 2 cores", "processes": "1"},
        road=Road("approximate", ["The exact road cost too much utility.", "This one did not."], [trial(0.6, 0.25)]),
    )


def trial(alpha: float | None, ratio: float | None) -> TrialEntry:
    utility = Utility("test", "original", "accuracy", Estimate(0.01, -0.01, 0.03, 40), 0.05, "kept")
    cost = CostEntry(33.0, 14.0, 25519, 2.1e12, 1.3e12, 2**30, 8.4e12 if ratio else None, ratio, ratio)
    return TrialEntry(
        name="toward_base",
        method="toward_base",
        alpha=alpha,
        cost=cost,
        measured_on="all" if ratio else "search",
        membership_auc=Estimate(0.52, 0.46, 0.58, 80) if ratio else None,
        told=None,
        utility=utility if ratio else None,
        outcome="taken",
    )


def bare_report() -> UnlearningReport:
    """A report with everything unknown that can be."""
    full = example_report("text-generation", "undecided")
    arm = ArmEntry({"forget": full.arms["unlearned"].sets["forget"]}, None)
    return replace(
        full,
        original=None,
        base=None,
        dataset=DataSource(),
        audit=None,
        cost=None,
        licence=None,
        road=Road("exact", ["The base is known."], [trial(None, None)]),
        arms={"unlearned": arm},
        curve=[],
        method=replace(
            full.method, name="unknown", alpha=None, budget=None, epochs=None, steps=None, seed=None, settings={}
        ),
        verdict=Verdict(
            "undecided", ["Without held-out records nothing could be measured."], [], 0.1, None, None, None
        ),
    )


def test_it_says_what_an_epoch_had_twice() -> None:
    report = example_report()
    assert "has twice" not in render_card(report, "name")
    shown = render_card(replace(report, method=replace(report.method, repeated=1003)), "name")
    assert "| records of S that an epoch has twice | 1,003, so that all processes take equally many |" in shown
    assert report.audit is not None
    stream = replace(report, audit=replace(report.audit, dataset_fingerprint=None))
    assert "twice" not in render_card(stream, "name")
    shown = render_card(replace(stream, hardware={"device": "CPU", "processes": "2"}), "name")
    assert "| streamed by several processes | the last step of each pass may count some records twice |" in shown


def test_the_whole_card() -> None:
    # To renew it after a wanted change: python -m tests.publishing.test_card
    assert render_card(example_report(), "router-unlearned") == GOLDEN.read_text(encoding="utf-8")


def as_adapter(report: UnlearningReport, of: ModelEntry | None) -> UnlearningReport:
    lora = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj"]}
    return replace(report, method=replace(report.method, lora=lora, adapter_of=of))


REPORTS = [
    example_report(),
    example_report("text-generation", "not_forgotten"),
    example_report(word="exact"),
    bare_report(),
    example_report("token-classification"),
    example_report("text2text-generation"),
    example_report("fill-mask"),
    replace(example_report(), cost=None, audit=None),
    replace(
        example_report(), original=ModelEntry("my_model", None, False), base=None, dataset=DataSource("rows.jsonl")
    ),
]


@pytest.mark.parametrize("report", REPORTS, ids=range(len(REPORTS)))
@pytest.mark.parametrize("adapter", [False, True])
def test_nothing_unknown_is_shown(report: UnlearningReport, adapter: bool) -> None:
    if adapter:
        report = as_adapter(report, report.original)
    card = render_card(report, "name")
    for word in FORBIDDEN:
        assert word not in card, word
    assert not re.search(r"[ \t]+\n\|", card)
    parsed = ModelCard(card)
    assert parsed.data.library_name == ("peft" if report.method.adapter_of else "transformers")
    assert parsed.data.pipeline_tag == TASKS[report.task].pipeline_tag
    tags = parsed.data.tags
    assert tags is not None
    assert {"unlearning", "machine-unlearning", "hf_unlearn"} <= set(tags)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("text-generation", ["(Student's t for losses, DeLong for the AUC)", 'pipeline("text-generation"']),
        ("text-classification", ["Clopper-Pearson for accuracies", 'pipeline("text-classification"']),
        (
            "token-classification",
            ["Korn-Graubard for accuracies", "those of the words", 'pipeline("token-classification"', "| accuracy on"],
        ),
        ("fill-mask", ["those of masked tokens", 'pipeline("fill-mask"', "| mlm\\_probability | 0.15"]),
        ("text2text-generation", ["that is written", "AutoModelForSeq2SeqLM.from_pretrained", "| perplexity on"]),
    ],
)
def test_each_task_is_told_in_its_own_words(task: Any, said: list[str]) -> None:
    report = example_report(task)
    settings = {**report.method.settings, "mlm_probability": 0.15, "dataset_label_field": "label"}
    card = render_card(replace(report, method=replace(report.method, settings=settings)), "name")
    for words in said:
        assert words.replace("\\_", "_") in card
    assert ("mlm_probability" in card) == (task == "fill-mask")
    assert ("--dataset_label_field label" in card) == TASKS[task].classes


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("not_forgotten", "> **This model still knows the records"),
        ("over_forgotten", "> **This model treats the records"),
        ("undecided", "> **The tests could not decide"),
        ("exact", "# name"),
    ],
)
def test_the_first_line_says_what_matters(word: str, first: str) -> None:
    card = render_card(example_report(word=word), "name")
    body = card.split("---\n", 2)[2].strip()
    assert body.startswith(first)


@pytest.mark.parametrize("word", ["exact", "not_distinguished", "not_forgotten"])
def test_lost_utility_stands_above_everything_that_could_please(word: str) -> None:
    lost = Utility("test", "original", "accuracy", Estimate(0.30, 0.25, 0.35, 40), 0.05, "lost")
    card = render_card(replace(example_report(word=word), utility=lost), "name")
    first = card.split("---\n", 2)[2].split("# name")[0]
    assert "> **This model does its task worse than the original model.**" in first
    assert "Utility: `lost`. On the test split accuracy is lower by 0.30" in first
    assert f"Verdict: `{word}` (" in first
    for word_of_utility in ("kept", "undecided"):
        card = render_card(replace(example_report(), utility=replace(lost, word=word_of_utility)), "name")
        assert "does its task worse" not in card
        assert f"Verdict: **not_distinguished** (margin ±0.10 in AUC). Utility: **{word_of_utility}**." in card


@pytest.mark.parametrize("report", REPORTS, ids=range(len(REPORTS)))
def test_the_first_screen_has_verdict_meaning_utility_price_and_the_way_to_load_it(report: UnlearningReport) -> None:
    kept = Utility("test", "original", "accuracy", Estimate(0.01, -0.01, 0.03, 40), 0.05, "kept")
    compared = "original" in report.arms
    card = render_card(replace(report, utility=kept if compared else None), "name")
    first, _ = card.split("---\n", 2)[2].split("\n## ", 1)
    assert report.verdict.word in first
    assert VERDICTS[report.verdict.word] in first
    assert ("- Utility: On the test split accuracy is lower by 0.01" in first) == compared
    assert ("- Price: 25 % of retraining, 40 % with the measuring." in first) == (report.cost is not None)
    assert "```python" in first
    assert "|" not in first.replace("\\|", "")
    assert len(first.strip().splitlines()) <= 30
    assert card.count("```python") == 1
    if report.cost is not None:
        unknown = replace(report.cost, retraining_flops=None, training_ratio=None, total_ratio=None)
        told = render_card(replace(report, cost=unknown), "name")
        assert "- Price: 2.1e+12 FLOPs; what retraining costs is unknown." in told


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
def test_the_way_to_load_it_knows_adapter_and_chat_template(task: Any, adapter: bool, tmp_path: Path) -> None:
    report = example_report(task)
    if adapter:
        report = as_adapter(report, report.original)

    def snippet() -> str:
        code = rendered_card(tmp_path, report).split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")
        return code

    plain = snippet()
    assert ("AutoPeftModelFor" in plain) == adapter
    assert ("AutoTokenizer.from_pretrained" in plain) == adapter
    (tmp_path / "chat_template.jinja").touch()
    chats = snippet()
    assert ('"role": "user"' in chats) == (task == "text-generation")
    assert ("apply_chat_template" in chats) == (task == "text-generation" and adapter)
    assert '"role"' not in plain


def test_only_pictures_that_are_there_are_shown(tmp_path: Path) -> None:
    for name in ("roc.png", "forgetting_curve.png", "other.png"):
        (tmp_path / name).touch()
    shown = re.findall(r"!\[.+\]\((.+)\)\n", rendered_card(tmp_path, example_report()))
    assert shown == ["forgetting_curve.png", "roc.png"]


def test_why_it_stopped() -> None:
    report = example_report()
    assert "topped" not in render_card(report, "name")
    told = {"stopped_early": True, "stop_reason": "overshoot, at look 2 of 5."}
    card = render_card(replace(report, method=replace(report.method, **told)), "name")
    assert "\n\nStopped early: overshoot, at look 2 of 5.\n\n## Evidence\n" in card
    old = replace(report, method=replace(report.method, stopped_early=True))
    assert "\n\nStopped early, when the tests could no longer distinguish S from H.\n\n" in render_card(old, "name")


def test_a_road_that_was_asked_for_needs_no_words() -> None:
    card = render_card(replace(example_report(), road=Road()), "name")
    assert "Kind of unlearning" not in card
    assert "| trial |" not in card
    assert "The training took 25 % of" in card


def test_the_half_that_was_judged_is_named() -> None:
    part = replace(example_report(), judged_on_part=True)
    assert "the halves that the search did not use" in render_card(part, "name")
    assert "the halves that the stopping rule did not use" in render_card(replace(part, road=Road()), "name")


def test_the_numbers_in_the_metadata_are_those_of_the_table() -> None:
    report = example_report()
    results = ModelCard(render_card(report, "name")).data.eval_results
    assert results is not None
    found = {(result.metric_type, result.dataset_split): result.metric_value for result in results}
    assert found == {
        ("accuracy", "forget"): 0.9,
        ("accuracy", "holdout"): 0.9,
        ("accuracy", "retained"): 0.9,
        ("accuracy", "test"): 0.9,
        ("roc_auc", "forget"): 0.52,
    }
    assert all(isinstance(value, float) for value in found.values())
    assert results[0].dataset_revision == "c" * 40


def test_lineage() -> None:
    full = ModelCard(render_card(example_report(), "name")).data
    assert (full.base_model, full.datasets, full.license) == ("acme/router", ["acme/messages"], "apache-2.0")
    adapter = as_adapter(example_report(), example_report().base)
    assert ModelCard(render_card(adapter, "name")).data.base_model == "acme/encoder"
    assert "own weights saw" not in render_card(adapter, "name")
    assert "own weights saw" in render_card(as_adapter(example_report(), example_report().original), "name")
    local = ModelCard(render_card(REPORTS[-1], "name")).data.to_dict()
    assert not {"base_model", "base_model_relation", "datasets"} & set(local)


def test_the_relation_to_the_base_is_one_that_the_hub_knows() -> None:
    def relation(report: UnlearningReport, **overrides: Any) -> Any:
        return ModelCard(render_card(report, "name", overrides=overrides)).data.get("base_model_relation")

    assert relation(example_report()) == "finetune"
    assert relation(as_adapter(example_report(), example_report().base)) == "adapter"
    assert relation(as_adapter(example_report(), None)) == "finetune", "merged"
    exact = replace(example_report().method, name="base", alpha=1.0)
    started_at_the_base = ModelCard(render_card(replace(example_report(), method=exact), "name")).data
    assert started_at_the_base.base_model == "acme/encoder"
    assert started_at_the_base.get("base_model_relation") == "finetune"
    assert relation(REPORTS[-1], base_model="acme/other") == "finetune"
    assert relation(example_report(), base_model=["acme/one", "acme/two"]) is None, "the Hub sees a merge"


def test_what_both_models_give_away_stands_beside_the_warning() -> None:
    report = example_report()
    card = render_card(report, "name")
    assert f"{BEFORE_AND_AFTER} Here is what the change of each record's loss tells." in card
    assert "picks the forgotten one in 91 of 100 pairs (AUC 0.91 [0.84, 0.98]); guessing gives 50." in card
    assert "retrained without these records it does so in 96 of 100 pairs (AUC 0.96 [0.92, 1.00])." in card
    arms = report.arms | {"retrained": replace(report.arms["retrained"], pair_auc=None)}
    assert "guessing gives 50.\n" in render_card(replace(report, arms=arms), "name")
    arms["unlearned"] = replace(arms["unlearned"], pair_auc=None)
    assert f"{BEFORE_AND_AFTER}\n" in render_card(replace(report, arms=arms), "name")


def test_a_published_card_knows_what_stands_beside_it() -> None:
    report = example_report()
    assert BEFORE_AND_AFTER in render_card(report, "name")
    plainly = "**Both can be had: acme/router is public.**"
    asked = "**If you use acme/router, please move to this model:**"
    for public, move in product((None, False, True), (False, True)):
        card = render_card(report, "name", published=Published("acme/new", public, move))
        assert 'model="acme/new"' in card
        assert (plainly in card) == bool(public)
        assert (asked in card) == move
        assert not [word for word in FORBIDDEN if word in card]


def test_the_user_has_the_last_word() -> None:
    given = {"license": "mit", "tags": ["mine"], "language": "en", "model_name": "Forgetful", "base_model": None}
    card = ModelCard(render_card(example_report(), "name", overrides=given))
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert card.data.tags is not None
    assert "mine" in card.data.tags
    assert "# Forgetful\n" in card.content


def test_names_from_outside_cannot_write_markup() -> None:
    hostile = ModelEntry("<script>alert(1)</script>|[x](http://evil)\n# big", None, False)
    card = render_card(replace(example_report(), original=hostile), "n")
    body = card.split("---\n", 2)[2]
    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert "<script>" not in prose
    assert "[x](http" not in prose
    assert "\n# big" not in body


HOSTILE = "a`b`|\n# big\n```\n<b>'\"[x](y)~~~z~~\x1b\u202e\\ $(rm) &lt; {{name}}\n---\n"


def test_a_hostile_name_is_shown_and_does_nothing_wherever_it_stands() -> None:
    report = example_report("text-generation", "not_forgotten")
    entry = ModelEntry(HOSTILE, None, False)
    templates = {"prompt_template": HOSTILE, "completion_template": HOSTILE, "dataset_text_field": HOSTILE}
    card = render_card(
        replace(
            report,
            original=entry,
            base=entry,
            dataset=DataSource(HOSTILE, HOSTILE, HOSTILE),
            method=replace(report.method, name="base", settings=templates),
            verdict=replace(report.verdict, reasons=[HOSTILE], warnings=[HOSTILE]),
            road=Road("exact", [HOSTILE], [replace(trial(0.6, 0.25), name=HOSTILE, outcome=HOSTILE)]),
        ),
        "name",
        published=Published(HOSTILE, original_is_public=True, tell_users_to_move=True),
    )
    assert "please move" in card
    parsed = ModelCard(card)
    assert parsed.data.model_name == HOSTILE
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(parsed.text)
    kinds = {part.type for token in tokens for part in [token, *(token.children or [])]}
    assert not kinds & {"html_block", "html_inline", "em_open", "s_open", "code_block"}
    links = [part.attrGet("href") for token in tokens for part in token.children or [] if part.type == "link_open"]
    assert links == []
    assert [token.tag for token in tokens if token.type == "heading_open"].count("h1") == 1
    python, bash = (token.content for token in tokens if token.type == "fence")
    call = ast.parse(python).body[-1]
    assert isinstance(call, ast.Assign)
    assert isinstance(call.value, ast.Call)
    assert ast.literal_eval(call.value.keywords[0].value) == HOSTILE
    words = _words(bash)
    for flag in ("model_name_or_path", "dataset_name", "base_model_name_or_path", "prompt_template"):
        assert words[words.index(f"--{flag}") + 1] == HOSTILE


def _words(command: str) -> list[str]:
    """The words of a command as bash reads them."""
    script = f"hf-unlearn() {{ printf '%s\\0' \"$@\"; }}; {command}"
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env=environment)
    return done.stdout.decode().split("\0")


def test_the_command_that_repeats_the_run_is_bash() -> None:
    report = example_report("text-generation")
    settings = {**report.method.settings, "prompt_template": "It's {q}\nA:", "completion_template": " {a}"}
    hostile = replace(
        report, method=replace(report.method, settings=settings), original=ModelEntry("a b;`rm`$x", None, False)
    )
    card = render_card(hostile, "n")
    command = card.split("```bash\n")[1].split("```")[0]
    words = _words(command)
    assert words[words.index("--prompt_template") + 1] == "It's {q}\nA:"
    assert words[words.index("--model_name_or_path") + 1] == "a b;`rm`$x"


if __name__ == "__main__":
    GOLDEN.write_text(render_card(example_report(), "router-unlearned"), encoding="utf-8")
