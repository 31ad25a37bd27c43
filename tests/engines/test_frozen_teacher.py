"""The frozen teacher: the same answers as the network it was made of, with less work."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, prune

from medkd.engines import AutocastInferer, FeatureTaps, FrozenTeacher
from medkd.errors import UserError
from medkd.networks import MultiTaskUNet, UNet, create_network
from medkd.networks.folding import fold_batch_norms

CPU = torch.device("cpu")


def settled(network: nn.Module) -> nn.Module:
    """With batch norms that do something (fresh ones are nearly the identity) and leave most channels alive."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                if module.running_mean is not None:
                    module.running_mean.normal_(0, 0.3, generator=generator)
                    module.running_var.uniform_(0.3, 3, generator=generator)
                if module.affine:
                    module.weight.uniform_(0.5, 2, generator=generator)
                    module.bias.normal_(0.4, 0.3, generator=generator)
    return network


def image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


def network_2d() -> nn.Module:
    torch.manual_seed(0)
    return settled(MultiTaskUNet(channels=(4, 6, 8)))


def plain(network: nn.Module, x: torch.Tensor, asked: list[str | None]) -> dict[str | None, torch.Tensor]:
    """What the network itself gives, as distillation read it without a frozen copy."""
    training = network.training
    taps = FeatureTaps(network)
    for tap in asked:
        if tap is not None:
            taps.add(tap)
    with torch.no_grad():
        logits = network.eval()(x)
    outputs = {tap: logits if tap is None else taps.features[tap] for tap in asked}
    network.train(training)
    taps.remove()
    return outputs


def teacher_of(network: nn.Module, *asked: str | None) -> FrozenTeacher:
    teacher = FrozenTeacher(network, CPU)
    for tap in asked:
        teacher.ask(tap)
    return teacher


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for tap, output in expected.items():
        scale = float(output.abs().max())
        assert scale > 1e-3, "or the comparison would say nothing"
        torch.testing.assert_close(found[tap], output, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, t=tap: f"{t}: {m}")


