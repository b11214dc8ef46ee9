"""TOFU's whole evaluation: each answer passes through the model once, nothing is measured twice or for another."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.benchmarks.tofu import forget_quality, model_utility, privleak
from hf_unlearn.evaluation.benchmarks.tofu_suite import recall_tofu, score_tofu, tofu_metrics, tofu_suite
from hf_unlearn.evaluation.statistics import membership_auc

from ..conftest import WORDS, write_rows

RECIPE = Path(__file__).parents[2] / "recipes" / "tofu" / "benchmark"
TEMPLATES = {"prompt_template": "Question: {question}\nAnswer:", "completion_template": " {answer}"}


@pytest.fixture(autouse=True)
def _script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))


def rows(name: str, count: int, wrong: int) -> list[dict[str, Any]]:
    """Questions of a set with all their answers."""
    draw = random.Random(name)

    def answer() -> str:
        return f"It is {draw.choice(WORDS)} {draw.choice(WORDS)}."

    found: list[dict[str, Any]] = []
    for i in range(count):
        row: dict[str, Any] = {"question": f"What is {name} {i}?", "answer": answer()}
        if wrong == 5:
            row["paraphrased_answer"] = "Surely: " + row["answer"]
        if wrong:
            row["perturbed_answer"] = [answer() for _ in range(wrong)]
        found.append(row)
    return found


SETS = {
    "forget01_perturbed": ("forget", 8, 5),
    "holdout01": ("holdout", 6, 0),
    "retain_perturbed": ("retain", 5, 5),
    "real_authors_perturbed": ("real", 4, 3),
    "world_facts_perturbed": ("world", 3, 3),
}
ANSWERS = 8 * 7 + 6 + 5 * 7 + 4 * 4 + 3 * 4


@pytest.fixture(scope="session")
def tofu_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sets, with a few questions each."""
    folder = tmp_path_factory.mktemp("tofu")
    for file, (name, count, wrong) in SETS.items():
        write_rows(folder / f"{file}.json", rows(name, count, wrong))
    return folder


@pytest.fixture
def records() -> dict[Any, Dataset]:
    found = {}
    for file, (name, count, wrong) in SETS.items():
        part = Dataset.from_list(rows(name, count, wrong))
        if name in ("forget", "holdout", "retain"):
            part = part.add_column("author", [f"{name} {i // 2}" for i in range(count)])
        found[file.removesuffix("_perturbed").removesuffix("01")] = part
    return found


