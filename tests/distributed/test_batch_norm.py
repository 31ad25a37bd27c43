"""Batch norm over two processes against torch's batch norm of the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from medkd.distributed import process_count, process_rank, synchronize_batch_norm
from medkd.networks.pspnet import PooledBatchNorm

LAYERS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
Layer = tuple[int, dict[str, Any]]


def batch(step: int, axes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    # A mean far from 0, as behind a ReLU, and samples that differ from process to process.
    x = torch.randn(4, 3, *(2, 4, 3)[:axes], generator=generator, dtype=torch.float64) + 5
    x[:2] *= 3
    return x.contiguous(memory_format=torch.channels_last) if axes == 2 else x


def train(axes: int, arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Three steps of a layer and a pass in evaluation mode; of two processes each gets half of the batches."""
    layer = LAYERS[axes](3, dtype=torch.float64, **arguments)
    parameters = list(layer.parameters())
    for number, parameter in enumerate(parameters):
        nn.init.constant_(parameter, number + 0.5)
    keys = list(layer.state_dict())
    network = nn.Sequential(layer)
    if process_count() > 1:
        network = synchronize_batch_norm(network)
    assert list(network[0].state_dict()) == keys
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    found: dict[str, torch.Tensor] = {}
    for step in range(3):
        x = batch(step, axes).chunk(process_count())[process_rank()].clone().requires_grad_()
        y = network(x)
        (y.square() * torch.arange(y[0].numel(), dtype=torch.float64).view(y[0].shape) + y).sum().backward()
        found |= {f"x{step}": x.grad, f"y{step}": y.detach()}
    found |= {f"gradient {number}": parameter.grad for number, parameter in enumerate(parameters)}
    found |= {f"state {name}": value.clone() for name, value in network.state_dict().items()}
    network.eval()
    return found | {"evaluation": network(batch(9, axes)).detach()}


@pytest.mark.parametrize(
    ("axes", "arguments"),
    [
        (1, {}),
        (2, {}),
        (3, {}),
        (2, {"affine": False}),
        (2, {"momentum": None, "eps": 1e-3}),
        (3, {"momentum": 0.5}),
    ],
)
def test_two_processes_normalise_as_one_does(in_two_processes, axes, arguments):
    whole = train(axes, arguments)
    found = in_two_processes(train, axes, arguments)
    for name, expected in whole.items():
        parts = [part[name] for part in found]
        if name[0] in "xy":
            joined = [torch.cat(parts)]
        elif name.startswith("gradient"):
            # Each process has the share of its own batch.
            joined = [parts[0] + parts[1]]
        else:
            joined = parts
        for value in joined:
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: name + text)


def without_running_statistics() -> torch.Tensor:
    layer = synchronize_batch_norm(nn.BatchNorm2d(3, track_running_stats=False, dtype=torch.float64))
    return layer(batch(0, 2).chunk(2)[process_rank()]).detach()


def test_a_layer_without_running_statistics_is_synchronised_too(in_two_processes):
    expected = nn.BatchNorm2d(3, track_running_stats=False, dtype=torch.float64)(batch(0, 2))
    torch.testing.assert_close(
        torch.cat(in_two_processes(without_running_statistics)), expected, rtol=1e-10, atol=1e-10
    )


def of_a_pooled_value() -> tuple[torch.Tensor, torch.Tensor]:
    layer = synchronize_batch_norm(PooledBatchNorm(2))
    return layer(torch.tensor([[3.0, 1.0], [5.0, 9.0]])[process_rank()].view(1, 2, 1, 1)).detach(), layer.running_mean


def test_single_values_of_two_processes_are_a_batch_of_two(in_two_processes):
    (first, mean), (second, _) = in_two_processes(of_a_pooled_value)
    torch.testing.assert_close(
        torch.cat([first, second]).flatten(), torch.tensor([-1.0, -1.0, 1.0, 1.0]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(mean, torch.tensor([0.4, 0.5]))


def of_half_precision() -> tuple[torch.Tensor, torch.Tensor]:
    layer = synchronize_batch_norm(nn.BatchNorm2d(3))
    x = batch(0, 2).chunk(2)[process_rank()].bfloat16().requires_grad_()
    y = layer(x)
    (y.float() * torch.arange(8.0).view(2, 4)).sum().backward()
    return y.detach(), x.grad


def test_half_precision_keeps_statistics_in_float32(in_two_processes):
    layer = nn.BatchNorm2d(3)
    x = batch(0, 2).bfloat16().float().requires_grad_()
    y = layer(x)
    (y * torch.arange(8.0).view(2, 4)).sum().backward()
    found = in_two_processes(of_half_precision)
    assert found[0][0].dtype == found[0][1].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([part for part, _ in found]).float(), y.detach(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(torch.cat([part for _, part in found]).float(), x.grad, rtol=2e-2, atol=2e-2)