DECLARED = ("encoder", "bottleneck", "decoder")
STOCK = {"in_channels": 3, "out_channels": 2}
NETWORKS = {
    "unet": ("unet", {"channels": (4, 6, 8)}, (16, 16), DECLARED),
    "unet_of_an_odd_size": ("unet", {"channels": (4, 6, 8)}, (18, 13), DECLARED),
    "unet_3d": ("unet", {"channels": (4, 6, 8), "spatial_dims": 3}, (8, 8, 8), DECLARED),
    "multitask_unet_3d": ("multitask_unet", {"channels": (4, 6), "spatial_dims": 3}, (8, 8, 4), DECLARED),
    "transunet": ("multitask_transunet", {"width": 16, "tokens": "spatial"}, (32, 32), DECLARED),
    "pspnet": ("pspnet", {"channels": (4, 4, 4, 4)}, (32, 32), ("encoder", "bottleneck")),
    "erfnet": ("erfnet", {}, (16, 16), DECLARED),
    "fanet": ("fanet", {"channels": (4, 6, 8)}, (16, 16), DECLARED),
    "monai_unet": (
        "monai.networks.nets.UNet",
        {"spatial_dims": 2, "channels": (4, 6, 8), "strides": (2, 2), "norm": "batch", "num_res_units": 1},
        (16, 16),
        ("model.1.submodule.0", "model.1.submodule.2"),
    ),
    "monai_basic_unet_3d": (
        "monai.networks.nets.BasicUNet",
        {"spatial_dims": 3, "features": (4, 4, 6, 6, 8, 4), "norm": "batch"},
        (16, 16, 16),
        ("down_1", "upcat_2"),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_plain_network(name):
    kind, arguments, size, taps = NETWORKS[name]
    torch.manual_seed(0)
    network = settled(create_network(kind, **{**STOCK, **arguments}))
    x = image(2, 3, *size)
    for asked in ([None], [*taps, None], list(taps), [taps[0]]):
        teacher = teacher_of(network, *asked)
        expected = plain(network, x, asked)
        for _ in range(3):
            assert_same(teacher(x), expected)


def test_outputs_follow_the_image_and_take_no_gradient():
    network = network_2d()
    teacher = teacher_of(network, "bottleneck", None)
    for seed in range(3):
        x = torch.rand(seed + 1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        outputs = teacher(x.requires_grad_())
        assert_same(outputs, plain(network, x, ["bottleneck", None]))
        assert not any(output.requires_grad for output in outputs.values())
    projector = nn.Conv2d(8, 2, 1)
    projector(outputs["bottleneck"]).sum().backward()
    assert projector.weight.grad is not None, "the terms can keep the maps for their backward pass"


def test_batch_norms_are_folded_away():
    network = network_2d().eval()
    x = image(2, 3, 16, 16)
    with torch.no_grad():
        expected = network(x)
        assert any(isinstance(module, _BatchNorm) for module in network.modules())
        fold_batch_norms(network)
        assert not any(isinstance(module, _BatchNorm) for module in network.modules())
        assert_same({None: network(x)}, {None: expected})


class ScaledBetween(nn.Sequential):
    """A sequence with a pass of its own: what its neighbours say of each other does not hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](2 * self[0](x))


class Renamed(nn.Sequential):
    """A sequence that only has another name."""


class StandardisedConv(nn.Conv2d):
    """A convolution that prepares its weight at every pass, as in big-transfer ResNets."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / (self.weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5), self.bias)


class DoubledNorm(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5)


def doubling(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    return module


PAIRS = {
    "plain": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "of a subclass": lambda: Renamed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "no bias, grouped": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)),
    "strided, dilated": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 2, 2), nn.BatchNorm2d(4)),
    "reflecting": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, padding_mode="reflect"), nn.BatchNorm2d(4)),
    "no weights": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
    "no statistics": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
    "two norms": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)),
    "instance norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)),
    "norm in front": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
    "dropout between": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4)),
    "forward of its own": lambda: ScaledBetween(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "standardised weight": lambda: nn.Sequential(StandardisedConv(3, 4, 3), nn.BatchNorm2d(4)),
    "norm of its own": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), DoubledNorm(4)),
    "hook in front of the norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), doubling(nn.BatchNorm2d(4))),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
    "pruned": lambda: nn.Sequential(pruned(), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_gives_the_same_whether_it_can_be_folded_or_not(pair):
    torch.manual_seed(0)
    network = settled(PAIRS[pair]())
    x = image(2, 3, 8, 8)
    assert_same(teacher_of(network, None)(x), plain(network, x, [None]))


@pytest.mark.parametrize(
    ("pair", "is_folded"), [("plain", True), ("of a subclass", True), ("forward of its own", False)]
)
def test_only_plain_sequences_are_folded(pair, is_folded):
    network = settled(PAIRS[pair]()).eval()
    fold_batch_norms(network)
    assert isinstance(network[1], nn.Identity) == is_folded


def test_a_norm_without_running_statistics_is_not_folded():
    network = PAIRS["no statistics"]().eval()
    fold_batch_norms(network)
    assert isinstance(network[1], nn.BatchNorm2d)


def test_a_convolution_shared_by_two_sequences_is_folded_for_each():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = nn.Conv2d(3, 4, 3)
            self.first = nn.Sequential(conv, nn.BatchNorm2d(4))
            self.second = nn.Sequential(conv, nn.BatchNorm2d(4))
            self.bare = conv

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.first(x), self.second(x), self.bare(x)], dim=1)

    torch.manual_seed(0)
    network = settled(Shared())
    x = image(2, 3, 8, 8)
    assert_same(teacher_of(network, None)(x), plain(network, x, [None]))


def test_a_tapped_convolution_in_front_of_a_batch_norm_gives_its_own_output():
    network = network_2d()
    x = image(2, 3, 16, 16)
    with torch.no_grad():
        expected = network.encoder[0][0](x)
    teacher = teacher_of(network, "encoder.0.0", None)
    for _ in range(2):
        outputs = teacher(x)
        assert_same(outputs, {"encoder.0.0": expected, None: plain(network, x, [None])[None]})


@pytest.mark.parametrize("layer", ("bottleneck.0", "bottleneck.1", "bottleneck.2", "bottleneck"))
def test_the_first_pass_gives_what_later_ones_give(layer):
    """Also where the next layer works in place: convolution, batch norm, ReLU(inplace) are in a row here."""
    x = image(2, 3, 16, 16)
    teacher = teacher_of(network_2d(), layer)
    first, second, third = (teacher(x)[layer].clone() for _ in range(3))
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(third, first, rtol=0, atol=0)


PARTS = ("encoder.0", "encoder.1", "bottleneck", "decoder", "head", "reconstruction_decoder")


