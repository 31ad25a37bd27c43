"""One network and one loss in several processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medkd.distributed.processes import process_count


def data_parallel(network: nn.Module, device: str | torch.device) -> DistributedDataParallel:
    """Wrap a network so that its gradients are the means over all processes; its weights become those of the main one.

    Parts that are idle in a step, such as the reconstruction decoder of a student, are allowed.

    Args:
        network: on its device, with batch norms of :func:`~medkd.distributed.synchronize_batch_norm`.
        device: of this process.
    """
    device = torch.device(device)
    return DistributedDataParallel(
        network, device_ids=[device] if device.type == "cuda" else None, find_unused_parameters=True
    )


def plain_network(network: nn.Module) -> nn.Module:
    """The network that :func:`data_parallel` has wrapped; any other is returned as it is."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def broadcast_state(module: nn.Module) -> None:
    """Give the parameters and buffers of the main process's module to all processes, in place."""
    if process_count() == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        content = tensor.detach().contiguous()
        dist.broadcast(content, src=0)
        tensor.detach().copy_(content)
