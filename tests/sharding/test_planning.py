"""The simulation agrees with what can be said without one, and says when dealing does not pay."""

import time

import pytest

from hf_unlearn.cli import main
from hf_unlearn.sharding.planning import advice, shard_prices


def test_prices_are_what_equal_shards_cost() -> None:
    joint, eight, many = shard_prices(10_000, 20, 5, [1, 8, 100])
    assert joint.request == pytest.approx(1)
    assert joint.largest == pytest.approx(1)
    assert 30 < joint.year < 90
    assert joint.monthly <= 12
    assert eight.request == pytest.approx(1 / 8, rel=0.02)
    assert many.request == pytest.approx(1 / 100, rel=0.05)
    assert many.year / joint.year == pytest.approx(1 / 100, rel=0.1)
    assert many.request < many.largest < 2 * many.request
    assert many.monthly < many.year
    assert (many.adapters, round(many.rows / 1000)) == (100, 2)


def test_slices_save_a_third_at_most_and_cost_storage() -> None:
    found = shard_prices(20_000, 20, 5, [1, 10], slices=[1, 4])
    assert [(price.shards, price.slices, price.adapters) for price in found] == [
        (1, 1, 1), (1, 4, 4), (10, 1, 10), (10, 4, 40)
    ]  # fmt: skip
    for whole, sliced in (found[:2], found[2:]):
        # The mean over j of the stages j to K, each of 2 / (K + 1) of the epochs on its share of the rows.
        assert sliced.request / whole.request == pytest.approx((2 * 4 + 1) / (3 * 4), rel=0.02)
        assert sliced.year / whole.year == pytest.approx(0.75, rel=0.15)
        assert sliced.largest > sliced.request
        assert sliced.rows == whole.rows
        assert sliced.monthly <= whole.monthly
    # Slices change nothing about the other draws.
    assert shard_prices(20_000, 20, 5, [1, 10]) == [found[0], found[2]]


def test_as_many_shards_as_owners_cost_next_to_nothing() -> None:
    alone = shard_prices(1000, 5, 2, [9999])[0]
    assert alone.request < 0.0003
    assert alone.adapters < 1000


def test_it_says_when_dealing_does_not_pay() -> None:
    assert "Sharding pays: " in advice(shard_prices(10_000, 20, 5), 5)
    rarely = advice(shard_prices(10_000, 20, 0.01), 0.01)
    assert "does not pay here: 0.12 requests a year" in rarely
    assert "touch most shards" in advice(shard_prices(50, 20, 4, [1, 4]), 4)


def test_more_requests_than_owners_end_with_the_last_owner() -> None:
    assert all(price.year >= price.monthly >= 0 for price in shard_prices(5, 3, 100))


def test_a_million_owners_take_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.process_time()
    flags = ["--owners", "1000000", "--rows_each", "20", "--requests_a_month", "200", "--adapter_mb", "5"]
    assert main(["plan-shards", *flags]) == 0
    assert time.process_time() - started < 10
    shown = capsys.readouterr().out
    assert "4,096" in shown
    assert "20.5 GB" in shown
    assert "Sharding pays" in shown


@pytest.mark.parametrize(
    "flags",
    [["--owners", "1"], ["--rows_each", "0"], ["--shards", "0"], ["--slices", "100"], ["--adapter_mb", "nan"]],
)
def test_what_cannot_be_is_said(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan-shards", "--owners", "10", "--requests_a_month", "1", *flags]) == 2
    assert f"{flags[0]} {flags[1]} is not possible" in capsys.readouterr().err
