"""ResNet-18 segmenter: the published size, and its encoder against He et al.'s table."""

from __future__ import annotations

import pytest
import torch

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.resnet_segmenter import ResidualEncoder, ResNet18


def test_published_size():
    with torch.device("meta"):
        network = ResNet18(in_channels=3, out_channels=2)
    assert count_parameters(network) == 11_177_538
    assert count_macs(network, (3, 384, 384)) / 1e9 == pytest.approx(5.33, rel=2e-3)


def test_tap_shapes():
    with torch.device("meta"):
        network = ResNet18()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (64, 64, 64),
        "bottleneck": (512, 8, 8),
        "decoder": (512, 8, 8),
    }


def test_the_encoder_has_the_weights_of_the_original_by_hand():
    # Stem 3 -> 2: 7 * 7 * 3 * 2 + bn 4. A stage of one block to c from s channels: 9sc + 9cc + two bn 2c, and where
    # the channels change a 1x1 shortcut sc + bn 2c, without bias.
    stages = [(2, 2, False), (2, 4, True), (4, 4, True), (4, 6, True)]
    by_hand = 294 + 4
    for source, width, shortcut in stages:
        by_hand += 9 * source * width + 9 * width * width + 4 * width + shortcut * (source * width + 2 * width)
    assert count_parameters(ResidualEncoder(3, channels=(2, 4, 4, 6), blocks=(1, 1, 1, 1))) == by_hand


def test_logits_are_the_scores_of_the_last_map_spread_between_its_corners():
    network = ResNet18(out_channels=2, channels=(2, 2, 2, 2)).eval()
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 96)
        scores = network.head(network.encoder(x)[-1])
        logits = network(x)
    assert scores.shape == (1, 2, 2, 3)
    torch.testing.assert_close(logits[..., [0, 0, -1, -1], [0, -1, 0, -1]], scores[..., [0, 0, 1, 1], [0, 2, 0, 2]])
