from __future__ import annotations

import pytest
import torch

from medkd.engines import FeatureTaps
from medkd.errors import UserError
from medkd.networks import count_macs, count_parameters
from medkd.networks.multitask_transunet import MultiTaskTransUNet


def small(**arguments: object) -> MultiTaskTransUNet:
    torch.manual_seed(0)
    return MultiTaskTransUNet(**{"width": 16, "image_size": 64, **arguments})


def full(**arguments: object) -> MultiTaskTransUNet:
    with torch.device("meta"):
        return MultiTaskTransUNet(**arguments)


def test_published_size() -> None:
    network = full()
    assert count_parameters(network) == 172_625_028
    assert count_macs(network, (3, 256, 256), reconstruct=True) / 1e9 == pytest.approx(31.4, rel=5e-3)


def test_one_published_token_costs_134_million_parameters() -> None:
    transformer = full().transformer
    token = 1024 * 16 * 16
    by_hand = (token * 256 + 256) + (256 * token + token)
    assert count_parameters(transformer.embed) + count_parameters(transformer.unembed) == by_hand == 134_480_128


def test_spatial_tokens_differ_in_the_projections_and_positions_alone() -> None:
    tokens, channels, dim = 16 * 16, 1024, 256
    projections = (channels * dim + dim) + (dim * channels + channels)
    by_hand = 172_625_028 - 134_480_128 + projections + (tokens - 1) * dim
    assert count_parameters(full(tokens="spatial")) == by_hand == 38_735_748


@pytest.mark.parametrize("tokens", ["published", "spatial"])
def test_tap_shapes(tokens: str) -> None:
    network = full(tokens=tokens)
    taps = FeatureTaps(network)
    for tap in network.taps:
        taps.add(tap)
    network(torch.zeros(1, 3, 256, 256, device="meta"))
    shapes = {tap: tuple(feature.shape[1:]) for tap, feature in taps.features.items()}
    assert shapes == {"encoder": (256, 64, 64), "bottleneck": (512, 16, 16), "decoder": (16, 256, 256)}


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({}, (64, 64)),
        ({}, (50, 63)),
        ({"image_size": 32, "spatial_dims": 3}, (32, 32, 20)),
        ({"tokens": "spatial"}, (50, 37)),
        ({"tokens": "spatial"}, (32, 112)),
        ({"tokens": "spatial", "spatial_dims": 3}, (16, 20, 9)),
    ],
)
def test_logits_and_reconstruction_have_the_size_of_the_image(arguments: dict[str, object], size: tuple) -> None:
    network = small(in_channels=2, out_channels=5, **arguments)
    logits, reconstruction = network(torch.rand(2, 2, *size), reconstruct=True)
    assert logits.shape == (2, 5, *size) and reconstruction.shape == (2, 2, *size)


@pytest.mark.parametrize("tokens", ["published", "spatial"])
def test_every_parameter_gets_a_gradient(tokens: str) -> None:
    network = small(tokens=tokens)
    sum(part.square().mean() for part in network(torch.rand(2, 3, 64, 64), reconstruct=True)).backward()
    assert [key for key, value in network.named_parameters() if not value.grad.abs().sum() > 0] == []


def test_a_frozen_teacher_runs_no_reconstruction() -> None:
    network = small().eval()
    calls = []
    network.reconstruction_decoder.register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(1, 3, 64, 64)
    logits = network(x)
    assert isinstance(logits, torch.Tensor) and calls == []
    torch.testing.assert_close(network(x, reconstruct=True)[0], logits)
    assert calls == [1]


def test_decoders_see_the_skip_before_the_upsampled_map() -> None:
    network = small()
    seen: dict[str, torch.Tensor] = {}
    network.stages[1].register_forward_hook(lambda module, inputs, output: seen.update(skip=output))
    network.bottleneck.register_forward_hook(lambda module, inputs, output: seen.update(low=output))
    for name in ("decoder", "reconstruction_decoder"):
        block = network.get_submodule(name).blocks[0]
        block.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: inputs[0]}))
    network(torch.rand(2, 3, 64, 64), reconstruct=True)
    # Corners stay corners: the upsampling aligns them.
    corners = (..., [0, 0, -1, -1], [0, -1, 0, -1])
    for name in ("decoder", "reconstruction_decoder"):
        torch.testing.assert_close(seen[name][:, :64], seen["skip"])
        torch.testing.assert_close(seen[name][:, 64:][corners], seen["low"][corners])


def test_bottleneck_looks_three_positions_away() -> None:
    branch = small().stages[0].branch.eval()
    # Branch alone: the shortcut would add the position itself.
    x = torch.rand(1, 16, 16, 16, requires_grad=True)
    branch(x)[0, :, 4, 4].sum().backward()
    rows, columns = x.grad.abs().sum(dim=(0, 1)).nonzero().T.tolist()
    assert set(rows) == set(columns) == {5, 8, 11}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: small()(torch.rand(1, 3, 128, 64)), "images of 64x64, these are 128x64"),
        (lambda: small(image_size=32, spatial_dims=3)(torch.rand(1, 3, 16, 16, 16)), "images of 32x32x32"),
        (lambda: small(tokens="patches"), "published or spatial"),
        (lambda: small(image_size=100), "multiple of 16"),
        (lambda: small(image_size=0), "multiple of 16"),
        (lambda: small(width=4), "8 or more"),
    ],
)
def test_wrong_input_is_told(call, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        call()
