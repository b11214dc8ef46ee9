"""Token classification, masked language models and encoder-decoders: scores, losses, and the whole road."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    EsmConfig,
    EsmForTokenClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_unlearn import (
    InputError,
    Records,
    UnlearningConfig,
    UnlearningReport,
    UnlearningTrainer,
    split_retained,
)
from hf_unlearn.cli import main
from hf_unlearn.data.encoding import IGNORED, PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.masking import TokenMasking
from hf_unlearn.data.split import RetainedSplit
from hf_unlearn.evaluation.scoring import score
from hf_unlearn.evaluation.statistics import clustered_rate
from hf_unlearn.models.location import locate
from hf_unlearn.models.tasks import TASKS
from hf_unlearn.models.training_record import load_record

from ..conftest import TOKEN, note_rows, secrets_rows, tagged_rows, write_rows
from ..jobs.test_jobs import leaks, texts_in
from ..support.draws import few_of
from ..support.models import corpus

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

TAGS = ["B-NAME", "B-PLACE", "O"]
ROWS: dict[str, Any] = {
    "token-classification": tagged_rows,
    "fill-mask": note_rows,
    "text2text-generation": secrets_rows,
}
LOADERS: dict[str, Any] = {
    "token-classification": AutoModelForTokenClassification,
    "fill-mask": AutoModelForMaskedLM,
    "text2text-generation": AutoModelForSeq2SeqLM,
}
BASES = {
    "token-classification": "wordpiece_base",
    "fill-mask": "wordpiece_base",
    "text2text-generation": "seq2seq_base",
}
EPOCHS = {"token-classification": 25, "fill-mask": 60, "text2text-generation": 40}
FORMATS: dict[str, RecordFormat] = {
    "token-classification": RecordFormat("tagged_words", "tokens", "ner_tags"),
    "fill-mask": RecordFormat("maskable"),
    "text2text-generation": RecordFormat("text_pairs"),
}
NO_DROPOUT = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}


@pytest.fixture(scope="session", params=list(ROWS))
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def settings(task: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe: records 0 to 9 are to be forgotten, 50 to 59 were held out."""
    folder = tmp_path_factory.mktemp("task")
    return {
        "model_name_or_path": str(folder / "original"),
        "dataset_name": str(write_rows(folder / "rows.jsonl", ROWS[task]())),
        "forget_rows": list(range(10)),
        "holdout_rows": list(range(50, 60)),
        "per_device_eval_batch_size": 16,
        "seed": 3,
        "original": {
            "model_name_or_path": str(request.getfixturevalue(BASES[task])),
            "task": task,
            "output_dir": str(folder / "original"),
            "learning_rate": 5e-3,
            "per_device_train_batch_size": 10,
            "num_train_epochs": EPOCHS[task],
        },
    }


@pytest.fixture(scope="session")
def original(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that was trained by `hf-unlearn train`."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["train", "--config", str(path)]) == 0
    return Path(settings["original"]["output_dir"])


def run(settings: dict[str, Any], folder: Path, *flags: str) -> UnlearningReport:
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump({**settings, "output_dir": str(folder)}), encoding="utf-8")
    assert main(["run", "--config", str(path), *flags]) == 0
    return UnlearningReport.load(folder / "unlearning_report.json")


# Scores


