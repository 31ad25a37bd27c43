from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.espnet import ESPNet, PyramidBlock


@pytest.mark.parametrize("in_channels", (1, 3))
def test_has_the_published_size(in_channels: int) -> None:
    with torch.device("meta"):
        network = ESPNet(in_channels, 2)
    assert count_parameters(network) == 183_725
    assert count_macs(network, (in_channels, 384, 384)) / 1e9 == pytest.approx(0.61, rel=1e-2)


def test_one_more_block_costs_what_it_has_by_hand() -> None:
    # 64 -> 12 by 1x1, then 3x3 12 -> 16 and four of 12 -> 12, then scale, shift and slope of 64.
    block = 64 * 12 + 9 * 12 * (16 + 4 * 12) + 3 * 64
    with torch.device("meta"):
        assert count_parameters(ESPNet(p=3)) - count_parameters(ESPNet(p=2)) == block
        assert count_parameters(PyramidBlock(64, 64)) == block


def test_tapped_maps_are_at_a_quarter_an_eighth_and_a_half() -> None:
    with torch.device("meta"):
        network = ESPNet(3, 2)
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (131, 64, 64),
        "bottleneck": (256, 32, 32),
        "decoder": (2, 128, 128),
    }


@pytest.mark.parametrize(("source", "residual"), ((3, 0.0), (8, 1.0)))
def test_dilated_maps_are_summed_up_before_the_concatenation(source: int, residual: float) -> None:
    block = PyramidBlock(source, 8)
    block.activation = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.reduce.weight[0, 0] = 1.0
        for factor, conv in enumerate(block.dilated, start=1):
            conv.weight[:, 0, 1, 1] = factor
    x = torch.ones(1, source, 6, 6)
    # 8 channels are four for dilation 1 and one for each other; from dilation 2 on: 2, 2 + 3, 2 + 3 + 4 ...
    expected = torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0, 5.0, 9.0, 14.0]) + residual
    torch.testing.assert_close(block(x)[0, :, 3, 3], expected)


def test_each_branch_looks_as_far_as_its_dilation() -> None:
    block = PyramidBlock(5, 5)
    assert [conv.dilation for conv in block.dilated] == [(d, d) for d in (1, 2, 4, 8, 16)]
    assert [conv(torch.zeros(1, 1, 9, 7)).shape for conv in block.dilated] == 5 * [(1, 1, 9, 7)]


def test_a_gray_image_is_a_colour_image_of_three_equal_channels() -> None:
    torch.manual_seed(0)
    gray, colour = ESPNet(1).eval(), ESPNet(3).eval()
    colour.load_state_dict(gray.state_dict())
    x = torch.rand(1, 1, 40, 33)
    torch.testing.assert_close(gray(x), colour(x.repeat(1, 3, 1, 1)))
