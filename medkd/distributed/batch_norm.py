"""Batch norm over the batches of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from medkd.distributed.processes import process_count


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """Let every batch norm take its statistics over the batches of all processes, as over one batch in one process.

    Parameters and buffers stay the objects they are, under the names they have. A subclass becomes the plain batch norm
    too: those of ``medkd`` only add what a batch of a single value needs, which several processes never have.

    Args:
        network: on its device.

    Returns:
        the network, changed in place.
    """
    if any(parameter.is_cuda for parameter in network.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            # Not a new module: whoever holds this one or has hooked it goes on doing so.
            module.__class__ = SharedBatchNorm
    return network


class SharedBatchNorm(_BatchNorm):
    """Batch norm over all processes for CPUs, which ``torch.nn.SyncBatchNorm`` does not serve.

    All processes must give inputs of the same shape.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape ``(B, C, *spatial)``."""
        if not self.training:
            return super().forward(x)
        mean, variance = _shared_statistics(x)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            count = process_count() * x.numel() // x.shape[1]
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), share)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), share)
        normalised: Tensor = _Normalise.apply(x, mean, variance, self.weight, self.bias, self.eps)
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # Images, volumes and vectors alike.


def _shared_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over all processes, ``(C,)``, at least float32."""
    with torch.no_grad():
        variance, mean = torch.var_mean(_at_least_float32(x), _all_but_channels(x), correction=0)
        own = torch.stack([mean, variance])
        shared = own.new_empty(process_count(), *own.shape)
        dist.all_gather(list(shared), own)
        # The batches are equally large; what is within them and what is between them add up.
        means, variances = shared.unbind(1)
        return means.mean(0), variances.mean(0) + means.var(0, correction=0)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, variance, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, mean, variance, weight = ctx.saved_tensors
        wide, axes = _at_least_float32(gradient), _all_but_channels(x)
        shape = (-1, *[1] * (x.ndim - 2))
        scale = (variance + ctx.eps).rsqrt()
        distance = _at_least_float32(x) - mean.view(shape)
        own = torch.stack([wide.sum(axes), (wide * distance).sum(axes) * scale])
        shared = own.clone()
        # Mean and variance of this process depend on the inputs of all, so the gradients of all come back to it.
        dist.all_reduce(shared)
        shared /= process_count() * x.numel() // x.shape[1]
        of_sum, of_distance = shared[0].view(shape), (shared[1] * scale).view(shape)
        factor = scale if weight is None else scale * weight
        of_x = (wide - of_sum - distance * of_distance) * factor.view(shape)
        of_weight, of_bias = (None, None) if weight is None else (own[1].to(weight), own[0].to(weight))
        return of_x.to(x.dtype), None, None, of_weight, of_bias, None


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _all_but_channels(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]
