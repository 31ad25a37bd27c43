"""Who takes which slice: steps of several processes against batches of one."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from medkd.distributed import SharedSampler, sampling, validation_sampler
from medkd.errors import UserError


class Order:
    """Gives 100 * epoch + 0, 1, 2 ... in turn."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        return iter(range(100 * self.epoch, 100 * self.epoch + self.length))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def of_each_process(monkeypatch: pytest.MonkeyPatch, count: int, build):
    """What ``build`` gives in every one of so many processes."""
    monkeypatch.setattr(sampling, "process_count", lambda: count)
    found = []
    for rank in range(count):
        monkeypatch.setattr(sampling, "process_rank", lambda rank=rank: rank)
        found.append(build())
    return found


@pytest.mark.parametrize(
    ("length", "batch_size", "count", "batches"),
    [
        (8, 2, 2, [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]),
        (11, 2, 2, [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]),
        (7, 1, 3, [[[0], [3]], [[1], [4]], [[2], [5]]]),
        (4, 2, 2, [[[0, 1]], [[2, 3]]]),
        (5, 4, 2, [[[0, 1]], [[2, 3]]]),
        (5, 2, 1, [[[0, 1], [2, 3]]]),
        (3, 4, 1, [[[0, 1, 2]]]),
    ],
)
def test_every_process_takes_its_part_of_every_batch(length, batch_size, count, batches, monkeypatch):
    def build():
        sampler = SharedSampler(Order(length), batch_size)
        loader = DataLoader(range(length), batch_size=batch_size, sampler=sampler)
        assert len(loader) == len(list(loader))
        return [batch.tolist() for batch in loader]

    assert of_each_process(monkeypatch, count, build) == batches


def test_the_epoch_is_passed_on(monkeypatch):
    def build():
        sampler = SharedSampler(Order(4), 1)
        sampler.set_epoch(2)
        return list(sampler)

    assert of_each_process(monkeypatch, 2, build) == [[200, 202], [201, 203]]


def test_fewer_slices_than_processes_are_told(monkeypatch):
    with pytest.raises(UserError, match="2 slices cannot be shared by 3 processes"):
        of_each_process(monkeypatch, 3, lambda: SharedSampler(Order(2), 1))


@pytest.mark.parametrize(
    ("volumes", "count", "shares"),
    [(5, 2, [[0, 2, 4], [1, 3]]), (2, 2, [[0], [1]]), (1, 2, [None, None]), (3, 1, [[0, 1, 2]])],
)
def test_volumes_of_the_validation_are_shared_if_there_are_enough(volumes, count, shares, monkeypatch):
    def build():
        sampler = validation_sampler(range(volumes))
        return None if sampler is None else list(sampler)

    assert of_each_process(monkeypatch, count, build) == shares
