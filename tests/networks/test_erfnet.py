from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.errors import UserError
from medkd.networks import count_macs, count_parameters
from medkd.networks.erfnet import DownBlock, ERFNet, FactorisedBlock


def test_has_the_published_size_without_the_encoders_own_head() -> None:
    with torch.device("meta"):
        network = ERFNet(1, 2)
        left_out = nn.Conv2d(128, 2, 1)
    assert count_parameters(network) == 2_062_872
    assert count_parameters(network) + count_parameters(left_out) == 2_063_130
    assert count_macs(network, (1, 384, 384)) / 1e9 == pytest.approx(7.43, rel=1e-2)


def test_tapped_maps_are_at_a_quarter_an_eighth_and_a_half() -> None:
    with torch.device("meta"):
        network = ERFNet()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (64, 64, 64),
        "bottleneck": (128, 32, 32),
        "decoder": (16, 128, 128),
    }


@pytest.mark.parametrize(
    ("dilation", "offsets"),
    ((1, [-2, -1, 0, 1, 2]), (4, [-5, -4, -3, -1, 0, 1, 3, 4, 5])),
)
def test_a_factorised_block_sees_what_its_two_convolutions_reach(dilation: int, offsets: list[int]) -> None:
    block = FactorisedBlock(2, dilation=dilation).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.abs_().add_(0.1)
    x = torch.ones(1, 2, 15, 15, requires_grad=True)
    block(x)[0, 0, 7, 7].backward()
    assert x.grad is not None
    seen = x.grad[0].sum(dim=0) != 0
    reached = [7 + offset for offset in offsets]
    assert seen.any(dim=1).nonzero().flatten().tolist() == reached
    assert seen.any(dim=0).nonzero().flatten().tolist() == reached
    assert int(seen.sum()) == len(reached) ** 2


def test_blocks_of_the_bottleneck_widen_their_view_twice() -> None:
    with torch.device("meta"):
        blocks = list(ERFNet().bottleneck)[1:]
    dilations = [max(max(m.dilation) for m in block.modules() if isinstance(m, nn.Conv2d)) for block in blocks]
    assert dilations == [2, 4, 8, 16, 2, 4, 8, 16]


def test_a_down_block_keeps_the_maxima_of_its_input_as_its_last_channels() -> None:
    block = DownBlock(1, 3).eval()
    block.norm = nn.Identity()  # type: ignore[assignment]
    x = torch.tensor([[[[1.0, 9.0, 0.0, 4.0], [2.0, 3.0, 5.0, 7.0]]]])
    assert block(x)[0, 2].tolist() == [[9.0, 7.0]]


def test_too_many_channels_are_told() -> None:
    assert ERFNet(15)(torch.rand(2, 15, 32, 32)).shape == (2, 1, 32, 32)
    with pytest.raises(UserError, match="at most 15"):
        ERFNet(16)
