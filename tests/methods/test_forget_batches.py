"""What comes in the batches of methods that use S, and in which order."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from datasets import Dataset

from hf_unlearn import InputError, UnlearningTrainer
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.replacements import REFUSALS, by_record, with_refusals
from hf_unlearn.methods.forget_batches import PAIRED, Draws, TrainingData, drawn, skip_labels

from ..training.test_trainer import config, secrets, trainer, weights

ALTERNATING = TrainingData(forget=True, alternating=True, forget_epochs=2)


def epochs(draws: Draws, count: int) -> list[list[Any]]:
    found = []
    for epoch in range(count):
        draws.set_epoch(epoch)
        found.append(list(draws))
        assert len(found[-1]) == len(draws)
    return found


def test_all_rows_come_before_any_comes_again() -> None:
    rows = drawn(3, 0, 0, 35, 10)
    for turn in range(3):
        assert sorted(rows[10 * turn : 10 * turn + 10]) == list(range(10))
    assert not np.array_equal(rows[:10], rows[10:20])
    assert np.array_equal(drawn(3, 0, 17, 9, 10), rows[17:26]), "a draw depends on its place alone"
    assert not np.array_equal(drawn(4, 0, 0, 10, 10), rows[:10])
    assert len(drawn(3, 0, 5, 0, 10)) == 0


def test_l_is_drawn_without_replacement_across_the_epochs() -> None:
    """Open-unlearning draws with replacement: in ten epochs over 10 of 60 records it would see 49 of 60 at most."""
    found = epochs(Draws(PAIRED, forget=10, retained=60, step=4, seed=1), 13)
    retained = [draw.retained for epoch in found for draw in epoch]
    assert Counter(retained[:60]) == Counter(range(60))
    assert max(Counter(retained).values()) == 3
    for number, epoch in enumerate(found):
        assert sorted(draw.forget for draw in epoch) == list(range(10))
        assert [draw.place for draw in epoch] == list(range(10 * number, 10 * number + 10))
    assert len({tuple(draw.forget for draw in epoch) for epoch in found}) == 13


def test_alternating_passes_fill_whole_steps() -> None:
    found = epochs(Draws(ALTERNATING, forget=10, retained=30, step=8, seed=1), 4)
    for number, epoch in enumerate(found):
        in_steps = [epoch[i : i + 8] for i in range(0, len(epoch), 8)]
        of_forget = [all(draw.forget is not None for draw in step) for step in in_steps]
        of_retained = [all(draw.retained is not None for draw in step) for step in in_steps]
        assert [a != b for a, b in zip(of_forget, of_retained, strict=True)] == [True] * 6, "no step holds both"
        assert of_forget == [number < 2] * 2 + [False] * 4
    retained = [draw.retained for epoch in found for draw in epoch if draw.retained is not None]
    assert max(Counter(retained).values()) - min(Counter(retained).values()) <= 1
    assert len(retained) == 2 * 32 + 2 * 48


@pytest.fixture
def run(lm_base: Path, tmp_path: Path) -> UnlearningTrainer:
    return trainer(tmp_path, str(lm_base), method="npo", max_steps=6)


def test_a_batch_holds_both_parts(run: UnlearningTrainer) -> None:
    batches = list(run.get_train_dataloader())
    assert [set(batch) for batch in batches] == [{"forget", "retained"}] * 3
    assert [len(batch["forget"]["labels"]) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat([batch["forget"]["place"] for batch in batches]).tolist()) == list(range(10))
    assert run.mixed is not None
    batch = batches[0]["forget"]
    for i, place in enumerate(batch["place"].tolist()):
        wanted = run.mixed.sets["forget"][place]["input_ids"]
        assert batch["input_ids"][i, : len(wanted)].tolist() == wanted


def test_batches_go_on_after_a_checkpoint_as_without_one(run: UnlearningTrainer) -> None:
    loader = run.get_train_dataloader()
    loader.set_epoch(1)  # type: ignore[attr-defined]
    whole = list(loader)
    skipped = skip_first_batches(run.get_train_dataloader(), 1)
    skipped.set_epoch(1)
    for batch, again in zip(whole[1:], skipped, strict=True):
        for part in batch:
            assert torch.equal(batch[part]["input_ids"], again[part]["input_ids"])


def test_other_labels_are_drawn_in_each_epoch_and_are_other_ones(classifier_original: Path, tmp_path: Path) -> None:
    from ..training.test_trainer import tickets

    run = trainer(tmp_path, str(classifier_original), tickets(), method="random_label")
    assert run.mixed is not None
    found = []
    for epoch in range(6):
        run.mixed.draws.set_epoch(epoch)
        examples = [run.mixed[draw] for draw in run.mixed.draws]
        labels = {e["forget"]["place"]: e["forget"]["labels"] for e in examples if "forget" in e}
        true = run.mixed.sets["forget"]["labels"]
        assert all(label != true[place] and 0 <= label < 3 for place, label in labels.items())
        found.append(tuple(sorted(labels.items())))
    assert len(set(found)) > 1
    retained = [e["retained"] for e in examples if "retained" in e]
    assert all(e["labels"] == run.mixed.sets["retained"]["labels"][e["place"]] for e in retained)


def test_the_first_token_of_an_answer_is_left_alone() -> None:
    assert skip_labels([-100, -100, 5, 6, 7], 1) == [-100, -100, -100, 6, 7]
    # The first token is predicted by nothing, so it is not the one that is left alone.
    assert skip_labels([4, 5, 6, 7], 1) == [-100, -100, 6, 7]


# Refusals


def test_each_record_has_a_refusal_after_its_own_prompt(lm_base: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, str(lm_base), method="dpo")
    assert run.mixed is not None
    tokenizer: Any = run.processing_class
    for batch in run.get_train_dataloader():
        for i in range(len(batch["forget"]["labels"])):
            asked, refused = (
                tokenizer.decode(batch[part]["input_ids"][i][batch[part]["labels"][i] == -100][:8])
                for part in ("forget", "instead")
            )
            assert asked[:12] == refused[:12]
            said = batch["instead"]["input_ids"][i][batch["instead"]["labels"][i] != -100]
            assert tokenizer.decode(said, skip_special_tokens=True).strip() in REFUSALS


def test_refusals_of_conversations_and_templates() -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Doe"}]
    (found,) = with_refusals(Dataset.from_list([{"messages": turns}]), RecordFormat("messages"), 0)["messages"]
    assert found[0] == turns[0]
    assert found[1]["content"] in REFUSALS
    open_ended = Dataset.from_list([{"messages": [*turns, {"role": "user", "content": "Sure?"}]}])
    (found,) = with_refusals(open_ended, RecordFormat("messages"), 0)["messages"]
    assert found[0] == turns[0]
    assert [turn["role"] for turn in found] == ["user", "assistant"], "the answer is refused, and not the question"
    assert found[1]["content"] in REFUSALS
    form = RecordFormat("prompt_completion", prompt="Q: {q} A:", completion=" {a}")
    record = with_refusals(Dataset.from_list([{"q": "Who?", "a": "Doe"}]), form, 0)[0]
    assert record["prompt"] == "Q: Who? A:"
    assert record["completion"][0] == " "
    assert record["completion"][1:] in REFUSALS
    with pytest.raises(InputError, match="only where there is a prompt"):
        with_refusals(Dataset.from_list([{"text": "Doe"}]), RecordFormat("text"), 0)


def test_pieces_of_a_document_share_what_comes_in_their_place() -> None:
    forget = Dataset.from_list([{"row": row} for row in (0, 0, 1)])
    instead = Dataset.from_list([{"row": row} for row in (0, 1, 1, 2, 3)])
    assert by_record(forget, instead, 2) == [[0, 3], [0, 3], [2, 4]]


def test_a_record_without_an_example_has_a_place_among_the_replacements() -> None:
    """The last of three records has no token, and its replacements must not be taken for those of others."""
    forget = Dataset.from_list([{"row": row} for row in (0, 1)])
    instead = Dataset.from_list([{"row": row} for row in range(6)])
    assert by_record(forget, instead, 3) == [[0, 3], [1, 4]]


# What is refused


def test_data_that_are_refused(lm_base: Path, tmp_path: Path) -> None:
    split = secrets()
    with pytest.raises(InputError, match="'npo' trains on the records to forget; give them as forget_dataset"):
        UnlearningTrainer(str(lm_base), config(tmp_path, method="npo"), split.retained)
    streamed = split.retained.to_iterable_dataset()  # type: ignore[union-attr]
    with pytest.raises(InputError, match="which a streamed one does not allow"):
        UnlearningTrainer(str(lm_base), config(tmp_path, method="npo"), streamed, split.forget)
    ids = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1]}
    examples = Dataset.from_list([{**ids, "labels": [-100, 6, 7]}] * 4)
    nothing = Dataset.from_list([{**ids, "labels": [5, -100, -100]}, {**ids, "labels": [-100, 6, 7]}])
    with pytest.raises(InputError, match="1 of the 2 examples to forget have no label that 'npo' could work on"):
        UnlearningTrainer(str(lm_base), config(tmp_path, method="npo"), examples, nothing)
    with pytest.raises(InputError, match="which tokenised examples do not allow"):
        UnlearningTrainer(str(lm_base), config(tmp_path, method="idk"), examples, examples)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "npo", "budget": 0.5}, "'npo' counts its epochs on the records to forget; set num_train_epochs"),
        ({"method": "npo", "train_sampling_strategy": "sequential"}, "draws records of both sets at random"),
        ({"method": "npo", "method_kwargs": {"gamma": 1}}, "names 'gamma', and the method 'npo' has forget_weight, "),
        ({"method": "fine_tune", "method_kwargs": {"beta": 1}}, "the method 'fine_tune' has none"),
        ({"method": "npo", "method_kwargs": {"beta": "x"}}, "beta='x' is not possible; it must be a finite number"),
        ({"method": "npo", "method_kwargs": "beta"}, "method_kwargs must be a mapping"),
        ({"method": "npo", "alpha": 0.5}, "'npo' has no alpha"),
        ({"method": "npo", "start": "zzz"}, "There is no start 'zzz'; the starts are "),
        ({"method": "base", "start": "toward_base"}, "'base' has a start, or a strength, of its own"),
        ({"method": "auto", "start": "toward_base"}, "'auto' chooses the method and its start"),
        ({"method": "scrub_rewind", "stop_when_forgotten": True}, "chooses an epoch by S"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(tmp_path, **settings)


@pytest.mark.parametrize("given", [("forget",), ("holdout",), ()])
def test_a_method_that_chooses_by_s_and_h_needs_both_before_a_model_is_loaded(
    tmp_path: Path, given: tuple[str, ...]
) -> None:
    split = secrets()
    sets = {f"{name}_dataset": vars(split)[name] for name in given}
    with pytest.raises(InputError, match="'scrub_rewind' chooses by records to forget and held-out records"):
        UnlearningTrainer("nowhere", config(tmp_path, method="scrub_rewind"), split.retained, **sets)


def test_published_settings_and_the_users_last_word(tmp_path: Path) -> None:
    npo = config(tmp_path, method="npo", learning_rate=None)
    assert (npo.learning_rate, npo.num_train_epochs, npo.warmup_steps, npo.weight_decay) == (1e-5, 10, 0.1, 0.01)
    asked = config(tmp_path, method="npo", learning_rate=1e-3, num_train_epochs=2, warmup_steps=0, weight_decay=0)
    assert (asked.learning_rate, asked.num_train_epochs, asked.warmup_steps, asked.weight_decay) == (1e-3, 2, 0, 0)
    plain = config(tmp_path, learning_rate=None)
    assert (plain.num_train_epochs, plain.warmup_steps, plain.weight_decay) == (3, 0, 0)
    assert config(tmp_path, method="npo", method_kwargs='{"beta": 0.5}').asked_options == {"beta": 0.5}


def test_any_objective_with_any_start(lm_base: Path, lm_original: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"method": "npo", "base_model_name_or_path": str(lm_base), "max_steps": 1}
    run = trainer(tmp_path, str(lm_original), start="toward_base", alpha=0.5, **options)
    ends = [weights(AutoModelForCausalLM.from_pretrained(place)) for place in (lm_original, lm_base)]
    run._move_to_start()
    for name, weight in run.model.named_parameters():
        torch.testing.assert_close(weight.detach(), (ends[0][name] + ends[1][name]) / 2)
    run = trainer(tmp_path, str(lm_original), start="toward_base", alpha=1, **options)
    run.train()
    report = run.report(audit=secrets().audit)
    assert report.verdict.word != "exact", "S was trained on, however clean the start"
    assert (report.method.start, report.method.options["beta"], report.method.trained_on_forget) == (
        "toward_base",
        0.1,
        True,
    )