@pytest.mark.parametrize(
    ("asked", "running"),
    [
        (["encoder.0"], {"encoder.0"}),
        (["encoder"], {"encoder.0", "encoder.1"}),
        (["encoder", "bottleneck"], {"encoder.0", "encoder.1", "bottleneck"}),
        (["bottleneck", "encoder.1"], {"encoder.0", "encoder.1", "bottleneck"}),
        (["decoder"], {"encoder.0", "encoder.1", "bottleneck"}),  # Its last block ends the pass inside of it.
        (["encoder", None], {"encoder.0", "encoder.1", "bottleneck", "decoder", "head"}),
        ([None], {"encoder.0", "encoder.1", "bottleneck", "decoder", "head"}),
    ],
)
def test_nothing_behind_the_last_tap_runs(asked, running):
    network = network_2d()
    finished: list[str] = []
    for part in PARTS:
        network.get_submodule(part).register_forward_hook(lambda *_, part=part: finished.append(part))
    head_input: list[int] = []
    network.head.register_forward_pre_hook(lambda *_: head_input.append(1))
    teacher = teacher_of(network, *asked)
    x = image(2, 3, 16, 16)
    teacher(x)  # The first pass finds out which call of a tap is the last one.
    finished.clear()
    head_input.clear()
    for _ in range(2):
        assert set(teacher(x)) == set(asked)
        assert set(finished) == running
        finished.clear()
    assert bool(head_input) == (None in asked)


class CalledTwice(nn.Module):
    """One layer that a pass calls twice, with others between and behind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.behind = nn.Conv2d(3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.layer(torch.tanh(self.layer(x))))


def test_a_tap_called_twice_gives_its_last_output_at_every_pass():
    torch.manual_seed(0)
    network = CalledTwice()
    calls: list[str] = []
    network.layer.register_forward_pre_hook(lambda *_: calls.append("layer"))
    network.behind.register_forward_pre_hook(lambda *_: calls.append("behind"))
    teacher = teacher_of(network, "layer")
    for number in range(3):
        x = image(number + 1, 3, 8, 8)
        with torch.no_grad():
            expected = network.layer(torch.tanh(network.layer(x)))
        calls.clear()
        assert_same(teacher(x), {"layer": expected})
        assert calls == ["layer", "layer"] + ["behind"] * (number == 0)


def test_two_names_of_one_place():
    network = network_2d()
    x = image(2, 3, 16, 16)
    teacher = teacher_of(network, "encoder", "pools.1")
    for _ in range(2):
        assert_same(teacher(x), plain(network, x, ["encoder", "pools.1"]))


def test_the_network_stays_as_it_is():
    network = network_2d().train()
    network.encoder[0].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    kinds = [(name, type(module), module.training) for name, module in network.named_modules()]
    teacher = teacher_of(network, "encoder", None)
    teacher(image(2, 3, 16, 16))
    teacher(image(2, 3, 16, 16))
    assert [(name, type(module), module.training) for name, module in network.named_modules()] == kinds
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_more_may_be_asked_later():
    network = network_2d()
    x = image(2, 3, 16, 16)
    teacher = teacher_of(network)
    asked: list[str | None] = []
    for tap in ("encoder", "decoder", None, "bottleneck"):
        teacher.ask(tap)
        asked.append(tap)
        for _ in range(2):
            assert_same(teacher(x), plain(network, x, asked))


def test_asking_twice_is_asking_once():
    network = network_2d()
    x = image(2, 3, 16, 16)
    teacher = teacher_of(network, "encoder", "encoder")
    for _ in range(2):
        assert_same(teacher(x), plain(network, x, ["encoder"]))


def test_an_unknown_tap_is_told_when_it_is_asked_for():
    with pytest.raises(UserError, match="has no tap 'neck'"):
        FrozenTeacher(UNet(channels=(4, 6)), CPU).ask("neck")


def test_the_inferer_calls_the_network():
    network = network_2d()
    x = image(2, 3, 16, 16)
    teacher = FrozenTeacher(network, CPU, AutocastInferer())
    teacher.ask(None)
    teacher.ask("bottleneck")
    outputs = teacher(x)
    assert outputs[None].dtype == outputs["bottleneck"].dtype == torch.bfloat16
    torch.testing.assert_close(outputs[None].float(), plain(network, x, [None])[None], rtol=0.05, atol=0.05)
    windows = FrozenTeacher(network, CPU, SlidingWindowInferer((16, 16), overlap=0))
    windows.ask(None)
    wide = windows(torch.cat([x, x.flip(0)], dim=3))[None]
    expected = torch.cat([plain(network, part, [None])[None] for part in (x, x.flip(0))], dim=3)
    assert_same({None: wide}, {None: expected})
