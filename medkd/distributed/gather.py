"""The batches of all processes as one, so that a loss sees what it would see in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from medkd.distributed.processes import process_count, process_rank


def gather_batch(x: Any) -> Any:
    """Join the batches of all processes, in the order of their ranks; in one process, what was given.

    Backward, each process takes the gradient of its own part times the number of processes: all compute the same loss
    of the whole batch, and :func:`data_parallel` then takes the mean of their gradients.

    Args:
        x: a tensor ``(B, ...)`` of the same shape and kind in all processes, or a mapping, tuple or list of such.

    Returns:
        The same with tensors ``(processes * B, ...)``; maps lie in memory in channels-last order.
    """
    if process_count() == 1:
        return x
    if isinstance(x, Tensor):
        # MONAI's tensors would try to tell their meta data for every sample.
        return _Gather.apply(x.as_subclass(Tensor))
    if isinstance(x, Mapping):
        return {key: gather_batch(value) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(gather_batch(value) for value in x)
    return x


class GlobalBatchLoss(nn.Module):
    """A loss of the batches of all processes together; every process gets the same value.

    Args:
        loss: called with what was given, gathered by :func:`gather_batch`.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *arguments: Any) -> Tensor:
        """Gather tensors, and mappings, tuples and lists of them; return the loss, a scalar."""
        value: Tensor = self.loss(*gather_batch(arguments))
        return value


def mean_over_processes(tensors: list[Tensor]) -> list[Tensor]:
    """The mean of each tensor over all processes, as float32; without gradient."""
    if process_count() == 1 or not tensors:
        return [tensor.float() for tensor in tensors]
    # One message instead of one for each tensor.
    together = torch.cat([tensor.float().flatten() for tensor in tensors])
    dist.all_reduce(together)
    parts = (together / process_count()).split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        # The same order in every process, whatever the strides of this one; of a channels-last map no copy is made.
        rows = x.movedim(1, -1) if x.ndim > 2 else x
        # As bytes: not every backend knows every kind of number.
        own = rows.reshape(-1).view(torch.uint8)
        parts = own.new_empty(process_count(), len(own))
        dist.all_gather(list(parts), own)
        gathered = parts.view(-1).view(x.dtype).view(-1, *rows.shape[1:])
        return gathered.movedim(-1, 1) if x.ndim > 2 else gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return process_count() * gradient.chunk(process_count())[process_rank()]
