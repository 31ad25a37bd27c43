"""DeepLabV3+ and Xception-65: the published size, the dilations, one residual block by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.deeplabv3plus import DeepLabV3Plus
from medkd.networks.xception import XceptionBlock

NARROW = {"backbone_channels": (2, 4, 4, 4, 6, 6, 6, 8), "decoder_channels": 4}


def test_published_size():
    with torch.device("meta"):
        network = DeepLabV3Plus(in_channels=1, out_channels=2)
    unused_classifier = 2048 * 1000 + 1000
    assert count_parameters(network) + unused_classifier == 56_795_962
    assert count_macs(network, (1, 384, 384)) / 1e9 == pytest.approx(136.2, rel=2e-3)


def test_tap_shapes():
    with torch.device("meta"):
        network = DeepLabV3Plus()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (128, 64, 64),
        "bottleneck": (2048, 32, 32),
        "decoder": (256, 64, 64),
    }


def test_the_backbone_has_65_layers_dilated_to_an_eighth():
    with torch.device("meta"):
        backbone = DeepLabV3Plus().backbone
    main = [
        module for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d) and "shortcut" not in name
    ]
    depthwise = [conv for conv in main if conv.groups > 1]
    # A separable convolution counts once.
    assert len(main) - len(depthwise) == 65
    assert sum(conv.stride == (2, 2) for conv in main) == 3
    assert [conv.dilation[0] for conv in depthwise] == [1] * 9 + [2] * 48 + [2] * 3 + [4] * 3


def test_the_shortcut_is_not_rectified():
    block = XceptionBlock([2, 2, 2, 2]).eval()
    nn.init.zeros_(block.residual[-1].weight)
    x = torch.tensor([-1.0, 2.0]).reshape(1, 2, 1, 1)
    assert block(x).flatten().tolist() == [-1.0, 2.0]
    assert x.flatten().tolist() == [-1.0, 2.0]


def test_a_separable_block_by_hand():
    # Every 3x3 is 1 in the middle, every 1x1 the number 2, batch norm of fresh statistics: relu three times, times 8.
    block = XceptionBlock([1, 1, 1, 1], dilation=2).eval()
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            module.weight.data[..., module.kernel_size[0] // 2, module.kernel_size[0] // 2] = (
                1.0 if module.kernel_size == (3, 3) else 2.0
            )
    x = torch.tensor([[[[-1.0, 0.5], [1.0, 2.0]]]])
    expected = torch.tensor([[[[-1.0, 4.5], [9.0, 18.0]]]])
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=0)


def test_a_batch_of_one_trains():
    logits = DeepLabV3Plus(**NARROW).train()(torch.rand(1, 3, 32, 32))
    logits.square().mean().backward()
    assert torch.isfinite(logits).all()
