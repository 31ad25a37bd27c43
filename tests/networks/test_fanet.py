from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engines import FeatureTaps
from medkd.errors import UserError
from medkd.networks import count_macs, count_parameters
from medkd.networks.fanet import FANet, MixPool, ResidualBlock, foreground, soft_threshold

SMALL = (4, 6, 8, 10)


def test_published_size_and_a_cost_per_pass() -> None:
    with torch.device("meta"):
        once, twice = FANet(iterations=1), FANet(iterations=2)
    assert count_parameters(once) == count_parameters(twice) == 7_720_266
    assert count_macs(twice, (3, 64, 64)) == 2 * count_macs(once, (3, 64, 64))


def test_taps_see_the_second_and_the_last_pool_and_the_last_mix() -> None:
    with torch.device("meta"):
        network = FANet()
        taps = FeatureTaps(network)
        for tap in network.taps:
            taps.add(tap)
        network(torch.zeros(2, 3, 256, 256))
    assert {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()} == {
        "encoder": (64, 64, 64),
        "bottleneck": (256, 16, 16),
        "decoder": (16, 256, 256),
    }


@pytest.mark.parametrize("out_channels", (1, 3))
def test_feeds_its_prediction_back(out_channels: int) -> None:
    torch.manual_seed(0)
    network = FANet(1, out_channels, SMALL, iterations=3).eval()
    x = torch.rand(2, 1, 37, 50)
    mask = soft_threshold(x)
    for _ in range(2):
        mask = foreground(network(x, mask))
    logits = network(x)
    torch.testing.assert_close(logits, network(x, mask))
    assert not torch.allclose(logits, network(x, soft_threshold(x)), atol=1e-4)


@pytest.mark.parametrize("iterations", (1, 2))
def test_every_parameter_learns(iterations: int) -> None:
    torch.manual_seed(0)
    network = FANet(channels=SMALL, iterations=iterations)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert [
        name for name, value in network.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
    ] == []


@pytest.mark.parametrize(("own", "previous", "union"), ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1), (0.5, 0.5, 0.75)))
def test_half_of_a_mix_sees_only_the_union_of_the_masks(own: float, previous: float, union: float) -> None:
    torch.manual_seed(0)
    mix = MixPool(4).eval()
    mix.own_mask = nn.Sequential(nn.Conv2d(4, 1, kernel_size=1))
    nn.init.zeros_(mix.own_mask[0].weight)
    nn.init.constant_(mix.own_mask[0].bias, own)
    x = torch.rand(2, 4, 6, 5)
    mixed = mix(x, torch.full((2, 1, 6, 5), previous))
    torch.testing.assert_close(mixed[:, :2], mix.attended(union * x))
    torch.testing.assert_close(mixed[:, 2:], mix.whole(x))


def test_excitation_halves_the_shortcut_of_a_block_without_weights() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3, 4).eval()
    for parameter in (*block.body[-1].parameters(), *block.excitation.parameters()):
        nn.init.zeros_(parameter)
    x = torch.rand(2, 3, 6, 5)
    torch.testing.assert_close(block(x), (block.shortcut(x) / 2).relu())


def test_first_mask_is_a_sigmoid_of_standardised_grey_values() -> None:
    # Two channels of mean grey 0, 0, 3 and 5: mean 2, deviation sqrt((4 + 4 + 1 + 9) / 4).
    image = torch.tensor([[[[0.0, 1.0, 2.0, 4.0]], [[0.0, -1.0, 4.0, 6.0]]]])
    deviation = 4.5**0.5
    expected = torch.sigmoid(torch.tensor([-2.0, -2.0, 1.0, 3.0]) / deviation).reshape(1, 1, 1, 4)
    torch.testing.assert_close(soft_threshold(image), expected)
    torch.testing.assert_close(soft_threshold(7 * image - 100), expected)
    assert torch.equal(soft_threshold(torch.zeros(1, 3, 4, 4)), torch.full((1, 1, 4, 4), 0.5))


def test_foreground_is_anything_but_the_first_class() -> None:
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3])).reshape(1, 3, 1, 1)
    assert foreground(logits).item() == pytest.approx(0.8)
    assert foreground(torch.zeros(1, 1, 1, 1)).item() == 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    (
        (lambda: FANet(channels=SMALL)(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 32, 32)), "one channel"),
        (lambda: FANet(channels=SMALL)(torch.zeros(2, 3, 32, 32), torch.zeros(2, 1, 16, 16)), "image's size"),
        (lambda: FANet(iterations=0), "no pass"),
        (lambda: FANet(channels=(8,)), "two levels"),
        (lambda: FANet(channels=(2, 4)), "4 channels"),
    ),
)
def test_wrong_input_is_told(call, words) -> None:
    with pytest.raises(UserError, match=words):
        call()
