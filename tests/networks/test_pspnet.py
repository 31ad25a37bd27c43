"""PSPNet: the published size, its dilated backbone, and its bins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.pspnet import PooledBatchNorm, PSPNet, average_bins


def test_published_size():
    with torch.device("meta"):
        network = PSPNet(in_channels=3, out_channels=2)
    assert count_parameters(network) == 46_706_626
    assert count_macs(network, (3, 384, 384)) / 1e9 == pytest.approx(103.6, rel=2e-3)


def test_tap_shapes():
    with torch.device("meta"):
        network = PSPNet()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(1, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (256, 64, 64),
        "bottleneck": (2048, 32, 32),
        "decoder": (512, 32, 32),
    }


def test_the_last_two_stages_trade_their_stride_for_dilation():
    network = PSPNet(channels=(2, 2, 2, 2))
    described = [
        [(block.conv2.stride[0], block.conv2.dilation[0]) for block in stage]
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4)
    ]
    assert described == [
        [(1, 1)] * 3,
        [(2, 1)] + [(1, 1)] * 3,
        [(1, 1)] + [(1, 2)] * 5,
        [(1, 2)] + [(1, 4)] * 2,
    ]


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(4, 5), (8, 8), (12, 6), (32, 7)])
def test_bins_are_those_of_adaptive_pooling(bins, size):
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(average_bins(x, bins), nn.AdaptiveAvgPool2d(bins)(x))


def test_bins_by_hand():
    # Three columns in two bins: columns 0 and 1, columns 1 and 2; one row in two bins: the same row twice.
    assert average_bins(torch.tensor([[[[0.0, 2.0, 6.0]]]]), 2).tolist() == [[[[1.0, 4.0], [1.0, 4.0]]]]


def test_a_single_value_is_normalised_by_the_running_statistics():
    norm = PooledBatchNorm(2).train()
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    out = norm(torch.tensor([3.0, 5.0]).reshape(1, 2, 1, 1))
    torch.testing.assert_close(out.flatten(), torch.tensor([1.0, 2.0]), rtol=1e-4, atol=0)
    assert norm.running_mean.tolist() == [1.0, 1.0] and norm.running_var.tolist() == [4.0, 4.0]


def test_more_values_are_normalised_as_ever():
    pooled, plain = PooledBatchNorm(3).train(), nn.BatchNorm2d(3).train()
    x = torch.rand(2, 3, 1, 1)
    torch.testing.assert_close(pooled(x), plain(x))
    torch.testing.assert_close(pooled.state_dict(), plain.state_dict())


@pytest.mark.parametrize("batch", [1, 2])
def test_small_batches_train(batch):
    network = PSPNet(channels=(4, 4, 4, 4)).train()
    logits = network(torch.rand(batch, 3, 32, 32))
    logits.square().mean().backward()
    assert torch.isfinite(logits).all()
