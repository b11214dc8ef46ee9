"""Whose records S and H are: which column says so, how many groups there are, and which of H stay in L."""

from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from hf_unlearn import InputError, Records, split_retained
from hf_unlearn.data.split import RetainedSplit, SplitAudit

ROWS = [{"customer": f"c{i // 5}", "n": i, "flag": i < 10, "text": f"text {i}"} for i in range(60)]
STRANGERS = [{"n": 100 + i, "text": f"stranger {i}"} for i in range(6)]


def split(request: Records, holdout: Any = None, *, streamed: bool = False, **options: Any) -> RetainedSplit:
    dataset = Dataset.from_list(ROWS)
    if streamed:
        holdout = holdout.to_iterable_dataset() if isinstance(holdout, Dataset) else holdout
        return split_retained(dataset.to_iterable_dataset(), request, holdout=holdout, **options)
    return split_retained(dataset, request, holdout=holdout, **options)


def groups(audit: SplitAudit) -> tuple[Any, ...]:
    retained = audit.holdout_groups_retained, audit.holdout_rows_of_retained_groups
    return audit.group_column, audit.forget_groups, audit.holdout_groups, *retained


CUSTOMERS, RECORDS = Records.ids("customer", ["c1", "c2"]), Records.ids("n", [5, 6, 10])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("request_", "holdout", "found"),
    [
        # Ids that repeat say whose records they are,
        (CUSTOMERS, Records.ids("customer", ["c3", "c4", "c5"]), ("customer", 2, 3, 0, 0)),
        (CUSTOMERS, None, ("customer", 2, None, None, None)),
        # also where H is named in another way, and its customers may have other records in L,
        (CUSTOMERS, Records.rows([15, 16, 17, 18, 19, 20, 21]), ("customer", 2, 2, 1, 2)),
        (CUSTOMERS, Dataset.from_list(ROWS[30:42]), ("customer", 2, 3, 3, 12)),
        # or where only H repeats.
        (Records.rows([0, 5]), Records.ids("customer", ["c3"]), ("customer", 2, 1, 0, 0)),
        # Where H does not say whose its records are, each counts for itself.
        (CUSTOMERS, Dataset.from_list(STRANGERS), ("customer", 2, 6, 0, 0)),
        # Ids of single records, and values that are no ids, make no groups.
        (RECORDS, Records.ids("n", [30, 31]), (None, None, None, None, None)),
        (RECORDS, Dataset.from_list(ROWS[5:8]), (None, None, None, None, None)),
        (Records.where("flag", True), Records.rows([30, 31]), (None, None, None, None, None)),
        (Records.rows([0, 1]), None, (None, None, None, None, None)),
        # Of two columns of ids the one that holds more together counts.
        (CUSTOMERS | RECORDS, Records.ids("n", [30, 31, 40]), ("customer", 2, 2, 2, 3)),
    ],
)
def test_ids_that_repeat_say_whose_records_they_are(
    request_: Records, holdout: Any, found: tuple[Any, ...], streamed: bool
) -> None:
    assert groups(split(request_, holdout, streamed=streamed).audit) == found


def test_a_column_that_is_asked_for_goes_before_the_ids() -> None:
    by_flag = split(CUSTOMERS, Records.ids("customer", ["c0"]), group_column="flag")
    assert groups(by_flag.audit) == ("flag", 2, 1, 0, 0)
    alone = split(RECORDS, Records.ids("n", [30, 31]), group_column="customer")
    assert groups(alone.audit) == ("customer", 2, 1, 1, 2)
    for streamed in (False, True):
        with pytest.raises(InputError, match="no column 'author'"):
            split(RECORDS, group_column="author", streamed=streamed)
        with pytest.raises(InputError, match="no column 'customer'"):
            split(RECORDS, Dataset.from_list(STRANGERS), group_column="customer", streamed=streamed)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_record_without_a_customer_stands_for_itself(streamed: bool) -> None:
    rows = [{**row, "customer": None if row["n"] in (31, 32, 50) else row["customer"]} for row in ROWS]
    data: Any = Dataset.from_list(rows)
    data = data.to_iterable_dataset() if streamed else data
    audit = split_retained(data, CUSTOMERS, holdout=Records.rows([30, 31, 32, 55, 56, 57, 58, 59])).audit
    assert groups(audit) == ("customer", 2, 4, 1, 1)
    holdout = split(CUSTOMERS, Dataset.from_list(STRANGERS), streamed=streamed).holdout
    assert holdout is not None
    assert isinstance(holdout, IterableDataset) == streamed
    assert [(row["n"], row["customer"]) for row in holdout] == [(row["n"], None) for row in STRANGERS]


def test_what_makes_a_split_this_split_is_what_older_folders_say_of_it() -> None:
    audit = split(CUSTOMERS, Records.rows([15, 16])).audit
    added = {
        *("group_column", "forget_groups", "holdout_groups"),
        *("holdout_groups_retained", "holdout_rows_of_retained_groups"),
    }
    assert audit.to_dict().keys() - audit.identity().keys() == added
    assert [near.keys() for near in audit.identity()["near_duplicates"]] == [
        {"encoder", "threshold", "rows", "pairs", "histogram"}
    ]
