"""Which slices and volumes each process takes."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

from monai.data import DistributedSampler
from torch.utils.data import Dataset, Sampler

from medkd.distributed.processes import process_count, process_rank
from medkd.errors import UserError


class SharedSampler(Sampler[int]):
    """This process's share of another sampler's order.

    Step ``k`` of all processes, joined in the order of their ranks, is the ``k``-th batch of one process with the batch
    size ``batch_size * processes``. What does not fill a last batch is left out; where not even one can be filled,
    there is one step, of equal shares.

    Args:
        sampler: gives the same order in every process.
        batch_size: of one process.

    Raises:
        UserError: there are fewer slices than processes.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        if len(self) == 0:
            raise UserError(
                f"{_length(sampler)} slices cannot be shared by {process_count()} processes: start fewer processes."
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, if the other sampler knows any."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        steps, share = self._plan()
        return steps * share

    def __iter__(self) -> Iterator[int]:
        steps, share = self._plan()
        order = iter(self.sampler)
        for _ in range(steps):
            batch = list(islice(order, process_count() * share))
            yield from batch[process_rank() * share :][:share]

    def _plan(self) -> tuple[int, int]:
        """How many steps there are, and how many slices of each are this process's."""
        whole = process_count() * self.batch_size
        if _length(self.sampler) < whole:
            return 1, _length(self.sampler) // process_count()
        return _length(self.sampler) // whole, self.batch_size


def validation_sampler(dataset: Dataset[Any]) -> DistributedSampler | None:
    """Shares whole volumes among the processes; None, which is all for each, where there are fewer than processes."""
    if _length(dataset) < process_count():
        return None
    return DistributedSampler(
        dataset, even_divisible=False, num_replicas=process_count(), rank=process_rank(), shuffle=False
    )


def _length(of: Sampler[int] | Dataset[Any]) -> int:
    if not isinstance(of, Sized):
        raise UserError(f"{type(of).__name__} does not tell its length: give one that does.")
    return len(of)
