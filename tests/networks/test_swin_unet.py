from __future__ import annotations

import pytest
import torch

from medkd.engines import FeatureTaps
from medkd.networks import count_macs, count_parameters
from medkd.networks.swin_unet import PatchExpand, SwinStage, SwinUNet


def full(**arguments: object) -> SwinUNet:
    with torch.device("meta"):
        return SwinUNet(**arguments)


def test_published_size() -> None:
    network = full(out_channels=9)
    assert count_parameters(network) == 27_168_900
    assert count_macs(network, (3, 224, 224)) / 1e9 == pytest.approx(6.11, rel=5e-3)


def test_published_heads() -> None:
    stages = full().encoder
    assert [stage.blocks[0].num_heads for stage in stages] == [3, 6, 12, 24]


def test_tap_shapes() -> None:
    network = full()
    taps = FeatureTaps(network)
    for tap in network.taps:
        taps.add(tap)
    network(torch.zeros(1, 3, 224, 224, device="meta"))
    shapes = {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()}
    assert shapes == {"encoder": (96, 56, 56), "bottleneck": (768, 7, 7), "decoder": (96, 224, 224)}


def test_stage_counts_by_hand() -> None:
    # Per block, one head: qkv, projection, a bias for each of 13x13 offsets, perceptron, two layer norms.
    block = (32 * 96 + 96) + (32 * 32 + 32) + 13 * 13 + (32 * 128 + 128 + 128 * 32 + 32) + 2 * 64
    assert count_parameters(SwinStage(32)) == 2 * block


@pytest.mark.parametrize("size", [(14, 14), (7, 14), (3, 12)])
def test_shifted_windows_reach_the_neighbours_but_not_around_the_edge(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    stage = SwinStage(32).double()
    x = torch.randn(1, 32, *size, dtype=torch.float64)
    other = x.clone()
    other[..., -1] *= -1
    changed = (stage(x) - stage(other)).abs().amax(dim=(0, 1)) > 1e-9
    # Columns 7 and on share the last one's window; shifted by 3, a window holds columns 3 to 9, the next wraps around.
    assert not changed[:, :3].any() and changed[:, 3:].all()


def test_an_axis_of_one_window_is_not_shifted() -> None:
    torch.manual_seed(0)
    stage = SwinStage(32).double()
    stage.blocks = stage.blocks[1:]
    x = torch.randn(1, 32, 7, 14, dtype=torch.float64)
    other = x.clone()
    other[..., 0, -1] *= -1
    changed = (stage(x) - stage(other)).abs().amax(dim=(0, 1)) > 1e-9
    assert changed[:, 10:].all() and not changed[:, :10].any()


def test_expansion_hands_channels_out_to_a_square() -> None:
    torch.manual_seed(0)
    expand = PatchExpand(source=3, target=2, scale=2)
    x = torch.randn(1, 3, 4, 5)
    enlarged = expand(x)
    assert enlarged.shape == (1, 2, 8, 10)
    # What becomes of one position depends on that position alone.
    alone = expand(x[..., 2:3, 3:4])
    torch.testing.assert_close(enlarged[..., 4:6, 6:8], alone)


def test_skips_are_what_a_level_gets() -> None:
    torch.manual_seed(0)
    network = SwinUNet(width=8)
    seen: dict[str, torch.Tensor] = {}
    network.embed.register_forward_hook(lambda module, inputs, output: seen.update(embedded=output))
    network.expands[-1].register_forward_hook(lambda module, inputs, output: seen.update(up=output))
    network.fuses[-1].register_forward_hook(lambda module, inputs, output: seen.update(fused=inputs[0]))
    network(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(seen["fused"].movedim(-1, 1), torch.cat([seen["up"], seen["embedded"]], dim=1))


@pytest.mark.parametrize("size", [(32, 32), (50, 37)])
def test_logits_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    assert SwinUNet(in_channels=1, out_channels=5, width=8)(torch.rand(2, 1, *size)).shape == (2, 5, *size)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = SwinUNet(width=16)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert [key for key, value in network.named_parameters() if not value.grad.abs().sum() > 0] == []
