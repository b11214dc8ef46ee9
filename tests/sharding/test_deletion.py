"""A deletion trains the touched shards again and leaves all others as they are, byte for byte."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from hf_unlearn import InputError, UnlearningReport, jobs, load_sharded, publish
from hf_unlearn.cli import main
from hf_unlearn.data.request.digests import load_digest_key
from hf_unlearn.evaluation.report import REPORT_FILE
from hf_unlearn.jobs.finished_run import audit
from hf_unlearn.jobs.helping.whereabouts import Search, found_model
from hf_unlearn.lifecycle.derived_models import derived_models
from hf_unlearn.lifecycle.erase import erase
from hf_unlearn.lifecycle.erase_plan import plan_erasure
from hf_unlearn.lifecycle.hub_repository import HubRepo
from hf_unlearn.models.location import locate
from hf_unlearn.publishing.ledger import LEDGER_FILE
from hf_unlearn.publishing.ledger_of_model import ledger_of
from hf_unlearn.publishing.loaded_files import marked_in
from hf_unlearn.sharding.layout import SHARDING_FILE, WEIGHTS

from ..conftest import write_rows
from .conftest import (
    CLASSIFIER,
    KEY,
    OWNERS,
    RARE_OWNER,
    Delete,
    Train,
    adapters,
    deleted_in_a_row,
    question_rows,
    same_files,
    sharding_of,
    shards_of,
    ticket_rows,
    without,
    write_key,
)

FIRST = OWNERS[2]
SECOND = next(owner for owner in OWNERS if shards_of()[owner] != shards_of()[FIRST])


def states(model: Path, owners: list[str], key: Path, column: str = "customer") -> list[str]:
    return Search(column, owners, load_digest_key(key)).ask(found_model(str(model))).states


def test_deletions_in_a_row_end_where_a_training_without_the_owners_ends(
    sharded: Path, train_shards: Train, delete: Delete, key_file: Path, tmp_path: Path
) -> None:
    first = delete(sharded, tmp_path / "one", [FIRST])
    second = delete(tmp_path / "one", tmp_path / "two", [SECOND])
    same_files(tmp_path / "two", train_shards(tmp_path / "never", without(FIRST, SECOND)))
    shards, before, after = shards_of(), adapters(sharded), adapters(tmp_path / "one")
    moved = {name.split("/")[1] for name in before if before[name] != after.get(name)}
    assert moved == {f"{shards[FIRST]:04d}"}
    for report, owner in ((first, FIRST), (second, SECOND)):
        assert report.verdict.word == "exact"
        assert report.shards is not None
        assert (report.shards.retrained, report.shards.dropped, report.shards.kept) == ([shards[owner]], [], 3)
        assert report.shards.copies_elsewhere == report.shards.unproven == 0
        assert report.cost is not None
        assert report.cost.training_ratio is not None
        assert 0 < report.cost.training_ratio < 0.6
        assert 0 < report.shards.price < 0.6
        assert report.router is None
    ledger = ledger_of(locate(str(tmp_path / "two")))
    assert ledger is not None
    assert [run.verdict for run in ledger.runs] == ["exact", "exact"]
    # Which model has whom is told by the digests of the owners.
    asked = [FIRST, SECOND, living := next(owner for owner in OWNERS if owner not in (FIRST, SECOND)), "nobody"]
    assert states(sharded, asked, key_file) == ["trained"] * 3 + ["not in it"]
    assert states(tmp_path / "one", asked, key_file) == ["forgotten", "trained", "trained", "not in it"]
    assert states(tmp_path / "two", asked, key_file) == ["forgotten", "forgotten", "trained", "not in it"]
    assert states(sharded, asked, key_file, "prompt") == ["unknown"] * 4
    assert states(sharded, asked, write_key(tmp_path / "other.key", KEY[::-1])) == ["unknown"] * 4
    # What is answered now is what answers to strangers, and what a model answers that never saw the owner.
    model = load_sharded(str(tmp_path / "two"), digest_key_file=str(key_file))
    assert model.shards_of([FIRST, SECOND, living]) == [None, None, shards[living]]
    assert first.arms["unlearned"].sets["forget"].loss.value > first.arms["original"].sets["forget"].loss.value
    card = (tmp_path / "two" / "README.md").read_text(encoding="utf-8")
    assert "load_sharded" in card
    assert "3 are byte for byte as before" in card
    for path in (tmp_path / "two").rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".md"):
            assert FIRST not in path.read_text(encoding="utf-8"), path.name
            assert "The code of" not in path.read_text(encoding="utf-8"), path.name


def test_where_ledger_and_report_are_gone_the_model_says_so(sharded: Path, delete: Delete, tmp_path: Path) -> None:
    """In a model that is dealt into adapters, too: what was forgotten would come back without a word."""
    assert marked_in(locate(str(sharded))) is None
    delete(sharded, tmp_path / "one", [FIRST])
    assert marked_in(locate(str(tmp_path / "one"))) == SHARDING_FILE
    assert ledger_of(locate(str(tmp_path / "one"))) is not None
    # What decides who is answered by which adapter is under the ledger.
    path = tmp_path / "one" / SHARDING_FILE
    whole = path.read_text()
    path.write_text(whole.replace('"seed"', '"seed" '))
    with pytest.raises(InputError, match=r"sharding.json of 'one', which are loaded with the weights, are not those"):
        ledger_of(locate(str(tmp_path / "one")))
    path.write_text(whole)
    for name in (LEDGER_FILE, REPORT_FILE):
        (tmp_path / "one" / name).unlink()
    with pytest.raises(InputError, match="A ledger belongs to 'one', as its sharding.json says, and .* is missing"):
        delete(tmp_path / "one", tmp_path / "two", [SECOND])
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_several_owners_in_one_request_are_as_one_after_another(
    sharded: Path, train_shards: Train, delete: Delete, tmp_path: Path
) -> None:
    report = delete(sharded, tmp_path / "both", [FIRST, SECOND])
    assert report.shards is not None
    assert report.shards.retrained == sorted({shards_of()[FIRST], shards_of()[SECOND]})
    same_files(tmp_path / "both", train_shards(tmp_path / "never", without(FIRST, SECOND)))
    # The same command finds it finished.
    assert delete(sharded, tmp_path / "both", [FIRST, SECOND]).created == report.created


@pytest.mark.slow
def test_a_dropped_shard_is_trained_by_the_next_run(
    sharded: Path, train_shards: Train, delete: Delete, tmp_path: Path
) -> None:
    dropped = shards_of()[FIRST]
    report = delete(sharded, tmp_path / "dropped", [FIRST], drop=True)
    assert report.verdict.word == "exact"
    assert report.shards is not None
    assert (report.shards.retrained, report.shards.dropped, report.shards.price) == ([], [dropped], 0.0)
    assert not (tmp_path / "dropped" / "shards" / f"{dropped:04d}").exists()
    assert sharding_of(tmp_path / "dropped").part(dropped) is None
    later = delete(tmp_path / "dropped", tmp_path / "later", [SECOND])
    assert later.shards is not None
    assert later.shards.retrained == sorted({dropped, shards_of()[SECOND]})
    same_files(tmp_path / "later", train_shards(tmp_path / "never", without(FIRST, SECOND)))


@pytest.mark.slow
def test_a_shard_without_owners_has_no_adapter(
    sharded: Path, train_shards: Train, delete: Delete, tmp_path: Path
) -> None:
    gone = shards_of()[FIRST]
    owners = [owner for owner in OWNERS if shards_of()[owner] == gone]
    report = delete(sharded, tmp_path / "gone", owners)
    assert report.shards is not None
    assert (report.shards.retrained, report.shards.dropped) == ([], [gone])
    same_files(tmp_path / "gone", train_shards(tmp_path / "never", without(*owners)))


@pytest.mark.slow
def test_a_sharded_model_goes_to_the_hub_and_the_next_deletion_begins_there(
    owner: HfApi, lm_base: Path, train_shards: Train, delete: Delete, key_file: Path, tmp_path: Path
) -> None:
    base = "owner/base-of-shards"
    owner.create_repo(base, private=True)
    owner.upload_folder(repo_id=base, folder_path=lm_base)
    model = train_shards(tmp_path / "model", question_rows(), model_name_or_path=base)
    delete(model, tmp_path / "one", [FIRST], push=True, hub_model_id="owner/sharded")
    report = delete(Path("owner/sharded"), tmp_path / "two", [SECOND])
    assert report.verdict.word == "exact"
    assert report.shards is not None
    assert report.shards.kept == 3
    same_files(
        tmp_path / "two",
        train_shards(tmp_path / "never", without(FIRST, SECOND), model_name_or_path=base),
    )
    served = load_sharded("owner/sharded", digest_key_file=str(key_file))
    assert served.shards_of([FIRST, SECOND]) == [None, shards_of()[SECOND]]
    inputs = served.tokenizer(["The code of"], return_tensors="pt")
    assert served([SECOND], **inputs).shape[0] == 1


def test_a_dropped_adapter_leaves_the_repository(
    owner: HfApi, lm_base: Path, train_shards: Train, delete: Delete, tmp_path: Path
) -> None:
    base, name = "owner/base-of-dropped", "owner/dropped"
    owner.create_repo(base, private=True)
    owner.upload_folder(repo_id=base, folder_path=lm_base)
    model = train_shards(tmp_path / "model", question_rows(), model_name_or_path=base)
    delete(model, tmp_path / "one", [FIRST], push=True, hub_model_id=name)
    gone = f"shards/{shards_of()[SECOND]:04d}/"
    assert any(path.startswith(gone) for path in owner.list_repo_files(name))
    more = {"drop": True, "push": True, "hub_model_id": name, "push_to_existing": True, "push_anyway": True}
    delete(Path(name), tmp_path / "two", [SECOND], **more)
    left = [path for path in owner.list_repo_files(name) if path.startswith("shards/")]
    assert not any(path.startswith(gone) for path in left)
    assert {path.split("/")[1] for path in left} == {
        f"{part.number:04d}" for part in sharding_of(tmp_path / "two").parts
    }


@pytest.mark.slow
def test_a_sharded_model_on_a_folder_is_not_published(sharded: Path, delete: Delete, tmp_path: Path) -> None:
    delete(sharded, tmp_path / "one", [FIRST])
    with pytest.raises(InputError, match="base model is a folder of this machine"):
        publish(tmp_path / "one", "owner/local")


@pytest.mark.slow
def test_copies_in_other_shards_are_told_and_the_word_is_not_exact(
    train_shards: Train, delete: Delete, tmp_path: Path
) -> None:
    other = next(owner for owner in OWNERS if shards_of()[owner] != shards_of()[FIRST])
    own = next(row for row in question_rows() if row["customer"] == FIRST)
    data = write_rows(tmp_path / "copied.jsonl", [*question_rows(), {**own, "customer": other}])
    model = train_shards(tmp_path / "copied", [])
    report = delete(model, tmp_path / "out", [FIRST], data=data)
    assert report.shards is not None
    assert report.shards.copies_elsewhere == 1
    assert report.verdict.word != "exact"
    assert "1 rows of other shards have a text of S" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_what_no_record_shows_is_not_exact(sharded: Path, delete: Delete, tmp_path: Path) -> None:
    changed = next(owner for owner in OWNERS if shards_of()[owner] != shards_of()[FIRST])
    rows = [row | ({"prompt": "Another question"} if row["customer"] == changed else {}) for row in question_rows()]
    data = write_rows(tmp_path / "changed.jsonl", rows)
    held_out = write_rows(tmp_path / "held_out.jsonl", question_rows(["stranger 1", "stranger 2", "stranger 3"]))
    report = delete(sharded, tmp_path / "out", [FIRST], data=data, holdout_dataset=str(held_out))
    assert report.shards is not None
    assert report.shards.unproven == 1
    assert report.verdict.word != "exact"
    assert any("no" in line and "other rows than the data set has" in line for line in report.verdict.warnings)
    # To strangers the base answers before and after.
    losses = {arm: entry.sets["holdout"].loss.value for arm, entry in report.arms.items()}
    assert losses["original"] == pytest.approx(losses["unlearned"], rel=1e-5)


@pytest.mark.slow
def test_a_class_of_one_owner_alone_leaves_all_heads(
    classifier: Path, train_shards: Train, delete: Delete, encoder_base: Path, tmp_path: Path
) -> None:
    rows = [row for row in ticket_rows() if not (row["customer"] == RARE_OWNER and row["label"] == "other")]
    data = write_rows(tmp_path / "tickets.jsonl", ticket_rows())
    report = delete(classifier, tmp_path / "out", [], data=data, forget_values=["label=other"])
    assert report.shards is not None
    assert (report.shards.kept, report.shards.price) == (0, 1.0)
    assert report.verdict.word == "exact"
    assert sharding_of(tmp_path / "out").labels == ["billing", "delivery"]
    never = train_shards(tmp_path / "never", rows, model_name_or_path=str(encoder_base), **CLASSIFIER)
    same_files(tmp_path / "out", never)


@pytest.mark.slow
def test_twenty_deletions_in_a_row_that_are_killed_end_where_a_training_without_the_owners_ends(
    train_shards: Train, key_file: Path, tmp_path: Path
) -> None:
    many = [f"m-{number:02d}" for number in range(32)]
    gone, rows = many[:20], question_rows(many)
    model = train_shards(tmp_path / "model", rows, shards=8)
    flags = {
        "dataset_name": model.with_suffix(".jsonl"), "digest_key_file": key_file, "near_duplicates": "ignore",
        "use_cpu": True, "disable_tqdm": True, "save_steps": 2,
    }  # fmt: skip
    folders, kills = deleted_in_a_row(tmp_path / "row", model, gone, flags)
    assert kills >= 5
    ledger = ledger_of(locate(str(folders[-1])))
    assert ledger is not None
    assert len(ledger.runs) == len(gone)
    rest = [row for row in rows if row["customer"] not in gone]
    same_files(folders[-1], train_shards(tmp_path / "never", rest, shards=8))


def test_what_does_not_fit_is_said_before_anything_is_written(
    sharded: Path, lm_base: Path, delete: Delete, tmp_path: Path
) -> None:
    other = write_key(tmp_path / "other.key", "ab" * 32)
    for settings, words in (
        ({"digest_key_file": str(other)}, "not the key that the owners were dealt by"),
        ({"digest_key_file": None}, "name that one with --digest_key_file"),
        ({"method": "npo"}, "leave --method out"),
        ({"num_train_epochs": 7}, r"other settings \(num_train_epochs\)"),
        ({"with_retrained": True}, "--with_retrained does not go together"),
        ({"model_name_or_path": str(lm_base), "drop": True}, "--drop is for a model that is dealt into shards"),
        ({"model_name_or_path": str(lm_base), "shard_processes": 2}, "--shard_processes is for a model that is dealt"),
    ):
        with pytest.raises(InputError, match=words):
            delete(sharded, tmp_path / "out", [FIRST], **settings)
        assert not (tmp_path / "out").exists()
    broken = shutil.copytree(sharded, tmp_path / "broken")
    weights = broken / sharding_of(broken).parts[0].folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="is not the one that sharding.json names"):
        delete(broken, tmp_path / "out", [next(o for o in OWNERS if shards_of()[o] != 0)])


def test_a_sharded_model_is_evaluated_by_owner_and_against_others_like_it(
    sharded: Path, train_shards: Train, delete: Delete, key_file: Path, lm_base: Path, tmp_path: Path
) -> None:
    held_out = write_rows(tmp_path / "held_out.jsonl", question_rows(["stranger 1", "stranger 2", "stranger 3"]))
    never = train_shards(tmp_path / "never", without(FIRST))
    delete(sharded, tmp_path / "one", [FIRST], holdout_dataset=str(held_out))
    values = {
        "dataset_name": str(tmp_path / "data.jsonl"),
        "forget_values": [f"customer={FIRST}"],
        "holdout_dataset": str(held_out),
        "digest_key_file": str(key_file),
        "near_duplicates": "ignore",
        "use_cpu": True,
        "output_dir": str(tmp_path / "evaluation"),
        "model_name_or_path": str(tmp_path / "one"),
        "original_model": str(sharded),
        "retrained_model": str(never),
    }
    report = jobs.evaluate(values)
    deletion = UnlearningReport.load(tmp_path / "one" / "unlearning_report.json")
    for arm in ("original", "unlearned"):
        for name in ("forget", "holdout"):
            found, known = (one.arms[arm].sets[name].loss.value for one in (report, deletion))
            assert found == pytest.approx(known, rel=1e-5)
    # By construction it is the model that never saw S.
    losses = [report.arms[arm].sets[name].loss.value for arm in ("unlearned", "retrained") for name in ("forget",)]
    assert losses[0] == losses[1]
    assert report.weights_moved
    assert (tmp_path / "evaluation" / "unlearning_report.json").is_file()
    for settings, words in (
        ({"original_model": str(lm_base)}, "is not dealt into shards, and the model is"),
        ({"lm_eval_tasks": ["arc"]}, "--lm_eval_tasks does not go together"),
        ({"digest_key_file": None}, "name that one with --digest_key_file"),
        ({"retrained_model": str(sharded)}, "is no retrained one"),
    ):
        with pytest.raises(InputError, match=words):
            jobs.evaluate(values | settings | {"output_dir": str(tmp_path / "none")})
        assert not (tmp_path / "none").exists()


def asked(rows: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What is asked in records, in small letters as the search for copies reads it, and the owner of each."""
    return [row["prompt"].casefold() for row in rows], [row["customer"] for row in rows]