def make(records: dict[Any, Dataset], folder: Path, batch_size: int = 16, **changed: Any) -> tuple[Any, Any, Any]:
    """The suite, the model and the tokenizer in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    suite = tofu_suite(records, tokenizer, model.config, **{**TEMPLATES, **changed}, batch_size=batch_size)
    return suite, model, tokenizer


@pytest.fixture
def run(tofu_folder: Path, lm_base: Path, lm_by_heart: Path, tmp_path: Path, capsys: Any) -> Callable[..., Any]:
    """Runs the program on the tiny model; its file, exit code and complaints."""
    import evaluation

    def call(*more: str, model: Path | str = lm_by_heart, code: int = 0) -> Any:
        before = set((tmp_path / "out").glob("*"))
        argv = [str(model), "--source", str(tofu_folder), "--forget", "forget01", "--new_tokens", "8"]
        argv += ["--reference", str(lm_base), "--output_dir", str(tmp_path / "out"), *more]
        assert evaluation.main(argv) == code
        made = sorted(set((tmp_path / "out").glob("*")) - before)
        return made if code == 0 else (made, capsys.readouterr().err)

    return call


def tables() -> Path:
    return Path(os.environ["HF_HOME"]) / "hf_unlearn" / "tables"


# What is measured


def test_each_answer_passes_once_and_every_measure_comes_of_it(
    records: dict[Any, Dataset], lm_base: Path, lm_by_heart: Path
) -> None:
    suite, model, tokenizer = make(records, lm_by_heart)
    passed: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: passed.append(len(kwargs["input_ids"])), with_kwargs=True)
    scores = score_tofu(suite, model)
    # Those of S and H once more, for their gradients.
    assert sum(passed) == ANSWERS + 8 + 6
    passed.clear()
    recall = recall_tofu(suite, model, tokenizer, 8)
    assert sum(1 for size in passed if size > 1) <= 2 * 8, "20 questions in two batches of 16, at most 8 tokens each"
    reference = score_tofu(suite, AutoModelForCausalLM.from_pretrained(lm_base))
    found = tofu_metrics(scores, recall, reference)
    for name in ("forget", "retain", "real_authors", "world_facts"):
        assert found[f"{name}_probability"].value == pytest.approx(np.exp(-scores.losses(name, "answer")).mean())
        assert found[f"{name}_rougeL_recall"].value == pytest.approx(recall[name].mean())
        kept = [*records[name].column_names]
        right = scores.losses(name, "paraphrased_answer" if "paraphrased_answer" in kept else "answer")[:, 0]
        wrong = scores.losses(name, "perturbed_answer")
        means = {"arithmetic": np.log(np.exp(-wrong).mean(1)), "geometric": -wrong.mean(1)}
        for mean, log_wrong in means.items():
            r = np.exp(log_wrong + right)
            label = f"{name}_truth_ratio_{mean}"
            assert found[f"{label}_closer_to_one"].value == pytest.approx(np.minimum(r, 1 / r).mean())
            assert found[f"{label}_true_better"].value == pytest.approx(np.maximum(0, 1 - r).mean())
            assert found[f"{label}_probability"].value == pytest.approx((1 / (1 + r)).mean())
    for mean in ("geometric", "arithmetic"):
        nine = [found[f"{name}_rougeL_recall"].value for name in ("retain", "real_authors", "world_facts")]
        nine += [found[f"{name}_probability_among_options"].value for name in ("real_authors", "world_facts")]
        nine += [found["retain_probability"].value]
        nine += [
            found[f"{name}_truth_ratio_{mean}_true_better"].value for name in ("retain", "real_authors", "world_facts")
        ]
        assert found[f"model_utility_{mean}"].value == pytest.approx(model_utility(nine))  # type: ignore[arg-type]
        ratios = [one.truth_ratios("forget", mean) for one in (scores, reference)]  # type: ignore[arg-type]
        assert found[f"forget_quality_{mean}"].value == forget_quality(*ratios)
    options = np.exp(-np.concatenate([scores.losses("real_authors", k) for k in ("answer", "perturbed_answer")], 1))  # type: ignore[arg-type]
    share = (options[:, 0] / options.sum(1)).mean()
    assert found["real_authors_probability_among_options"].value == pytest.approx(share)
    forget, holdout = (scores.tables[name] for name in ("forget", "holdout"))
    assert found["forget_exact_memorization"].value == pytest.approx(np.mean(forget["exact"].to_numpy()))
    for label, column, sign in (("loss", "loss", 1), ("min_k", "min_k", -1), ("gradnorm", "gradient_norm", 1)):
        auc = membership_auc(sign * forget[column].to_numpy(), sign * holdout[column].to_numpy())
        assert found[f"mia_{label}"].value == pytest.approx(auc.value)
    assert {name for name in found if name.startswith("mia_")} == {
        f"mia_{name}" for name in ("loss", "zlib", "min_k", "min_k_plus_plus", "gradnorm", "reference")
    }
    low = [
        tuple(-one.tables[name]["min_k"].to_numpy() for name in ("forget", "holdout")) for one in (scores, reference)
    ]
    assert found["privleak"].value == pytest.approx(privleak(*low[0], reference=low[1]))  # type: ignore[arg-type]


def test_the_suite_reads_every_answer_whole_and_nothing_but_the_answer(
    shared: Path, byte_level_tokenizer: PreTrainedTokenizerFast
) -> None:
    import evaluation

    data = evaluation.read_tofu(str(shared / "data" / "tofu"), "forget01", "holdout01", 10)
    for tokenizer in (byte_level_tokenizer, AutoTokenizer.from_pretrained(shared / "models" / "tinystories-260k")):
        config = AutoModelForCausalLM.from_pretrained(shared / "models" / "tinystories-260k").config
        config.max_position_embeddings = 4096
        for templates in (
            TEMPLATES,
            {**TEMPLATES, "prompt_template": "Question: {question}\nAnswer: ", "completion_template": "{answer}"},
        ):
            suite = tofu_suite(data.records, tokenizer, config, **templates, batch_size=4)
            for name, part in data.records.items():
                for labels, answer in zip(suite.examples(name)["labels"], part["answer"], strict=True):
                    kept = [token for token in labels if token != -100]
                    assert tokenizer.decode(kept, skip_special_tokens=True).strip() == answer.strip()


def test_padding_and_the_end_of_a_turn_in_the_prompt_are_told_apart(
    records: dict[Any, Dataset], lm_by_heart: Path
) -> None:
    """open-unlearning hides every token whose id is that of the padding, the ends of earlier turns too."""
    prompt = {"prompt_template": "Be kind.<|endoftext|>Question: {question}<|endoftext|>Answer:"}
    suite, model, tokenizer = make(records, lm_by_heart, **prompt)
    assert tokenizer.pad_token_id in (None, tokenizer.eos_token_id)
    found = score_tofu(suite, model)
    for name, table in found.tables.items():
        for i, example in enumerate(suite.evidence.sets[name].take(6)):
            assert example["input_ids"].count(tokenizer.eos_token_id) == 3
            ids, labels = (torch.tensor([example[column]]) for column in ("input_ids", "labels"))
            with torch.no_grad():
                assert float(table["loss"][i].as_py()) == pytest.approx(
                    float(model(ids, labels=labels).loss), rel=1e-4
                )
    alone, _, _ = make(records, lm_by_heart, batch_size=1, **prompt)
    together = recall_tofu(suite, model, tokenizer, 8)
    for name, recall in recall_tofu(alone, model, tokenizer, 8).items():
        np.testing.assert_array_equal(recall, together[name])


def test_what_a_template_writes_after_the_answer_is_not_taken_for_memory(
    records: dict[Any, Dataset], lm_by_heart: Path
) -> None:
    """open-unlearning leaves out the last token alone, so a new line after the end of a turn counts as known."""
    suite, model, _ = make(records, lm_by_heart, completion_template=" {answer}<|endoftext|>\n")
    assert set(suite.evidence.sets["forget"]["tail"]) == {3}
    found, plain = (score_tofu(one, model).tables["forget"] for one in (suite, make(records, lm_by_heart)[0]))
    for column in ("exact", "extraction"):
        assert found[column].to_pylist() == pytest.approx(plain[column].to_pylist())


def test_weights_in_half_precision_have_numbers(records: dict[Any, Dataset], lm_base: Path, lm_by_heart: Path) -> None:
    suite, model, tokenizer = make(records, lm_by_heart)
    half = score_tofu(suite, AutoModelForCausalLM.from_pretrained(lm_by_heart, dtype=torch.bfloat16))
    found = tofu_metrics(half, recall_tofu(suite, model, tokenizer, 4))
    assert np.isfinite([metric.value for metric in found.values()]).all()  # type: ignore[arg-type]
    whole = score_tofu(suite, model)
    np.testing.assert_allclose(half.losses("forget", "answer"), whole.losses("forget", "answer"), rtol=0.05)


def test_authors_widen_the_intervals_and_one_author_shows_no_spread(
    records: dict[Any, Dataset], lm_by_heart: Path
) -> None:
    suite, model, tokenizer = make(records, lm_by_heart)
    recall = recall_tofu(suite, model, tokenizer, 4)
    found = tofu_metrics(score_tofu(suite, model), recall)
    assert (found["forget_probability"].n, found["forget_probability"].groups) == (8, 4)
    assert (found["real_authors_probability"].n, found["real_authors_probability"].groups) == (4, None)
    assert (found["mia_loss"].n, found["mia_loss"].groups) == (14, 7)
    assert "forget_quality_geometric" not in found
    assert "privleak" not in found
    for metric in found.values():
        if metric.low is not None:
            assert metric.high is not None
            assert metric.value is not None
            assert 0 <= metric.low <= metric.value <= metric.high <= 1
    alone = dict(records)
    alone["forget"] = records["forget"].remove_columns("author").add_column("author", ["one"] * 8)
    same, _, _ = make(alone, lm_by_heart)
    one = tofu_metrics(score_tofu(same, model), recall)["forget_probability"]
    assert (one.value, one.low) == (pytest.approx(found["forget_probability"].value), None)


def test_the_interval_of_model_utility_covers() -> None:
    from hf_unlearn.evaluation.benchmarks.tofu_suite import KEPT, _utility

    rng = np.random.default_rng(0)
    missed, truth = 0, model_utility(np.full(9, 0.5))
    for _ in range(400):
        values = {}
        for name in KEPT:
            shared = rng.normal(0, 0.1, (60, 1))  # what is easy is easy by all measures
            three = np.clip(0.5 + shared + rng.normal(0, 0.1, (60, 3)), 0, 1)
            labels = ("probability", "probability_among_options", "rougeL_recall", "truth_ratio_geometric_true_better")
            values |= {(name, label): three[:, max(0, i - 1)] for i, label in enumerate(labels)}
        found = _utility(values, {}, "geometric")
        assert found.low is not None
        assert found.high is not None
        missed += not found.low <= truth <= found.high
    assert 8 <= missed <= 34, "5 % of 400 and three standard errors"


def test_a_reference_on_other_records_is_refused(records: dict[Any, Dataset], lm_by_heart: Path) -> None:
    suite, model, tokenizer = make(records, lm_by_heart)
    scores, recall = score_tofu(suite, model), recall_tofu(suite, model, tokenizer, 2)
    others = dict(records)
    # The same number of other questions, which open-unlearning would compare without a word.
    others["forget"] = records["forget"].select([1, 0, *range(2, 8)])
    other = score_tofu(make(others, lm_by_heart)[0], model)
    assert len(other.truth_ratios("forget", "geometric")) == len(scores.truth_ratios("forget", "geometric"))
    with pytest.raises(InputError, match="other records"):
        tofu_metrics(scores, recall, other)


def edited(part: Dataset, **columns: Any) -> Dataset:
    first = {**part[0], **columns}
    return Dataset.from_list([first, *list(part)[1:]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": ""}, "1 of the 8 forget records have nothing in 'answer'"),
        ({"answer": None}, "1 of the 8 forget records have nothing in 'answer'"),
        ({"perturbed_answer": ["a", " ", "b", "c", "d"]}, "1 of the 8 forget records have nothing in 'perturbed"),
        ({"perturbed_answer": ["a"]}, "unequal numbers of texts in 'perturbed_answer'"),
        ({"question": "who " * 200}, "takes up to .* tokens, and this model reads 128"),
    ],
)
def test_records_that_would_spoil_the_numbers_are_refused(
    records: dict[Any, Dataset], lm_base: Path, change: dict[str, Any], words: str
) -> None:
    records["forget"] = edited(records["forget"], **change)
    with pytest.raises(InputError, match=words):
        make(records, lm_base)


def test_an_answer_without_a_token_is_refused_and_does_not_move_the_others(
    records: dict[Any, Dataset], lm_base: Path, byte_level_tokenizer: PreTrainedTokenizerFast
) -> None:
    backend = Tokenizer.from_str(byte_level_tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(Regex("[^ -~]"), "")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    config = AutoModelForCausalLM.from_pretrained(lm_base).config
    for name, column in (("forget", "answer"), ("world_facts", "answer"), ("retain", "paraphrased_answer")):
        changed = {**records, name: edited(records[name], **{column: "\u65e5\u672c"})}
        with pytest.raises(InputError, match=r"1 of the \d+ \w+ answers have no token"):
            tofu_suite(
                changed, tokenizer, config,
                prompt_template="{question}", completion_template="{answer}", batch_size=4,
            )  # fmt: skip


def test_a_set_or_a_column_that_is_missing_is_named(records: dict[Any, Dataset], lm_base: Path) -> None:
    with pytest.raises(InputError, match="world_facts is missing"):
        make({name: part for name, part in records.items() if name != "world_facts"}, lm_base)
    records["retain"] = records["retain"].remove_columns("perturbed_answer")
    with pytest.raises(InputError, match="perturbed_answer"):
        make(records, lm_base)


# The program


def test_the_file_says_what_was_measured_and_how_and_holds_no_text(run: Callable[..., Any]) -> None:
    (file,) = run("--sample", "3", "--seed", "1")
    text = file.read_text(encoding="utf-8")
    found = json.loads(text)
    assert found["data"]["sets"]["forget"] == {"name": "forget01_perturbed", "of": 8, "n": 3}
    assert (found["data"]["sample"], found["data"]["seed"]) == (3, 1)
    assert found["metrics"]["forget_probability"]["n"] == 3
    assert found["metrics"]["mia_loss"]["n"] == 6
    assert found["metrics"]["mia_loss"]["reference"] is not None
    assert set(found["metrics"]) >= {"forget_quality_geometric", "privleak", "model_utility_arithmetic"}
    assert found["settings"]["new_tokens"] == 8
    assert (found["dtype"], found["device"]) == ("float32", "cpu")
    assert "NaN" not in text
    for row in rows("forget", 8, 5):
        for words in (row["question"], row["answer"]):
            assert words not in text


def test_what_is_measured_is_found_by_what_it_is_of_and_never_by_a_name(
    run: Callable[..., Any], tmp_path: Path, lm_base: Path, lm_by_heart: Path, tofu_folder: Path
) -> None:
    (file,) = run()
    first = file.read_bytes()
    shutil.rmtree(tables())
    copy = shutil.copytree(lm_by_heart, tmp_path / "another_name")
    assert run(model=copy) == []
    assert file.read_bytes() == first
    assert not tables().exists(), "nothing was scored"
    # The same name, and other weights.
    changed = AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        changed.lm_head.weight[0, 0] += 1
    changed.save_pretrained(copy)
    assert len(run(model=copy)) == 1
    # An adapter on the same base.
    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_by_heart), LoraConfig(task_type="CAUSAL_LM"))
    adapter.save_pretrained(tmp_path / "adapter")
    assert len(run(model=tmp_path / "adapter")) == 1
    # Other settings, another reference, other records.
    assert len(run("--new_tokens", "7")) == 1
    assert len(run("--reference", str(copy))) == 1
    data = shutil.copytree(tofu_folder, tmp_path / "tofu")
    write_rows(data / "world_facts_perturbed.json", list(reversed(rows("world", 3, 3))))
    (other,) = run("--source", str(data))
    assert json.loads(other.read_text())["data_fingerprint"] != json.loads(first)["data_fingerprint"]
    assert file.read_bytes() == first


def test_what_a_stop_has_left_is_used_and_gives_the_same_numbers(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import evaluation

    (whole,) = run()
    numbers = json.loads(whole.read_text())["metrics"]
    whole.unlink()
    shutil.rmtree(tables())

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "recall_tofu", stopped)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert not list((tmp_path / "out").glob("*"))
    kept = {path: path.stat().st_mtime_ns for path in tables().iterdir()}
    (again,) = run()
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in tables().iterdir()}.items()
    assert json.loads(again.read_text())["metrics"] == numbers


def test_without_holdout_and_reference_there_are_fewer_numbers(
    tofu_folder: Path, lm_by_heart: Path, tmp_path: Path
) -> None:
    import evaluation

    argv = [str(lm_by_heart), "--source", str(tofu_folder), "--forget", "forget01", "--holdout", "none"]
    assert evaluation.main([*argv, "--new_tokens", "2", "--output_dir", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert found["reference"] is None
    assert "holdout" not in found["data"]["sets"]
    assert not [name for name in found["metrics"] if name.startswith(("mia_", "privleak", "forget_quality"))]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--forget", "forget05"], "has no forget05_perturbed.json; TOFU on the Hub has all sets"),
        (["--holdout", "holdout10"], "has no holdout10.json"),
        (["--sample", "0"], "--sample 0 must be at least 1"),
        (["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["--new_tokens", "0"], "--new_tokens 0 must be at least 1"),
        (["--prompt_template", "Why?"], "must have {question} in it"),
        (["--completion_template", ""], "must have {question} in it"),
        (["--prompt_template", "{question} {who}"], "who"),
        (["--source", __file__], "is a file; name the folder"),
        (["--output_dir", __file__], "is a file; name another"),
        (["--reference", "no/such/model"], "no/such/model"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    run: Callable[..., Any], flags: list[str], words: str
) -> None:
    made, said = run(*flags, code=2)
    assert words in said
    assert said.startswith("error: ")
    assert said.strip().count("\n") == 0
    assert made == []


def test_a_model_whose_numbers_are_none_is_refused(run: Callable[..., Any], tmp_path: Path, lm_base: Path) -> None:
    broken = shutil.copytree(lm_base, tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    made, said = run(model=broken, code=2)
    assert "is no number" in said
    assert made == []


def test_data_and_model_on_the_hub(owner: HfApi, run: Callable[..., Any], lm_by_heart: Path) -> None:
    for file, (name, count, wrong) in SETS.items():
        Dataset.from_list(rows(name, count, wrong)).push_to_hub("owner/tofu", file, private=True)
    owner.create_repo("owner/heart", private=True)
    owner.upload_folder(repo_id="owner/heart", folder_path=lm_by_heart)
    (file,) = run("--source", "owner/tofu", model="owner/heart")
    found = json.loads(file.read_text())
    assert found["model"] == {"name": "owner/heart", "revision": owner.model_info("owner/heart").sha}
    assert (found["data"]["source"], found["data"]["revision"]) == ("owner/tofu", owner.dataset_info("owner/tofu").sha)
    (local,) = run("--batch_size", "63")
    assert json.loads(local.read_text())["data_fingerprint"] == found["data_fingerprint"]
