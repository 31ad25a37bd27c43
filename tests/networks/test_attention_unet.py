from __future__ import annotations

import pytest
import torch
from monai.networks.nets import AttentionUnet

from medkd.engines import FeatureTaps
from medkd.errors import UserError
from medkd.networks import count_macs, count_parameters
from medkd.networks.attention_unet import AttentionUNet


def tap_shapes(network: AttentionUNet, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    taps = FeatureTaps(network)
    for tap in network.taps:
        taps.add(tap)
    network(torch.zeros(1, *shape, device="meta"))
    return {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()}


def test_size_in_the_published_channels() -> None:
    with torch.device("meta"):
        network = AttentionUNet(in_channels=1, out_channels=2)
    assert count_parameters(network) == 31_739_250
    assert count_macs(network, (1, 384, 384)) / 1e9 == pytest.approx(94.9, rel=5e-3)


@pytest.mark.parametrize(
    ("channels", "shapes"),
    [
        (
            (64, 128, 256, 512, 1024),
            {"encoder": (256, 96, 96), "bottleneck": (1024, 24, 24), "decoder": (64, 384, 384)},
        ),
        ((4, 6, 8, 10), {"encoder": (8, 96, 96), "bottleneck": (10, 48, 48), "decoder": (4, 384, 384)}),
        ((4, 6, 8, 10, 12, 14), {"encoder": (8, 96, 96), "bottleneck": (14, 12, 12), "decoder": (4, 384, 384)}),
    ],
)
def test_tap_shapes(channels: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        network = AttentionUNet(channels=channels)
    assert tap_shapes(network, (3, 384, 384)) == shapes


@pytest.mark.parametrize("size", [(32, 32), (50, 37), (16, 20, 9)])
def test_logits_have_the_size_of_the_image(size: tuple[int, ...]) -> None:
    network = AttentionUNet(1, 5, channels=(4, 6, 8, 10, 12), spatial_dims=len(size))
    assert network(torch.rand(2, 1, *size)).shape == (2, 5, *size)


def test_is_monais_network_on_a_padded_image() -> None:
    torch.manual_seed(0)
    network = AttentionUNet(channels=(4, 6, 8, 10)).eval()
    stock = AttentionUnet(2, 3, 1, channels=(4, 6, 8, 10), strides=(2, 2, 2)).eval()
    stock.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 32, 30)
    padded = torch.cat([x, torch.zeros(1, 3, 32, 2)], dim=-1)
    torch.testing.assert_close(network(x), stock(padded)[..., :30])


def test_too_few_levels_are_told() -> None:
    with pytest.raises(UserError, match="four or more"):
        AttentionUNet(channels=(4, 6, 8))