def test_a_router_of_what_stays_is_measured_with_the_named_encoder(
    sharded: Path,
    delete: Delete,
    encoder_base: Path,
    key_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoder = {"near_duplicates": "report", "near_duplicates_encoder": str(encoder_base)}
    report = delete(sharded, tmp_path / "one", [FIRST, SECOND], **encoder)
    shown = " ".join(capsys.readouterr().out.split())
    # The router that a user makes from the records that stay.
    model = load_sharded(str(tmp_path / "one"), digest_key_file=str(key_file))
    router = model.router(str(encoder_base), *asked(without(FIRST, SECOND)))
    found = report.router
    assert found is not None
    assert found.rates == router.rates
    gone, _ = asked([row for row in question_rows() if row["customer"] in (FIRST, SECOND)])
    guesses = router(gone)
    assert found.forgotten is not None
    assert found.forgotten.value == sum(guess is not None for guess in guesses) / len(gone)
    assert (found.forgotten.n, found.rates.own.n) == (2, len(OWNERS) - 2)
    assert found.unknown == "base"
    percent = f"{100 * found.rates.own.value:.1f} % [{100 * found.rates.own.low:.1f}"
    assert f"sends {percent}" in shown
    assert "and the base model answers the others." in shown
    card = (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    assert f"sends {percent}".replace("[", r"\[") in card
    values = {
        "model_name_or_path": str(tmp_path / "one"),
        "dataset_name": str(tmp_path / "data.jsonl"),
        "forget_values": [f"customer={FIRST}", f"customer={SECOND}"],
        "digest_key_file": str(key_file),
        "use_cpu": True,
    }
    assert jobs.evaluate(values | encoder | {"output_dir": str(tmp_path / "evaluation")}).router == found
    # The model from before knows both.
    values |= {"model_name_or_path": str(sharded), "output_dir": str(tmp_path / "before")}
    before = jobs.evaluate(values | encoder).router
    assert before is not None
    assert before.forgotten is None
    assert before.sentence.endswith("The adapters know every owner in S.")
    values |= {"forget_values": [f"customer={owner}" for owner in OWNERS[1:]]}
    assert jobs.evaluate(values | encoder).router is None
    assert "know fewer than two owners" in " ".join(capsys.readouterr().out.split())


def test_owners_of_a_dropped_adapter_are_strangers_to_a_router(
    sharded: Path, delete: Delete, encoder_base: Path, key_file: Path, tmp_path: Path
) -> None:
    encoder = {"near_duplicates": "report", "near_duplicates_encoder": str(encoder_base)}
    report = delete(sharded, tmp_path / "one", [FIRST], drop=True, **encoder)
    model = load_sharded(str(tmp_path / "one"), digest_key_file=str(key_file))
    known = [row for row in question_rows() if shards_of()[row["customer"]] != shards_of()[FIRST]]
    assert report.router is not None
    assert report.router.rates == model.router(str(encoder_base), *asked(known)).rates
    assert report.router.forgotten is not None


def test_one_model_alone_is_attacked_and_a_sharded_one_is_refused(
    sharded: Path, key_file: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "data.jsonl", question_rows())
    values = {
        "model_name_or_path": str(sharded), "dataset_name": str(data), "forget_values": [f"customer={FIRST}"],
        "digest_key_file": str(key_file), "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    for job in (jobs.attack, jobs.references):
        with pytest.raises(InputError, match="is dealt into shards, and this command takes one model"):
            job(values)
        assert not (tmp_path / "out").exists()


def test_the_auditor_s_page_tells_of_a_sharded_model(sharded: Path, delete: Delete, tmp_path: Path) -> None:
    delete(sharded, tmp_path / "one", [FIRST])
    page = tmp_path / "audit.html"
    audit(str(tmp_path / "one"), page)
    text = page.read_text(encoding="utf-8")
    for part in sharding_of(tmp_path / "one").parts:
        assert part.weights[:12] in text
    assert "byte for byte as before" in text
    assert "The code of" not in text
    assert FIRST not in text


@pytest.mark.slow
def test_an_erasure_takes_the_old_adapter_and_leaves_those_that_nothing_touched(
    owner: HfApi, lm_base: Path, train_shards: Train, delete: Delete, key_file: Path, tmp_path: Path
) -> None:
    base, name = "owner/base-of-erased", "owner/erased"
    owner.create_repo(base, private=True)
    owner.upload_folder(repo_id=base, folder_path=lm_base)
    model = train_shards(tmp_path / "model", question_rows(), model_name_or_path=base)
    owner.create_repo(name, private=True)
    owner.upload_folder(repo_id=name, folder_path=model)
    delete(Path(name), tmp_path / "one", [FIRST], push=True, hub_model_id=name, push_to_existing=True)
    before, now = ({part.weights for part in sharding_of(folder).parts} for folder in (model, tmp_path / "one"))
    plan = plan_erasure(HubRepo(name, "model"))
    assert plan.refusals == []
    report = erase(HubRepo(name, "model"), plan)
    assert {old.sha256 for old in report.objects} == before - now
    assert len(before - now) == 1
    assert report.still_answers == []
    served = load_sharded(name, digest_key_file=str(key_file))
    inputs = served.tokenizer(["The code of"], return_tensors="pt")
    for living in OWNERS:
        assert served([living], **inputs).shape[0] == 1
    assert [model.name for model in derived_models(base).models] == [name]
    assert main(["derived", name]) == 0
