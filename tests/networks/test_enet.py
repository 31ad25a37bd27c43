from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.errors import UserError
from medkd.networks import count_macs, count_parameters
from medkd.networks.enet import Bottleneck, ENet, unpool


@pytest.mark.parametrize("in_channels", (1, 3))
def test_has_the_published_size_with_the_block_that_the_published_code_never_calls(in_channels: int) -> None:
    with torch.device("meta"):
        network = ENet(in_channels, 2)
        never_called = Bottleneck(128)
    assert count_parameters(network) == 353_761
    assert count_parameters(never_called) == 17_795
    macs = count_macs(network, (in_channels, 384, 384))
    assert (macs - count_macs(never_called, (128, 48, 48))) / 1e9 == pytest.approx(1.02, rel=1e-2)


def test_tapped_maps_are_at_a_quarter_an_eighth_and_a_half() -> None:
    with torch.device("meta"):
        network = ENet()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (64, 64, 64),
        "bottleneck": (128, 32, 32),
        "decoder": (16, 128, 128),
    }


def middle(block: nn.Module) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Kernel and dilation of the convolutions between the two of 1x1."""
    convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    return [(conv.kernel_size, conv.dilation) for conv in convs[1:-1]]


def test_context_blocks_come_in_the_order_of_the_paper() -> None:
    with torch.device("meta"):
        network = ENet()
    square = {dilation: [((3, 3), (dilation, dilation))] for dilation in (1, 2, 4, 8, 16)}
    strips = [((5, 1), (1, 1)), ((1, 5), (1, 1))]
    order = [square[1], square[2], strips, square[4], square[1], square[8], strips, square[16]]
    for stage in (network.stage2, network.stage3):
        assert [middle(block) for block in stage] == order


def test_unpooling_puts_values_where_the_maxima_were() -> None:
    image = torch.tensor([[[[1.0, 9.0, 0.0, 0.0], [2.0, 3.0, 0.0, 7.0]]]])
    _, places = nn.MaxPool2d(2, return_indices=True)(image)
    values = torch.tensor([[[[5.0, -6.0]]]])
    assert unpool(values, places).tolist() == [[[[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, -6.0]]]]


def test_unpooling_equals_pytorchs_on_every_sample_and_channel() -> None:
    torch.manual_seed(0)
    pooled, places = nn.MaxPool2d(2, return_indices=True)(torch.randn(2, 3, 6, 10))
    assert torch.equal(unpool(pooled, places), nn.MaxUnpool2d(2)(pooled, places))


def test_the_decoder_unpools_with_the_places_of_its_own_resolution() -> None:
    torch.manual_seed(0)
    network = ENet().eval()
    given: dict[str, torch.Tensor] = {}
    used: dict[str, torch.Tensor] = {}
    for name in ("down1", "down2"):
        network.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: given.update({name: output[1]})
        )
    for name in ("up4", "up5"):
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: used.update({name: inputs[1]})
        )
    network(torch.rand(1, 3, 32, 32))
    assert torch.equal(used["up5"], given["down1"])
    assert torch.equal(used["up4"], given["down2"])


def test_a_gray_image_is_a_colour_image_of_three_equal_channels() -> None:
    torch.manual_seed(0)
    gray, colour = ENet(1).eval(), ENet(3).eval()
    colour.load_state_dict(gray.state_dict())
    x = torch.rand(1, 1, 40, 33)
    torch.testing.assert_close(gray(x), colour(x.repeat(1, 3, 1, 1)))


def test_too_many_channels_are_told() -> None:
    assert ENet(15)(torch.rand(2, 15, 32, 32)).shape == (2, 1, 32, 32)
    with pytest.raises(UserError, match="at most 15"):
        ENet(16)
