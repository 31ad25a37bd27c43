from __future__ import annotations

import pytest
import torch

from medkd.engines import FeatureTaps
from medkd.errors import UserError
from medkd.networks import count_macs, count_parameters
from medkd.networks.unet_nearest import NearestUNet


def test_published_size() -> None:
    with torch.device("meta"):
        network = NearestUNet(in_channels=1, out_channels=2)
    assert count_parameters(network) == 34_525_954
    assert count_macs(network, (1, 384, 384)) / 1e9 == pytest.approx(146.9, rel=5e-3)


def test_taps_see_the_second_pool_the_bottleneck_and_the_last_block() -> None:
    with torch.device("meta"):
        network = NearestUNet()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(2, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (128, 64, 64),
        "bottleneck": (1024, 16, 16),
        "decoder": (64, 256, 256),
    }


def test_each_level_repeats_pixels_then_convolves() -> None:
    torch.manual_seed(0)
    upsample = NearestUNet(channels=(2, 3)).decoder.upsamples[0]
    x = torch.rand(1, 3, 2, 3)
    repeated = torch.stack([x[..., row // 2, column // 2] for row in range(4) for column in range(6)], dim=-1)
    torch.testing.assert_close(upsample(x), upsample[1](repeated.reshape(1, 3, 4, 6)))
    assert upsample(x).shape == (1, 2, 4, 6)


def test_too_few_levels_are_refused() -> None:
    with pytest.raises(UserError, match="two numbers"):
        NearestUNet(channels=(8,))
