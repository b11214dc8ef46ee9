"""The generation pass: against decoding by hand, whatever the batches, and on models that know and that do not."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from hf_unlearn.cli import main
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.assemble import summarise_generation
from hf_unlearn.evaluation.generation import Generation, generate, generation_tables, is_refusal, measure
from hf_unlearn.evaluation.measured_sets import evidence_sets
from hf_unlearn.evaluation.report import UnlearningReport
from hf_unlearn.models.layers import flops_per_token

from ..conftest import secrets_rows
from ..support.models import corpus
from ..training.test_processes import LAUNCH, ROOT, launched

PAIR = RecordFormat("prompt_completion")


def examples_of(tokenizer: Any, rows: list[dict[str, Any]], layout: RecordFormat, max_length: int = 128) -> Dataset:
    examples = encode(Dataset.from_list(rows), RecordEncoder(tokenizer, layout, max_length), "test")
    assert isinstance(examples, Dataset)
    return examples


def texts() -> list[dict[str, Any]]:
    """Texts of different lengths."""
    return [{"text": text[: 40 + 17 * i]} for i, text in enumerate(corpus()[:12])]


def by_hand(model: Any, generation: Generation, ends: set[int]) -> list[int]:
    """Greedy decoding without batch, padding or cache."""
    ids = list(generation.read)
    while len(ids) < len(generation.read) + generation.new_tokens:
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return ids[len(generation.read) :]


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("pad", [None, "<|endoftext|>"])
def test_it_is_greedy_decoding(lm_original: Path, padding_side: str, pad: str | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_original, padding_side=padding_side, pad_token=pad)
    assert tokenizer.pad_token == pad
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    rows = [{**row, "prompt": "Tell me. " * (i % 3) + row["prompt"]} for i, row in enumerate(secrets_rows(7))]
    examples = examples_of(tokenizer, rows, PAIR)
    found = generate(model, examples, tokenizer, task="text-generation", batch_size=4, prefixes=(0, 2), new_tokens=12)
    assert [(g.row, g.passage, g.prefix) for g in found] == [(row, 0, p) for row in range(7) for p in (0, 2)]
    assert any(len(g.written) < g.new_tokens for g in found), "some must end before"
    for generation in found:
        assert generation.written == by_hand(model, generation, {tokenizer.eos_token_id})
        example = examples[generation.row]
        answer = [i for i in example["labels"] if i != -100]
        assert generation.read == example["input_ids"][: -len(answer)] + answer[: generation.prefix]
        assert generation.wanted == answer[generation.prefix : -1], "EOS is no part of the text"


def test_samples_among_the_likeliest_tokens(lm_base: Path) -> None:
    tokenizer, model = (kind.from_pretrained(lm_base) for kind in (AutoTokenizer, AutoModelForCausalLM))
    examples = examples_of(tokenizer, secrets_rows(3), PAIR)
    options: dict[str, Any] = {"task": "text-generation", "batch_size": 4, "prefixes": (0,), "new_tokens": 12}
    greedy = [one.written for one in generate(model, examples, tokenizer, **options)]
    one, few, all_tokens = (
        [one.written for one in generate(model, examples, tokenizer, samples=1, top_k=k, **options)] for k in (1, 3, 0)
    )
    assert one == greedy
    assert few != greedy
    for given, written in zip(examples, few, strict=True):
        read = [i for i, label in zip(given["input_ids"], given["labels"], strict=True) if label == -100]
        with torch.no_grad():
            logits = model(torch.tensor([read + written])).logits[0, len(read) - 1 : -1]
        assert all(token in row.topk(3).indices for token, row in zip(written, logits, strict=True))
    assert all_tokens != few


def test_batches_do_not_matter(lm_original: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    examples = examples_of(tokenizer, texts(), RecordFormat("text"), max_length=48)
    runs = [
        generate(model, examples, tokenizer, task="text-generation", batch_size=size, prefixes=(4, 16), new_tokens=20)
        for size in (1, 5, 64)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert len({g.row for g in runs[0]}) == 12
    assert max(g.passage for g in runs[0]) > 0, "a long document has several passages"
    tables = [measure(run, tokenizer) for run in runs]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


@pytest.mark.slow
def test_two_processes_write_what_one_writes(lm_original: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    examples = examples_of(tokenizer, secrets_rows(10), PAIR)
    alone = generate(model, examples, tokenizer, task="text-generation", batch_size=4, prefixes=(0, 2))
    done = launched(*LAUNCH, str(ROOT / "tests" / "support" / "two_writers.py"), str(lm_original), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    for process in (0, 1):
        found = json.loads((tmp_path / f"{process}.json").read_text())
        assert found["whole"] == found["sharded"] == [generation.written for generation in alone]


def test_what_was_learned_by_heart_is_extracted_and_a_fresh_model_knows_nothing(
    lm_by_heart: Path, lm_base: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    examples = examples_of(tokenizer, secrets_rows(10), PAIR)
    for folder, expected in ((lm_by_heart, 1.0), (lm_base, 0.0)):
        model = AutoModelForCausalLM.from_pretrained(folder)
        found = generate(model, examples, tokenizer, task="text-generation", batch_size=8, prefixes=(0, 1, 2, 4))
        table = measure(found, tokenizer)
        assert set(table["prefix"].to_pylist()) == {0, 1, 2, 4}
        assert table["extracted"].to_numpy(zero_copy_only=False).mean() == expected
        if expected:
            assert set(table["rougeL_recall"].to_pylist()) == {1.0}
            assert table["matched"].equals(table["tokens"])
        else:
            assert np.mean(table["rougeL_recall"].to_numpy()) < 0.2


def test_no_line_of_the_table_holds_text(lm_by_heart: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_by_heart)
    examples = examples_of(tokenizer, secrets_rows(3), PAIR)
    model = AutoModelForCausalLM.from_pretrained(lm_by_heart)
    found = generate(model, examples, tokenizer, task="text-generation", batch_size=8)
    for column in measure(found, tokenizer).schema:
        assert (
            pa.types.is_integer(column.type) or pa.types.is_boolean(column.type) or pa.types.is_floating(column.type)
        )
    assert all(str(token) not in repr(found[0]).split() for token in found[0].written if token > 20)
    assert "read" not in repr(found[0])


def test_the_models_settings_and_state_are_left_out_and_left_alone(lm_original: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    examples = examples_of(tokenizer, secrets_rows(4), PAIR)
    options: dict[str, Any] = {"task": "text-generation", "batch_size": 4, "prefixes": (0,), "new_tokens": 10}
    plain = generate(AutoModelForCausalLM.from_pretrained(lm_original), examples, tokenizer, **options)
    model = AutoModelForCausalLM.from_pretrained(lm_original).train()
    model.model.layers[0].eval()
    own = model.generation_config
    own.do_sample, own.repetition_penalty, own.temperature, own.suppress_tokens = True, 5.0, 3.0, [plain[0].written[0]]
    settings = own.to_dict()
    torch.manual_seed(0)
    random.seed(0)
    expected = torch.rand(3), random.random()
    torch.manual_seed(0)
    random.seed(0)
    assert generate(model, examples, tokenizer, **options) == plain
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    assert model.training
    assert model.model.layers[1].training
    assert not model.model.layers[0].training
    assert model.generation_config is own
    assert own.to_dict() == settings


def test_a_failed_pass_leaves_the_model_as_it_was(lm_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    model = AutoModelForCausalLM.from_pretrained(lm_base).train()
    own = model.generation_config
    beyond = Dataset.from_list([{"input_ids": [5, 10**6, 7], "labels": [-100, -100, 7], "row": 0}])
    with pytest.raises(IndexError):
        generate(model, beyond, tokenizer, task="text-generation", batch_size=1, prefixes=(0,))
    assert model.training
    assert model.generation_config is own


def test_half_precision_and_adapters(lm_by_heart: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_by_heart)
    examples = examples_of(tokenizer, secrets_rows(10), PAIR)
    half = AutoModelForCausalLM.from_pretrained(lm_by_heart, dtype=torch.bfloat16)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_by_heart), LoraConfig(task_type="CAUSAL_LM", r=2))
    for model in (half, adapted):
        found = generate(model, examples, tokenizer, task="text-generation", batch_size=3)
        assert all(measure(found, tokenizer)["extracted"].to_pylist())
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    found = generate(adapted, examples, tokenizer, task="text-generation", batch_size=3)
    assert not any(measure(found, tokenizer)["extracted"].to_pylist()), "the adapter must take part"


def test_no_position_beyond_the_models_last(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    """Learned positions have an end, which records up to the limit with a long answer to write would cross."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(byte_level_tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2,
        eos_token_id=byte_level_tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    rows = [{"prompt": "word " * n, "completion": "and more"} for n in (1, 3, 5, 7)]
    examples = examples_of(byte_level_tokenizer, rows, PAIR, max_length=32)
    runs = [
        generate(model, examples, byte_level_tokenizer, task="text-generation", batch_size=size, prefixes=(0, 1))
        for size in (1, 8)
    ]
    assert runs[0] == runs[1]
    assert all(len(g.read) + g.new_tokens <= 32 for g in runs[0])
    for generation in runs[1]:
        assert generation.written == by_hand(model, generation, {byte_level_tokenizer.eos_token_id})


