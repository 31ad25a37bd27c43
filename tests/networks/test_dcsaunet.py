from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.errors import UserError
from medkd.networks import count_macs, count_parameters
from medkd.networks.dcsaunet import CSABlock, DCSAUNet, PrimaryFeatures, SplitAttention


def test_published_size() -> None:
    with torch.device("meta"):
        network = DCSAUNet()
    assert count_parameters(network) == 2_598_785
    assert count_macs(network, (3, 384, 384)) / 1e9 == pytest.approx(14.8, rel=5e-3)


def test_taps_see_the_second_pool_the_deepest_and_the_last_stage() -> None:
    with torch.device("meta"):
        network = DCSAUNet()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(2, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (128, 64, 64),
        "bottleneck": (512, 16, 16),
        "decoder": (64, 256, 256),
    }


def test_only_the_outermost_stages_do_not_smooth() -> None:
    network = DCSAUNet(width=8)
    smoothing = [
        [any(isinstance(module, nn.AvgPool2d) for module in block.modules()) for block in stage]
        for stage in (*network.encoder, *network.decoder)
    ]
    assert smoothing == [[False, False], *[[True, False]] * 6, [False, False]]


@pytest.mark.parametrize("favoured", (0, 1))
def test_attention_mixes_the_shallow_and_the_deep_branch(favoured: int) -> None:
    torch.manual_seed(0)
    attention = SplitAttention(4).eval()
    x = torch.rand(2, 4, 5, 6)
    branches = attention.branches(x)
    shallow = branches[:, :4]
    deep = attention.deepen(shallow + branches[:, 4:])
    last = attention.attention[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    torch.testing.assert_close(attention(x), (shallow + deep) / 2)
    # The first half of the last convolution's outputs weighs the shallow branch, the second half the deep one.
    with torch.no_grad():
        last.bias[4 * favoured : 4 * favoured + 4] = 50
    torch.testing.assert_close(attention(x), (shallow, deep)[favoured])


def test_depthwise_layer_of_the_primary_features_has_a_residual() -> None:
    torch.manual_seed(0)
    primary = PrimaryFeatures(3, 4).eval()
    for parameter in primary.depthwise.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 3, 9, 8)
    torch.testing.assert_close(primary(x), primary.pointwise(primary.entry(x)))


@pytest.mark.parametrize(("in_channels", "projected"), ((16, False), (8, True)))
def test_a_block_projects_its_shortcut_only_where_channels_change(in_channels: int, projected: bool) -> None:
    torch.manual_seed(0)
    block = CSABlock(in_channels, 16).eval()
    for parameter in block.body[-1].parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(2, in_channels, 4, 4)
    shortcut = block.shortcut(x)
    assert torch.equal(shortcut, x) != projected
    torch.testing.assert_close(block(x), shortcut.relu())


@pytest.mark.parametrize("width", (0, 12, -8))
def test_a_width_that_cannot_be_grouped_is_refused(width: int) -> None:
    with pytest.raises(UserError, match="multiple of 8"):
        DCSAUNet(width=width)