def examples_of(task: str, folder: Path, rows: list[dict[str, Any]]) -> Dataset:
    """Examples as they are measured."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = RecordEncoder(tokenizer, FORMATS[task], 24, {name: i for i, name in enumerate(TAGS)})
    examples = encode(Dataset.from_list(rows), encoder, "test")
    assert isinstance(examples, Dataset)
    if task == "fill-mask":
        examples = TokenMasking(tokenizer.mask_token_id, len(tokenizer), 0.15, 0).fixed(examples)
    return examples


def logits_of(task: str, model: Any, example: dict[str, Any]) -> np.ndarray:
    """What the model says at each labelled position of one example, decoder inputs shifted by hand."""
    inputs = {"input_ids": torch.tensor([example["input_ids"]])}
    if task == "text2text-generation":
        inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id, *example["labels"][:-1]]])
    with torch.no_grad():
        return model(**inputs).logits[0].double().numpy()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_against_the_formula(
    task: str, original: Path, batch_size: int, recwarn: pytest.WarningsRecorder
) -> None:
    rows = ROWS[task](9)
    if task == "fill-mask":
        rows.append({"id": 9, "text": corpus()[0]})
    examples = examples_of(task, original, rows)
    assert task != "fill-mask" or len(examples) > len(rows), "a long text is several examples of one record"
    model = LOADERS[task].from_pretrained(original).eval()
    table = score(model, examples, PaddingCollator(0), task=task, batch_size=batch_size)  # type: ignore[arg-type]
    expected: dict[int, list[float]] = {}
    for example in examples:
        logits = logits_of(task, model, example)
        sums = expected.setdefault(example["row"], [0, 0.0, 0])
        for row, label in zip(logits, example["labels"], strict=True):
            if label != IGNORED:
                sums[0] += 1
                sums[1] += np.log(np.exp(row - row.max()).sum()) + row.max() - row[label]
                sums[2] += int(row.argmax() == label)
    assert table["row"].to_pylist() == sorted(expected) == list(range(len(rows)))
    for line in table.to_pylist():
        tokens, nll, correct = expected[line["row"]]
        assert (line["tokens"], line["correct"]) == (tokens, correct)
        assert line["nll"] == pytest.approx(nll, rel=1e-4)
        assert line["loss"] == pytest.approx(nll / tokens, rel=1e-4)


def test_every_model_guesses_the_same_tokens(wordpiece_base: Path) -> None:
    first, second = (examples_of("fill-mask", wordpiece_base, note_rows(8)) for _ in range(2))
    assert first["input_ids"][:] == second["input_ids"][:]
    assert any(4 in ids for ids in first["input_ids"])


# Training


def split_of(task: str) -> RetainedSplit:
    return split_retained(
        Dataset.from_list(ROWS[task]()), Records.rows(range(10)), holdout=Records.rows(range(50, 60))
    )


def trainer(folder: Path, model: Any, split: RetainedSplit, **options: Any) -> UnlearningTrainer:
    defaults: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "seed": 11,
        "use_cpu": True,
        "measure_steps": 0,
        "disable_tqdm": True,
    }
    own = {name: options.pop(name) for name in ("peft_config",) if name in options}
    args = UnlearningConfig(str(folder), **{**defaults, **options})
    return UnlearningTrainer(model, args, split.retained, split.forget, split.holdout, **own)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def without_dropout(task: str, folder: Path) -> Any:
    model = LOADERS[task].from_pretrained(folder)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_gradient_accumulation_is_one_large_batch(task: str, original: Path, tmp_path: Path) -> None:
    results = []
    for batch, accumulation in ((16, 1), (4, 4)):
        ours = trainer(
            tmp_path,
            without_dropout(task, original),
            split_of(task),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.1,
        )
        ours.train()
        results.append(weights(ours.model))
    start = weights(LOADERS[task].from_pretrained(original))
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-4, atol=1e-6, msg=name)
    assert any(not torch.allclose(weight, start[name], atol=1e-4) for name, weight in results[0].items())


def test_gradient_accumulation_with_a_model_that_takes_no_number_of_items(
    wordpiece_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    split = split_of("token-classification")
    results = []
    for batch, accumulation in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        config = EsmConfig(
            vocab_size=len(wordpiece_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, pad_token_id=0, mask_token_id=4, token_dropout=False, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, position_embedding_type="rotary", id2label=dict(enumerate(TAGS)),
            label2id={name: i for i, name in enumerate(TAGS)},
        )  # fmt: skip
        args = UnlearningConfig(
            str(tmp_path), use_cpu=True, max_steps=4, optim="sgd", learning_rate=0.1, save_strategy="no",
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, disable_tqdm=True,
        )  # fmt: skip
        ours = UnlearningTrainer(
            EsmForTokenClassification(config), args, split.retained, processing_class=wordpiece_tokenizer
        )
        ours.train()
        results.append(weights(ours.model))
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_measuring_does_not_change_the_training_and_the_same_command_gives_the_same_weights(
    task: str, original: Path, tmp_path: Path
) -> None:
    silent, measured = (trainer(tmp_path, str(original), split_of(task), measure_steps=steps) for steps in (0, 2))
    silent.train()
    torch.manual_seed(99)
    measured.train()
    assert all(torch.equal(weight, weights(measured.model)[name]) for name, weight in weights(silent.model).items())
    assert [e["step"] for e in measured.state.log_history if "forget_loss" in e] == [2]


def test_an_interrupted_training_goes_on_to_the_same_weights(task: str, original: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "max_steps": 14, "save_total_limit": 9}
    whole = trainer(tmp_path / "run", str(original), split_of(task), **options)
    whole.train()
    resumed = trainer(tmp_path / "run", str(original), split_of(task), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-12"))
    assert resumed.state.global_step == 14, "the eleventh step began the second epoch"
    assert all(torch.equal(weight, weights(resumed.model)[name]) for name, weight in weights(whole.model).items())


def test_batches_are_masked_in_training_only(wordpiece_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(wordpiece_base)
    split = split_of("fill-mask")
    args = UnlearningConfig(str(tmp_path), use_cpu=True, per_device_eval_batch_size=5, mlm_probability=0.5)
    ours = UnlearningTrainer(model, args, split.retained, split.forget, eval_dataset=split.holdout)
    loader = ours.get_train_dataloader()

    def seen() -> set[tuple[int, ...]]:
        return {
            tuple(i[m == 1].tolist()) for b in loader for i, m in zip(b["input_ids"], b["attention_mask"], strict=True)
        }

    first = seen()
    assert seen() == first, "of one epoch"
    ours.training_collator.epoch = 2  # type: ignore[union-attr]
    assert not first & seen()
    batch = next(iter(loader))
    shares = (batch["labels"] != IGNORED).sum(1) / (batch["attention_mask"].sum(1) - 2)
    assert ((shares > 0.4) & (shares < 0.6)).all()
    assert ours.evidence is not None
    for found in ours.evidence.sets["forget"]:
        hidden = [i for i, label in enumerate(found["labels"]) if label != IGNORED]
        assert 0 < len(hidden) < len(found["labels"]) - 2
        assert all(found["input_ids"][i] == 4 != found["labels"][i] for i in hidden)
    evaluated = [ours.evaluate()["eval_loss"] for _ in range(2)]
    assert evaluated[0] == evaluated[1]


# The whole road


@pytest.mark.parametrize(
    "method",
    few_of(["base", "toward_base", "fine_tune", "shrink_perturb"], {"base"}),
)
def test_the_whole_road(
    task: str,
    settings: dict[str, Any],
    original: Path,
    tmp_path: Path,
    method: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    extra = ["--with_retrained"] if method == "base" else []
    writes = bool(extra) and task == "text2text-generation"
    report = run({**settings, "method": method, "generate_records": 8 if writes else 0}, folder, *extra)
    assert report.task == task
    record = load_record(locate(str(folder)))
    assert record is not None
    assert record.labels == (TAGS if task == "token-classification" else None)
    assert list(report.arms) == ["original", "unlearned", *(["retrained"] if extra else [])]
    scores = report.arms["unlearned"].sets["retained"]
    assert (scores.accuracy is None) == (scores.perplexity is not None) == (task != "token-classification")
    quality = scores.accuracy or scores.perplexity
    assert quality is not None
    assert quality.low < quality.value < quality.high
    assert report.verdict.word == "exact" if method == "base" else report.verdict.word != "exact"
    assert report.arms["original"].membership_auc is not None
    assert report.arms["original"].membership_auc.value > (0.5 if task == "fill-mask" else 0.9)
    loaded = LOADERS[task].from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == loaded.config.get_text_config().vocab_size
    assert ("accuracy" if task == "token-classification" else "perplexity") in capsys.readouterr().out
    assert report.utility is not None
    if task == "token-classification":
        assert report.utility.loss_of == "entity_f1"
        assert scores.entity_f1 is not None
        assert set(scores.recall) == {"NAME", "PLACE"}
        assert report.arms["original"].sets["forget"].recall == {}
    elif writes:
        assert (report.utility.loss_of, report.utility.measured_on) == ("rouge_l", "holdout")
        assert report.utility.decrease.n == 8
        written = [entry.generation["holdout"] for entry in report.arms.values()]
        assert all(found.rouge_l is not None and found.exact_match is not None for found in written)
        assert "| ROUGE-L of 8 records of H |" in (folder / "README.md").read_text()
    else:
        assert report.utility.loss_of in ("gain", "loss")
        # The encoder under a masked language model has no head that could be measured.
        assert (report.utility.gain is None) == (task == "fill-mask")


def test_the_card_says_how_to_use_the_model_and_it_is_true(
    task: str, settings: dict[str, Any], original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run({**settings, "max_steps": 1}, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "out" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.pipeline_tag == {"text2text-generation": "text-generation"}.get(task, task)
    assert card.data.eval_results is not None
    assert {result.task_type for result in card.data.eval_results} == {task}
    found: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], found)
    model = found["model"]
    if task == "text2text-generation":
        assert "text2text-generation" in (card.data.tags or [])
        assert "written" in found
    else:
        assert model.task == task
        assert model("amber [MASK] basil") is not None
    assert ("mlm_probability" in text) == (task == "fill-mask")


def test_from_the_hub_and_back(
    task: str, settings: dict[str, Any], original: Path, owner: HfApi, tmp_path: Path
) -> None:
    theirs, ours = f"owner/original-{task}", f"owner/unlearned-{task}"
    owner.create_repo(theirs, private=True)
    owner.upload_folder(repo_id=theirs, folder_path=original, ignore_patterns=["checkpoint-*", "run.json"])
    Dataset.from_list(ROWS[task]()).push_to_hub(f"owner/rows-{task}", token=TOKEN)
    named = {**settings, "model_name_or_path": theirs, "dataset_name": f"owner/rows-{task}", "method": "base"}
    run({**named, "max_steps": 2, "hub_model_id": ours}, tmp_path / "out", "--push", "--push_anyway")
    local, pushed = (LOADERS[task].from_pretrained(name) for name in (tmp_path / "out", ours))
    assert all(torch.equal(a, b) for a, b in zip(local.parameters(), pushed.parameters(), strict=True))
    AutoTokenizer.from_pretrained(ours)
    assert owner.model_info(ours).pipeline_tag == TASKS[task].pipeline_tag  # type: ignore[index]


@pytest.mark.parametrize(
    "task",
    [
        "token-classification",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("fill-mask", "text2text-generation")),
    ],
    indirect=True,
)
def test_no_text_of_a_forgotten_record_leaves_a_run(
    task: str,
    settings: dict[str, Any],
    original: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "out"
    run({**settings, "method": "toward_base"}, folder, "--with_retrained")
    out = capsys.readouterr()
    rows = ROWS[task]()[:10]
    written = []
    for row in rows:
        values = row.get("tokens") or [row.get("text") or row["prompt"] + row.get("completion", "")]
        # as running text, and as the list is written in Python and in JSON
        written += [{"text": form} for form in (" ".join(values), str(values), json.dumps(values))]
    everything = {**texts_in(folder), Path("stdout"): out.out, Path("stderr"): out.err, Path("log"): caplog.text}
    assert len(everything) > 20
    assert leaks(" ".join(str(row["text"]) for row in written), written, ["text"], length=12)
    for path, text in everything.items():
        assert not leaks(text, written, ["text"], length=12), path


def test_evaluate_measures_what_others_made(
    task: str, settings: dict[str, Any], original: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    chosen = {**settings, "output_dir": str(tmp_path / "e"), "original_model": str(original)}
    path.write_text(yaml.safe_dump(chosen), encoding="utf-8")
    assert main(["evaluate", "--config", str(path)]) == 0
    report = UnlearningReport.load(tmp_path / "e" / "unlearning_report.json")
    assert report.arms["original"].sets == report.arms["unlearned"].sets, "one model under one measurement"


# Adapters


def test_adapters_where_peft_has_the_task(task: str, original: Path, tmp_path: Path) -> None:
    kind = {"token-classification": "TOKEN_CLS", "text2text-generation": "SEQ_2_SEQ_LM"}.get(task)
    lora = LoraConfig(task_type=kind, r=4, target_modules=["query", "value"])
    if kind is None:
        with pytest.raises(InputError, match="PEFT knows no adapters for fill-mask"):
            trainer(tmp_path, str(original), split_of(task), peft_config=lora)
        return
    ours = trainer(tmp_path, str(original), split_of(task), peft_config=lora)
    ours.train()
    report = ours.report()
    assert report.method.lora is not None
    ours.save_model()
    text = (tmp_path / "README.md").read_text()
    found: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0].replace(f'"{tmp_path.name}"', f'"{tmp_path}"'), found)
    loaded = found["model"]
    assert isinstance(loaded, PeftModel)
    assert ours.evidence is not None
    assert ours.evidence.score(loaded)["forget"].equals(ours.tables["unlearned"]["forget"])
    again = trainer(tmp_path / "again", str(tmp_path), split_of(task), method="toward_base")
    again.train()
    assert again.report().task == task


def test_no_adapter_is_asked_for_where_there_is_none(
    settings: dict[str, Any], task: str, original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if task != "fill-mask":
        pytest.skip("PEFT has adapters for it")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**settings, "use_peft": True, "output_dir": str(tmp_path / "o")}))
    assert main(["run", "--config", str(path)]) == 2
    assert "PEFT knows no adapters for fill-mask; leave --use_peft out" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_last_blocks_of_an_encoder_decoder_are_the_decoders(seq2seq_base: Path, tmp_path: Path) -> None:
    split = split_of("text2text-generation")
    ours = trainer(tmp_path, str(seq2seq_base), split, train_last_layers=1)
    trained = {name for name, weight in ours.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(name.startswith(("decoder.bert.encoder.layer.1.", "decoder.cls.")) for name in trained)
    with pytest.raises(InputError, match="train_last_layers=5 is not possible: the model has 4 blocks"):
        trainer(tmp_path, str(seq2seq_base), split, train_last_layers=5)


# A real model


@pytest.mark.slow
def test_a_real_encoder_learns_to_fill_masks(minilm: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"text": text[:200]} for text in corpus()[:40]])
    split = split_retained(rows, Records.rows(range(8)), holdout=Records.rows(range(32, 40)))
    path = tmp_path / "rows.jsonl"
    rows.to_json(path)
    common = {"dataset_name": str(path), "forget_rows": list(range(8)), "holdout_rows": list(range(32, 40)), "seed": 1}
    recipe = {
        **common,
        "model_name_or_path": str(tmp_path / "original"),
        "max_steps": 2,
        "method": "toward_base",
        "original": {
            "model_name_or_path": str(minilm),
            "task": "fill-mask",
            "output_dir": str(tmp_path / "original"),
            "learning_rate": 1e-3,
            "max_steps": 8,
            "max_length": 64,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main(["train", "--config", str(path)]) == 0
    report = run(recipe, tmp_path / "out")
    scores = report.arms["original"].sets["retained"]
    assert scores.records == len(split.retained) == 24  # type: ignore[arg-type]
    assert scores.perplexity is not None
    assert scores.perplexity.value < 30522 / 10, "far below guessing among all tokens"
    filled = pipeline("fill-mask", model=str(tmp_path / "out"))
    assert len(filled("the [MASK] is a function")) == 5


# Intervals


def test_the_interval_of_words_minds_that_words_of_a_record_resemble_each_other() -> None:
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(400):
        chance = rng.beta(4, 1, size=40)  # every record has a rate of its own, 0.8 on average
        trials = rng.integers(5, 15, 40)
        hits = rng.binomial(trials, chance)
        found = clustered_rate(hits, trials)
        covered += found.low <= 0.8 <= found.high
        one_by_one = clustered_rate(np.repeat([1, 0], [hits.sum(), (trials - hits).sum()]), np.ones(trials.sum(), int))
        naive += one_by_one.low <= 0.8 <= one_by_one.high
    assert covered / 400 > 0.93
    assert naive / 400 < 0.85


def test_the_interval_of_words_at_the_ends() -> None:
    sure = clustered_rate(np.array([5, 8, 3]), np.array([5, 8, 3]))
    assert (sure.value, sure.high) == (1.0, 1.0)
    assert sure.low == pytest.approx(0.025 ** (1 / 3)), "three records, however many words"
    never = clustered_rate(np.array([0, 0]), np.array([4, 4]))
    assert (never.value, never.low) == (0.0, 0.0)
    assert never.high == pytest.approx(1 - 0.025 ** (1 / 2))
    alone = clustered_rate(np.array([2]), np.array([4]))
    assert alone.low < 0.1 < 0.9 < alone.high