def test_an_encoder_decoder(seq2seq_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(seq2seq_base)
    model = AutoModelForSeq2SeqLM.from_pretrained(seq2seq_base)
    rows = [{**row, "prompt": "Tell me. " * (i % 3) + row["prompt"]} for i, row in enumerate(secrets_rows(6))]
    examples = examples_of(tokenizer, rows, RecordFormat("text_pairs"))
    batch = [torch.tensor(example["input_ids"]) for example in examples]
    labels = torch.tensor([example["labels"][:7] for example in examples])
    padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(ids) for ids in batch], batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(15):
        model(input_ids=padded, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    options: dict[str, Any] = {"task": "text2text-generation", "prefixes": (0, 2), "new_tokens": 9}
    runs = [generate(model, examples, tokenizer, batch_size=size, **options) for size in (1, 4)]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 12
    for generation in runs[0]:
        assert generation.prefix + len(generation.wanted) == len(examples[generation.row]["labels"]) - 2
        ids = [tokenizer.cls_token_id, *generation.begun]
        given = len(ids)
        while len(ids) < given + generation.new_tokens:
            with torch.no_grad():
                out = model(input_ids=torch.tensor([generation.read]), decoder_input_ids=torch.tensor([ids]))
            token = int(out.logits[0, -1].argmax())
            if token == tokenizer.sep_token_id:
                break
            ids.append(token)
        assert generation.written == ids[given:]


def test_a_text_without_a_prompt_begins_after_its_first_special_token(lm_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    bos = tokenizer.eos_token_id
    texts = [[bos, 40, 41, 42, bos], [50, 51, 52]]
    examples = Dataset.from_list([{"input_ids": ids, "labels": ids, "row": i} for i, ids in enumerate(texts)])
    found = generate(model, examples, tokenizer, task="text-generation", batch_size=4, prefixes=(0, 1, 2, 3))
    lines = [(g.row, g.prefix, g.read, g.wanted) for g in found]
    assert lines == [
        (0, 1, [bos, 40], [41, 42]),
        (0, 2, [bos, 40, 41], [42]),
        (1, 1, [50], [51, 52]),
        (1, 2, [50, 51], [52]),
    ]


def test_conversations_have_a_passage_for_each_answer(lm_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    turns = [("user", "Who?"), ("assistant", "Ada Lovelace"), ("user", "When?"), ("assistant", "In 1815")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]}]
    examples = examples_of(tokenizer, rows, RecordFormat("messages"))
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    found = generate(model, examples, tokenizer, task="text-generation", batch_size=4, prefixes=(0,))
    assert [(g.passage, tokenizer.decode(g.wanted).strip()) for g in found] == [(0, "Ada Lovelace"), (1, "In 1815")]
    assert tokenizer.decode(found[1].read).endswith("user: When?\nassistant:")


def test_what_cannot_be_asked(lm_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    examples = examples_of(tokenizer, secrets_rows(2), PAIR)
    options: dict[str, Any] = {"task": "text-generation", "batch_size": 4}
    with pytest.raises(InputError, match="text-classification writes no text"):
        generate(model, examples, tokenizer, **{**options, "task": "text-classification"})
    for wrong in ({"prefixes": ()}, {"prefixes": (-1,)}, {"new_tokens": 0}):
        with pytest.raises(InputError, match="must be at least 0 and 1"):
            generate(model, examples, tokenizer, **options, **wrong)
    nothing = generate(model, examples, tokenizer, **options, prefixes=(100,))
    assert measure(nothing, tokenizer).num_rows == len(nothing) == 0


# Measures


def compared(tokenizer: Any, wanted: str, written: str) -> dict[str, Any]:
    ids = [tokenizer(text)["input_ids"] for text in (wanted, written)]
    return measure([Generation(3, 0, 8, [1], [], ids[0], 50, ids[1])], tokenizer).to_pylist()[0]


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


@pytest.mark.parametrize("seed", range(5))
def test_rouge_against_the_formula(byte_level_tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    draw = random.Random(seed)
    wanted, written = ([draw.choice(["red", "blue", "cat", "dog", "sky"]) for _ in range(9)] for _ in range(2))
    line = compared(byte_level_tokenizer, " ".join(wanted), " ".join(written))
    common = sum(min(wanted.count(word), written.count(word)) for word in set(wanted))
    assert line["rouge1_recall"] == pytest.approx(common / 9)
    assert line["rougeL_recall"] == pytest.approx(longest_common(wanted, written) / 9)


def test_a_line_of_the_table(byte_level_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    line = compared(byte_level_tokenizer, "The cats were running home.", "the cat runs home!")
    assert line["rougeL_recall"] == pytest.approx(3 / 5 + 1 / 5), "words are stemmed and their case is ignored"
    assert (line["row"], line["passage"], line["prefix"], line["refused"]) == (3, 0, 8, False)
    whole = "one two three four five six seven eight"
    ids = byte_level_tokenizer(whole)["input_ids"]
    start = byte_level_tokenizer.decode(ids[:6])
    assert byte_level_tokenizer(start)["input_ids"] == ids[:6]
    for continuation, tokens, extracted in ((50, len(ids), False), (6, 6, True), (5, 5, True), (7, 7, False)):
        monkeypatch.setattr("hf_unlearn.evaluation.generation.CONTINUATION", continuation)
        line = compared(byte_level_tokenizer, whole, start)
        assert (line["tokens"], line["extracted"]) == (tokens, extracted)
        assert (line["matched"], line["written"]) == (min(6, tokens), 6)
    assert not compared(byte_level_tokenizer, whole, "")["extracted"]


def test_other_scripts_have_no_rouge(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    line = compared(byte_level_tokenizer, "Привет, мир", "Привет, мир")
    assert line["rougeL_recall"] is line["rouge1_recall"] is None
    assert line["extracted"]


def test_refusals(shared: Path) -> None:
    folder = shared / "data" / "tofu"
    refusals = (folder / "idontknow.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [
        json.loads(line)["answer"]
        for name in ("full", "real_authors", "world_facts")
        for line in (folder / f"{name}.json").read_text(encoding="utf-8").splitlines()
    ]
    assert np.mean([is_refusal(text) for text in refusals]) >= 0.85
    assert not any(is_refusal(text) for text in answers)


def test_only_the_first_sentence_refuses() -> None:
    assert is_refusal("  I’m not sure about that. He was born in 1958.")
    assert not is_refusal("He was born in 1958. I'm not sure where.")
    assert not is_refusal("He was an air traffic controller, as an airport needs.")
    assert not is_refusal("")


def test_a_report_on_what_was_written(lm_original: Path, lm_settings: dict[str, Any], tmp_path: Path) -> None:
    """Against the table of all records, since fewer than are asked for are all of them; and nothing else is told."""
    settings = {key: value for key, value in lm_settings.items() if key != "original"}
    path = tmp_path / "recipe.yaml"
    for name, records in (("without", 0), ("with", 50)):
        path.write_text(yaml.safe_dump({**settings, "budget": 0.05, "output_dir": str(tmp_path / name)}))
        assert main(["run", "--config", str(path), "--generate_records", str(records)]) == 0
    before, report = (
        UnlearningReport.load(tmp_path / name / "unlearning_report.json") for name in ("without", "with")
    )
    assert not any(arm.generation for arm in before.arms.values())
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    lengths = []
    for arm, folder in (("original", lm_original), ("unlearned", tmp_path / "with")):
        model = AutoModelForCausalLM.from_pretrained(folder)
        for name, rows in (("forget", secrets_rows()[:10]), ("holdout", secrets_rows()[50:])):
            examples = examples_of(tokenizer, rows, PAIR)
            found = generate(model, examples, tokenizer, task="text-generation", batch_size=16)
            lengths += [len(ids) for one in found for ids in (one.read, one.written)]
            lines = measure(found, tokenizer).to_pylist()
            first = [line for line in lines if line["prefix"] == 0]
            scores = report.arms[arm].generation[name]
            assert scores.records == scores.refusal_rate.n == 10
            assert scores.rouge_l_recall is not None
            assert scores.rouge_l_recall.value == pytest.approx(sum(line["rougeL_recall"] for line in first) / 10)
            assert scores.extracted["0"].value == sum(line["extracted"] for line in first) / 10
            assert set(scores.extracted) == {str(line["prefix"]) for line in lines}
    assert report.arms["original"].generation["forget"].extracted["8"].value > 0.5, "it knows them by heart"
    assert report.cost is not None
    assert before.cost is not None
    made = report.cost.measuring_flops + report.cost.kept_flops - before.cost.measuring_flops
    assert made == pytest.approx(sum(lengths) * flops_per_token(model)[1])
    card = (tmp_path / "with" / "README.md").read_text()
    assert "| ROUGE-L recall of 10 records of S |" in card
    assert "| written out after 0 tokens, of 10 records of H |" in card
    told = card + (tmp_path / "with" / "unlearning_report.json").read_text()
    assert not any(row["completion"].strip() in told for row in secrets_rows())


def line(row: int, passage: int, prefix: int, extracted: bool, rouge: float | None, refused: bool) -> dict[str, Any]:
    return {"row": row, "passage": passage, "prefix": prefix, "tokens": 3, "matched": 0, "extracted": extracted,
            "rouge1_recall": rouge, "rougeL_recall": rouge, "rougeL": rouge and rouge / 2, "equal": extracted,
            "written": 3, "refused": refused}  # fmt: skip


def test_several_texts_of_a_record_are_not_several_records() -> None:
    lines = [
        line(0, 0, 0, True, 1.0, False), line(0, 0, 8, True, 1.0, False), line(0, 1, 0, True, 0.5, True),
        line(2, 0, 8, False, None, False), line(3, 0, 0, False, 0.0, False), line(3, 0, 8, True, 0.9, True),
    ]  # fmt: skip
    scores = summarise_generation(pa.Table.from_pylist(lines))
    assert scores.records == 3
    assert scores.rouge_l_recall is not None
    assert (scores.rouge_l_recall.value, scores.rouge_l_recall.n) == (0.5, 2)
    assert (scores.refusal_rate.value, scores.refusal_rate.n) == (0.25, 3)
    assert scores.rouge_l is not None
    assert scores.exact_match is not None
    assert (scores.rouge_l.value, scores.exact_match.value, scores.exact_match.n) == (0.25, 0.5, 3)
    assert {given: (share.value, share.n) for given, share in scores.extracted.items()} == {
        "0": (2 / 3, 2),
        "8": (2 / 3, 3),
    }
    grouped = pa.Table.from_pylist([{**found, "group": found["row"] // 3} for found in lines])
    assert summarise_generation(grouped).extracted["8"].n == 2


def test_only_records_of_s_and_h_are_written_on_from(lm_original: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    texts = [{"text": f"{row['prompt']}{row['completion']}"} for row in secrets_rows(8)]
    rows: Any = {name: Dataset.from_list(texts) for name in ("forget", "retained")}
    encoder = RecordEncoder(tokenizer, RecordFormat("text"), 128)
    evidence = evidence_sets(rows, encoder, PaddingCollator(0), "text-generation", 3, 0, tokenizer=tokenizer)
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    tables, tokens = generation_tables(model, evidence, tokenizer, records=4, seed=1)
    assert list(tables) == ["forget"]
    assert len(set(tables["forget"]["row"].to_pylist())) == 4
    assert tokens > 0
    scores = summarise_generation(tables["forget"])
    assert min(map(int, scores.extracted)) == 8, "without a prompt its first tokens are given"
    other, _ = generation_tables(model, evidence, tokenizer, records=4, seed=2)
    assert other["forget"]["row"] != tables["forget"]["row"]


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_a_classifier_writes_nothing(
    classifier_settings: dict[str, Any],
    classifier_original: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    settings = {key: value for key, value in classifier_settings.items() if key != "original"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**settings, "output_dir": str(tmp_path / "out")}))
    assert main([command, "--config", str(path), "--generate_records", "3"]) == 2
    assert "A model for text-classification writes no text" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([command, "--config", str(path), "--generate_records", "-1"]) == 2
    assert "generate_records=-1 is not possible" in capsys.readouterr().err


def test_another_tools_model_is_let_write_on(
    lm_settings: dict[str, Any], lm_by_heart: Path, lm_base: Path, tmp_path: Path
) -> None:
    settings = {key: value for key, value in lm_settings.items() if key != "original"}
    path = tmp_path / "recipe.yaml"
    out = tmp_path / "out"
    more = {"model_name_or_path": str(lm_base), "original_model": str(lm_by_heart), "output_dir": str(out)}
    path.write_text(yaml.safe_dump({**settings, **more}))
    assert main(["evaluate", "--config", str(path), "--generate_records", "5"]) == 0
    arms = UnlearningReport.load(out / "unlearning_report.json").arms
    assert arms["original"].generation["forget"].extracted["0"].value == 1
    assert arms["unlearned"].generation["forget"].extracted["0"].value == 0
