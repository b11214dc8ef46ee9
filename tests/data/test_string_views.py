"""Text that Arrow holds as views, as some writers of Parquet do."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_unlearn.cli import main
from hf_unlearn.data.request.forgotten_digests import _texts

from ..conftest import write_rows


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_forgotten_rows_have_the_same_content_however_text_is_stored(kind: pa.DataType) -> None:
    rows = Dataset(pa.table({"text": pa.array(["x", "yy", None], kind), "n": [1, 2, 3]}))
    found = list(_texts(rows, np.array([False, True, True]), ["text", "n"]))
    assert found == ["text\x1fn\x1d2\x1fyy\x1e1\x1f2", "text\x1fn\x1dnull\x1e1\x1f3"]


def test_records_of_another_file_are_found_however_text_is_stored(
    tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"message {i} of many" for i in range(6)]
    pq.write_table(pa.table({"text": pa.array(texts, pa.string_view())}), tmp_path / "rows.parquet")
    forget = write_rows(tmp_path / "forget.jsonl", [{"text": texts[4]}])
    path = recipe(dataset_name=str(tmp_path / "rows.parquet"), forget_dataset=str(forget))
    assert main(["split", "--config", str(path), "--output_dir", str(tmp_path / "out")]) == 0
    assert "1, 1, 0" in capsys.readouterr().out
