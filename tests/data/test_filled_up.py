"""Several processes take each record once an epoch, in the order of one process."""

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from hf_unlearn.data.filled_up import filled_up, repeated
from hf_unlearn.models.tasks import IGNORED


def seen(rows: int, batch: int, processes: int, random: bool, epochs: int = 2) -> list[list[list[list[int]]]]:
    """The rows that each process learns from, batch by batch and epoch by epoch."""
    examples = Dataset.from_list([{"row": i, "labels": [i, i], "input_ids": [1, 2]} for i in range(rows)])
    sampler: Any = RandomSampler(examples) if random else SequentialSampler(examples)
    more = repeated(examples, batch, processes)
    args: Any = SimpleNamespace(data_seed=7)
    filled, order = filled_up(examples, sampler, more, args)
    found = []
    for process in range(processes):
        loader = prepare_data_loader(
            DataLoader(filled, batch_size=batch, sampler=order(filled), collate_fn=list),  # type: ignore[arg-type]
            num_processes=processes, process_index=process, put_on_device=False, use_seedable_sampler=True,
        )  # fmt: skip
        own = []
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            batches = list(loader)
            assert {len(one) for one in batches} == {batch} or processes == 1
            own.append([[example["row"] for example in one if example["labels"] != [IGNORED] * 2] for one in batches])
        found.append(own)
    return found


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(
    ("rows", "batch", "processes"), [(43, 4, 2), (43, 4, 3), (48, 4, 2), (3, 4, 2), (1, 2, 4), (5, 1, 3)]
)
def test_no_record_counts_twice(rows: int, batch: int, processes: int, random: bool) -> None:
    alone, shared = seen(rows, batch * processes, 1, random)[0], seen(rows, batch, processes, random)
    for epoch, whole in enumerate(alone):
        steps = [sum(parts, []) for parts in zip(*(own[epoch] for own in shared), strict=True)]
        assert steps == whole
        assert sorted(sum(steps, [])) == list(range(rows))
    assert not random or rows < 5 or alone[0] != alone[1]


def test_how_many_rows_are_repeated() -> None:
    assert [repeated(range(rows), 4, 2) for rows in (40, 41, 47, 48)] == [0, 7, 1, 0]
    assert repeated(range(43), 4, 1) == 0
    assert repeated(iter(()), 4, 2) == 0
