"""hf_unlearn from Python: names and objects, quietly, with the result in hand."""

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfApi
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

import hf_unlearn
from hf_unlearn import InputError, Records, UnlearningReport
from hf_unlearn.api.arguments import hints, in_python
from hf_unlearn.cli import main
from hf_unlearn.jobs.settings import SETTINGS
from hf_unlearn.methods import Method

from ..conftest import secrets_rows

FORGET = [f"p-{i:03d}" for i in range(10)]
HELD_OUT = [f"p-{i:03d}" for i in range(50, 60)]
QUICK = {"max_steps": 1, "per_device_eval_batch_size": 16, "seed": 3, "save_strategy": "no"}


def files_with(text: str, folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def quick(model: Any, data: Any, output_dir: Path, **settings: Any) -> hf_unlearn.Result:
    request = {"forget": Records.ids("id", FORGET), "holdout": Records.ids("id", HELD_OUT), "method": "fine_tune"}
    return hf_unlearn.unlearn(model, data, **{**request, **QUICK, **settings}, output_dir=output_dir)


def test_objects_do_what_names_do(
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    recipe: Any,
    capfd: pytest.CaptureFixture[str],
    pictures_left_blank: None,
) -> None:
    command = {**lm_settings, **QUICK, "measure": "sample", "output_dir": str(tmp_path / "names")}
    assert main(["run", "--config", str(recipe(**command))]) == 0
    capfd.readouterr()
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    capfd.readouterr()
    result = quick(model, Dataset.from_list(secrets_rows()), tmp_path / "objects")
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.is_progress_bar_enabled() == bars
    named = UnlearningReport.load(tmp_path / "names" / "unlearning_report.json")
    assert result.report.arms == named.arms
    assert result.report.original == named.original
    assert result.report.measured == named.measured
    assert result.report.method == named.method
    assert (result.report.given["forget_ids"], "dataset_name" in result.report.given) == ("ids", False)
    assert (len(result.split.forget), len(result.split.retained), result.split.audit.holdout_rows) == (10, 40, 10)
    assert result.report == UnlearningReport.load(tmp_path / "objects" / "unlearning_report.json")
    assert result.model.config.vocab_size == model.config.vocab_size
    assert result.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(lm_original).get_vocab()
    assert result.record is not None
    assert str(result) == str(result.report)
    # Neither the records nor the request are left behind, and nothing beside the folder.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names", "objects", "recipe.yaml"]
    for row in secrets_rows()[:10]:
        assert files_with(row["completion"].strip(), tmp_path / "objects") == []
    # The same call finds the run finished; another request or held-out set is another run.
    again = quick(model, Dataset.from_list(secrets_rows()), tmp_path / "objects")
    assert again.report == result.report
    for changed in (
        {"forget": Records.ids("id", FORGET[:9])},
        {"holdout": Records.ids("id", [*HELD_OUT[:9], "p-049"])},
    ):
        with pytest.raises(InputError, match="holds a run with other settings"):
            quick(model, Dataset.from_list(secrets_rows()), tmp_path / "objects", **changed)
    measured = result.evaluate(measure="full")
    assert measured.arms["unlearned"].sets["forget"] == result.report.arms["unlearned"].sets["forget"]
    assert (tmp_path / "objects-evaluation" / "unlearning_report.json").is_file()
    assert capfd.readouterr() == ("", "")


def test_a_model_that_lies_nowhere_is_saved_for_its_owner_until_the_end(
    lm_original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures_left_blank: None
) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    model.lm_head.weight.data.mul_(1.5)
    seen: list[int] = []
    from hf_unlearn.api import functions

    job = functions.run_and_split

    def watched(values: dict[str, Any]) -> Any:
        private = Path(values["model_name_or_path"]).parent
        seen.append(stat.S_IMODE(private.stat().st_mode))
        return job(values)

    monkeypatch.setattr(functions, "run_and_split", watched)
    data = DatasetDict({"train": Dataset.from_list(secrets_rows())})
    result = quick(model, data, tmp_path / "out", num_train_epochs=1)
    assert seen == [0o700]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert result.report.original is not None
    assert (result.report.original.name, result.report.original.on_hub) == ("original", False)
    assert result.report.base is None, "what its name leads to is another model"
    # The same model in memory goes on with the run, and another one does not.
    assert quick(model, data, tmp_path / "out", num_train_epochs=1).report == result.report
    model.lm_head.weight.data.mul_(1.5)
    with pytest.raises(InputError, match="other settings"):
        quick(model, data, tmp_path / "out", num_train_epochs=1)
    with pytest.raises(InputError, match="set merge_adapter=True, or save the model"):
        quick(model, data, tmp_path / "adapter", use_peft=True)
    with pytest.raises(InputError, match="The base in memory lies nowhere"):
        hf_unlearn.train(model, data, output_dir=tmp_path / "trained", max_steps=1)
    made = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(InputError, match="has no tokenizer beside it; give one as tokenizer"):
        quick(made, data, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_an_attack(lm_original: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    people: dict[str, Any] = {"forget": Records.ids("id", FORGET), "holdout": Records.ids("id", HELD_OUT)}
    data = Dataset.from_list(secrets_rows())
    found = hf_unlearn.attack(lm_original, data, **people, output_dir=tmp_path / "attacks", attack_steps=1)
    assert found.steps == 1
    assert found.findings()[0] in str(found)
    assert "<ul><li>Taught half of S" in found._repr_html_()
    assert json.loads((tmp_path / "attacks" / "attacks.json").read_text())["steps"] == 1
    assert capfd.readouterr() == ("", "")


def test_train_and_evaluate(
    lm_base: Path, secrets_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], pictures_left_blank: None
) -> None:
    (tmp_path / "held_out.txt").write_text("\n".join(HELD_OUT))
    (tmp_path / "ids.txt").write_text("\n".join(FORGET))
    ids = {"forget_id_column": "id", "holdout": tmp_path / "held_out.txt"}
    settings = {"output_dir": tmp_path / "original", "max_steps": 1, "seed": 3, "use_peft": True}
    trained = hf_unlearn.train(lm_base, secrets_file, **ids, **settings)
    assert trained.record is not None
    assert (trained.record.dataset.rows, trained.record.steps) == (50, 1)
    assert isinstance(trained.model, PeftModel)
    assert not trained.model.training
    assert len(trained.tokenizer) > 300
    ids["forget"] = tmp_path / "ids.txt"
    data = load_dataset("json", data_files=str(secrets_file), split="train")
    report = hf_unlearn.evaluate(trained.model, data, **ids, output_dir=tmp_path / "evaluation", use_cpu=True)
    assert report.method.name == "unknown"
    assert report.arms["unlearned"].membership_auc is not None
    assert capfd.readouterr() == ("", "")
    hf_unlearn.evaluate(trained.folder, data, **ids, output_dir=tmp_path / "evaluation", show=True)
    assert "Verdict: " in capfd.readouterr().out


def test_a_result_is_published(
    hub_settings: dict[str, Any], owner: HfApi, tmp_path: Path, pictures_left_blank: None
) -> None:
    result = quick("owner/original", "owner/secrets", tmp_path / "out", method="base", utility_margin=0.9)
    commit = result.push_to_hub("owner/from-python", private=True, push_anyway=True)
    assert owner.model_info("owner/from-python").sha == commit.oid
    with pytest.raises(InputError) as caught:
        result.push_to_hub("owner/original")
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1e-3}, "There is no argument 'learning_rat'; did you mean 'learning_rate'?"),
        ({"learning_rate": "fast"}, "learning_rate is a str that does not fit; it must be float."),
        ({"use_peft": "yes"}, "use_peft is a str that does not fit; it must be bool."),
        ({"seed": True}, "seed is a bool that does not fit; it must be int."),
        ({"forget_rows": 3}, "forget_rows is a int that does not fit; it must be list[int]."),
        ({"dtype": "float8"}, "it must be 'float32' or 'bfloat16' or 'float16' or 'auto'."),
        ({"forget_ids": "ids.txt"}, "forget_ids is called forget here."),
        ({"model_name_or_path": "x"}, "model_name_or_path is called model here."),
        ({"forget": ["p-001"]}, "forget is a list; give Records"),
        ({"holdout": 3}, "holdout is a int; give Records"),
        ({"forget": None}, "Name them with forget or forget_requests and forget_id_column, forget_values,"),
        ({"forget": "ids.txt"}, "forget needs forget_id_column, the column that holds the ids."),
        ({"method": "npoo"}, "There is no method 'npoo'"),
        ({"method": Method("npo", "Mine.")}, "hf_unlearn has 'npo' already"),
        ({"dataset_test_split": "nowhere"}, "dataset_test_split nowhere: the data set has the splits train."),
        ({"output_dir": ""}, "output_dir is a str that names nothing"),
        ({"push": True}, "push needs hub_model_id"),
        ({"tokenizer": "x"}, "tokenizer is for a model in memory"),
    ],
)
def test_a_wrong_argument_is_told_in_one_sentence(
    lm_original: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    given = {"output_dir": tmp_path / "out", "forget": Records.ids("id", FORGET), **settings}
    with pytest.raises(InputError) as caught:
        hf_unlearn.unlearn(str(lm_original), Dataset.from_list(secrets_rows()), **given)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)
    assert "p-0" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [None, 3, "", ["x"]])
