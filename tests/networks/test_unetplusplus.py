from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNetPlusPlus

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.unetplusplus import UNetPlusPlus

FEATURES = (64, 128, 256, 512, 1024, 64)


def test_size_is_monais_without_the_three_unused_heads() -> None:
    with torch.device("meta"):
        network = UNetPlusPlus(in_channels=1, out_channels=2)
        monai = BasicUNetPlusPlus(2, 1, 2, FEATURES)
    # Each head is a 1x1 convolution from 64 channels to 2, with bias.
    assert count_parameters(monai) == 36_450_632
    assert count_parameters(network) == 36_450_632 - 3 * (64 * 2 + 2)
    assert count_macs(network, (1, 384, 384)) / 1e9 == pytest.approx(294.2, rel=5e-3)


def test_logits_are_those_of_monais_last_node() -> None:
    torch.manual_seed(0)
    features = (4, 6, 8, 10, 12, 5)
    network = UNetPlusPlus(1, 2, features)
    monai = BasicUNetPlusPlus(2, 1, 2, features, deep_supervision=True, act="relu", norm="batch")
    missing, unexpected = monai.load_state_dict(network.state_dict(), strict=False)
    assert unexpected == [] and len(missing) == 6
    x = torch.rand(2, 1, 64, 48)
    torch.testing.assert_close(network(x), monai(x)[-1])


def test_taps_see_the_second_pool_the_deepest_node_and_the_last() -> None:
    with torch.device("meta"):
        network = UNetPlusPlus()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(2, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (128, 64, 64),
        "bottleneck": (1024, 16, 16),
        "decoder": (64, 256, 256),
    }
