"""RAUNet: the published size, and the augmented attention in plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.raunet import AugmentedAttention, RAUNet


def test_published_size():
    with torch.device("meta"):
        network = RAUNet(in_channels=3, out_channels=2)
    assert count_parameters(network) == 22_143_394
    assert count_macs(network, (3, 384, 384)) / 1e9 == pytest.approx(13.2, rel=5e-3)


def test_tap_shapes():
    with torch.device("meta"):
        network = RAUNet()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (64, 64, 64),
        "bottleneck": (512, 8, 8),
        "decoder": (64, 128, 128),
    }


def test_attention_equals_plain_loops():
    torch.manual_seed(0)
    channels = 3
    attention = AugmentedAttention(channels).eval()
    high, low = torch.rand(1, channels, 2, 2), torch.rand(1, channels, 2, 2)

    def conv(layer: torch.nn.Conv2d, values: list[float]) -> list[float]:
        weight = layer.weight.flatten(1).tolist()
        return [
            sum(w * v for w, v in zip(row, values, strict=True)) + bias
            for row, bias in zip(weight, layer.bias.tolist(), strict=True)
        ]

    def unit(layers: torch.nn.Sequential, values: list[float]) -> list[float]:
        # Fresh running statistics: batch norm in eval divides by sqrt(1 + eps).
        return [max(0.0, value / math.sqrt(1 + 1e-5)) for value in conv(layers[0], values)]

    mean_high = [high[0, c].mean().item() for c in range(channels)]
    mean_low = [low[0, c].mean().item() for c in range(channels)]
    summed = [a + b for a, b in zip(unit(attention.high, mean_high), unit(attention.low, mean_low), strict=True)]
    exponents = [math.exp(value) for value in conv(attention.weigh[0], summed)]
    expected = torch.empty(1, channels, 2, 2)
    for row in range(2):
        for column in range(2):
            skip = unit(attention.skip, low[0, :, row, column].tolist())
            for c in range(channels):
                weight = exponents[c] / sum(exponents)
                expected[0, c, row, column] = high[0, c, row, column] + weight * skip[c]

    with torch.no_grad():
        torch.testing.assert_close(attention(high, low), expected)


def test_a_batch_of_one_trains():
    network = RAUNet(channels=(4, 4, 8, 8)).train()
    logits = network(torch.rand(1, 3, 64, 64))
    logits.square().mean().backward()
    assert torch.isfinite(logits).all()