def test_what_is_no_model_and_no_data(wrong: Any, tmp_path: Path) -> None:
    for model, data in ((wrong, Dataset.from_list(secrets_rows())), ("model", wrong)):
        with pytest.raises(InputError, match="model is a|dataset is a"):
            hf_unlearn.unlearn(model, data, forget=Records.rows([1]), output_dir=tmp_path / "out")


def test_flags_become_arguments_and_commands_stay() -> None:
    assert in_python("Name it with --model_name_or_path.") == "Name it with model."
    assert in_python("An exact start (`--method base`) decides") == "An exact start (`method='base'`) decides"
    assert in_python("--seeds 8 is not possible") == "seeds 8 is not possible"
    assert in_python("or add --push_anyway (in Python, push_anyway=True), and") == "or add push_anyway=True, and"
    for command in ("write it with `hf-unlearn alternates --config recipe.yaml`.", "`hf-unlearn run --push` or"):
        assert in_python(command) == command


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "attack"])
def test_every_setting_has_a_type_that_its_default_fits(command: str) -> None:
    from hf_unlearn.api.arguments import _fits

    known = hints(command)
    assert {"seed", "forget_values", "output_dir"} <= known.keys()
    fields = [one for kind in SETTINGS[command] for one in dataclasses.fields(kind)]
    made = {one.name: one.default for one in fields if one.name in known and one.default is not dataclasses.MISSING}
    assert len(made) > 40
    assert [name for name, value in made.items() if value is not None and not _fits(value, known[name])] == []
