"""Text that Arrow holds as views, as some writers of Parquet do."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_unlearn.forgotten import _texts


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_forgotten_rows_have_the_same_content_however_text_is_stored(kind: pa.DataType) -> None:
    rows = Dataset(pa.table({"text": pa.array(["x", "yy", None], kind), "n": [1, 2, 3]}))
    found = list(_texts(rows, np.array([False, True, True]), ["text", "n"]))
    assert found == ["text\x1fn\x1d2\x1fyy\x1e1\x1f2", "text\x1fn\x1dnull\x1e1\x1f3"]
