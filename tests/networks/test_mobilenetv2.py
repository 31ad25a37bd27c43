from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.mobilenetv2 import InvertedResidual, MobileNetV2


@pytest.mark.parametrize("in_channels", (1, 3))
def test_has_the_published_size_without_the_classifier_that_is_never_called(in_channels: int) -> None:
    with torch.device("meta"):
        network = MobileNetV2(in_channels, 2)
        left_out = nn.Linear(1280, 2)
    assert count_parameters(network) == 2_226_434
    assert count_parameters(network) + count_parameters(left_out) == 2_228_996
    assert count_macs(network, (in_channels, 384, 384)) / 1e9 == pytest.approx(9.57, rel=1e-2)


def test_an_inverted_residual_has_the_size_counted_by_hand() -> None:
    # Widen 16 -> 96, 3x3 on each of 96, narrow 96 -> 24; scale and shift behind each.
    widen, filters, narrow = 16 * 96 + 2 * 96, 9 * 96 + 2 * 96, 96 * 24 + 2 * 24
    assert count_parameters(InvertedResidual(16, 24, 1, 6)) == widen + filters + narrow
    assert count_parameters(InvertedResidual(96, 24, 1, 1)) == filters + narrow


def test_tapped_maps_are_at_a_quarter_and_an_eighth() -> None:
    with torch.device("meta"):
        network = MobileNetV2()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (32, 64, 64),
        "bottleneck": (320, 32, 32),
        "decoder": (1280, 32, 32),
    }


def test_the_map_shrinks_to_an_eighth_by_three_strides_and_no_dilation() -> None:
    with torch.device("meta"):
        network = MobileNetV2()
        x = network.stem(torch.zeros(1, 3, 64, 64))
        sizes = []
        for stage in network.stages:
            x = stage(x)
            sizes.append((x.shape[1], x.shape[2]))
    assert sizes == [(16, 32), (24, 32), (32, 16), (64, 16), (96, 16), (160, 8), (320, 8)]
    assert {m.dilation for m in network.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_all_blocks_of_a_stage_but_the_first_are_residual() -> None:
    with torch.device("meta"):
        network = MobileNetV2()
    residual = [[block.residual for block in stage] for stage in network.stages]
    assert residual == [[False] + (blocks - 1) * [True] for blocks in (1, 2, 3, 4, 3, 3, 1)]


def test_a_residual_block_that_has_learnt_nothing_passes_its_input_on() -> None:
    block = InvertedResidual(4, 4, 1, 6).eval()
    for parameter in block.branch[-1].parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(block(x), x)


def test_scores_reach_the_corners_of_the_image() -> None:
    torch.manual_seed(0)
    network = MobileNetV2().eval()
    taps = FeatureTaps(network)
    taps.add("head")
    with torch.no_grad():
        logits = network(torch.rand(1, 3, 64, 64))
    corners = (slice(None), slice(None), slice(None, None, 63), slice(None, None, 63))
    torch.testing.assert_close(logits[corners], taps.features["head"][:, :, ::7, ::7])


def test_a_gray_image_is_a_colour_image_of_three_equal_channels() -> None:
    torch.manual_seed(0)
    gray, colour = MobileNetV2(1).eval(), MobileNetV2(3).eval()
    colour.load_state_dict(gray.state_dict())
    x = torch.rand(1, 1, 40, 33)
    torch.testing.assert_close(gray(x), colour(x.repeat(1, 3, 1, 1)))
