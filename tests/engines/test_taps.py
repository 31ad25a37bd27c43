"""Feature taps on our own and on stock networks."""

from __future__ import annotations

import pytest
import torch

from medkd.engines import FeatureTaps, tap_channels
from medkd.errors import UserError
from medkd.networks import UNet, create_network


def stock_unet() -> torch.nn.Module:
    return create_network(
        "monai.networks.nets.UNet", spatial_dims=2, in_channels=3, out_channels=1, channels=(4, 8, 16), strides=(2, 2)
    )


def test_features_are_what_the_module_returns():
    network = UNet(channels=(4, 6, 8)).eval()
    taps = FeatureTaps(network)
    taps.add("bottleneck")
    x = torch.rand(2, 3, 16, 16)
    network(x)
    torch.testing.assert_close(taps.features["bottleneck"], network.encode(x)[0])


def test_removed_taps_capture_nothing():
    network = UNet(channels=(4, 6, 8))
    taps = FeatureTaps(network)
    taps.add("encoder")
    taps.remove()
    network(torch.rand(2, 3, 16, 16))
    assert taps.features == {}
    assert not network.pools[1]._forward_hooks


@pytest.mark.parametrize(
    ("network", "tap", "channels"),
    [
        (UNet(channels=(4, 6, 8)), "encoder", 6),
        (UNet(channels=(4, 6, 8)), "bottleneck", 8),
        (UNet(channels=(4, 6, 8)), "decoder", 4),
        (UNet(channels=(4, 6, 8)), "encoder.0", 4),
        (stock_unet(), "model.1.submodule.0", 8),
    ],
)
def test_tap_channels(network, tap, channels):
    training = network.training
    assert tap_channels(network, tap) == channels
    assert network.training == training


def test_an_unknown_tap_is_told():
    with pytest.raises(UserError, match=r"no tap 'neck' \(it declares encoder, bottleneck, decoder\)"):
        FeatureTaps(UNet(channels=(4, 6))).add("neck")
