"""Ids in CSV: two of them never become the same number."""

from pathlib import Path

import pytest
from datasets import Value

from hf_unlearn.data.loading import load_data, local_cache_folder
from hf_unlearn.jobs.settings import DataArguments, RequestArguments, build
from hf_unlearn.jobs.splitting import named_data, split_data
from hf_unlearn.training.config import UnlearningConfig

MANY = [str(i) for i in range(10_001)]


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        (["03", "3", "4"], ["03", "3", "4"]),
        (["+3", "3", "4"], ["+3", "3", "4"]),
        (["3.0", "3", "4"], ["3.0", "3", "4"]),
        (["1e1", "10", ""], ["1e1", "10", None]),
        (["9007199254740993", "", "4"], ["9007199254740993", None, "4"]),
        (
            ["12345678901234567890", "18446744073709551617", "-1"],
            ["12345678901234567890", "18446744073709551617", "-1"],
        ),
        ([*MANY, "x"], [*MANY, "x"]),
        (["x", *MANY, "007"], ["x", *MANY, "007"]),
        (["3", "4", "-15"], [3, 4, -15]),
        (["3", "4", ""], [3.0, 4.0, None]),
        (["0.5", "1", "1.0"], [0.5, 1.0, 1.0]),
        (["3.0", "4.0", "5.0"], [3.0, 4.0, 5.0]),
        ([" 3", "4", "5"], [3, 4, 5]),
        (["100000000000000", "1", "2"], [100000000000000, 1, 2]),
    ],
)
def test_ids_are_read_as_text_where_numbers_could_not_tell_them_apart(
    ids: list[str], read: list[object], tmp_path: Path
) -> None:
    assert load_data(written(tmp_path, ids))[0]["train"]["id"][:] == read


def written(folder: Path, ids: list[str]) -> str:
    path = folder / "train.csv"
    path.write_text("id,text\n" + "".join(f"{i},message {n}\n" for n, i in enumerate(ids)))
    return str(path)


def test_so_are_those_in_a_folder_and_erase_finds_the_tables_of_both(tmp_path: Path) -> None:
    for name in (written(tmp_path, ["03", "3"]), str(tmp_path)):
        assert load_data(name)[0]["train"]["id"][:] == ["03", "3"]
        folder = local_cache_folder(name)
        assert folder is not None
        assert any(folder.glob("*.arrow"))


def test_records_of_a_csv_file_are_read_as_those_of_the_data_set(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("id,text\n" + "".join(f"{i},message {i}\n" for i in ("007", "7", "8", "9")))
    for asked, found in (("7", ["7"]), ("007", ["007"])):
        (tmp_path / "forget.csv").write_text(f"id\n{asked}\n")
        settings = {"dataset_name": str(tmp_path / "d.csv"), "forget_dataset": str(tmp_path / "forget.csv")}
        where = build(DataArguments, settings)
        request = build(RequestArguments, {**settings, "near_duplicates": "ignore"})
        parts = split_data(*named_data(where), where, request, build(UnlearningConfig, {"output_dir": str(tmp_path)}))
        assert parts.forget["id"][:] == found
        assert "string" in parts.forget.features["id"].dtype
        assert isinstance(parts.forget.features["id"], Value)
