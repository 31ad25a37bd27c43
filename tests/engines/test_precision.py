"""bfloat16 where it is asked for, and the advice whether to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medkd.engines import AutocastInferer, mixed_precision_pays, precision

CPU = torch.device("cpu")


class Scaled(nn.Module):
    """A network with arguments beside the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: torch.Tensor, factor: float = 1.0, shift: float = 0.0) -> torch.Tensor:
        return factor * self.conv(x) + shift


@pytest.mark.parametrize(("enabled", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_it_decides_the_precision_of_the_call_alone(enabled, dtype):
    network, x = Scaled(), torch.rand(1, 1, 5, 5)
    output = AutocastInferer(enabled)(x, network)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), network(x), rtol=0.02, atol=0.02)
    assert network(x).dtype == torch.float32, "nothing stays switched on"
    output.float().sum().backward()
    assert network.conv.weight.grad.dtype == torch.float32


def test_off_it_leaves_an_autocast_around_it_alone():
    network, x = Scaled(), torch.rand(1, 1, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert AutocastInferer(False)(x, network).dtype == torch.bfloat16


@pytest.mark.parametrize("enabled", (True, False))
def test_further_arguments_reach_the_network(enabled):
    network, x = Scaled(), torch.rand(1, 1, 5, 5)
    found = AutocastInferer(enabled)(x, network, 2.0, shift=3.0)
    torch.testing.assert_close(found.float(), network(x, 2.0, 3.0), rtol=0.02, atol=0.02)


def test_autocast_ends_when_the_network_fails():
    def failing(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        AutocastInferer()(torch.rand(1, 1, 5, 5), failing)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("facts", "pays"),
    [
        ("model name\t: X\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile amx_int8\nbugs\t\t:\n", True),
        ("flags\t\t: fpu amx_tile amx_bf16\nbugs\t\t: none\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile amx_int8\nbugs\t\t:\n", False),
        ("flags\t\t: fpu avx512f not_amx_bf16 amx_bf16_too\nbugs\t\t:\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_pays_by_its_matrix_units(tmp_path, monkeypatch, facts, pays):
    file = tmp_path / "cpuinfo"
    if facts is not None:
        file.write_text(facts)
    asked = []
    monkeypatch.setattr(precision, "Path", lambda path: asked.append(path) or file)
    assert mixed_precision_pays(CPU) is pays
    assert asked == ["/proc/cpuinfo"]


def test_this_processor():
    facts = Path("/proc/cpuinfo")
    flags = facts.read_text(errors="replace").split() if facts.is_file() else []
    assert mixed_precision_pays(CPU) is ("amx_bf16" in flags)


@pytest.mark.parametrize(("kind", "pays"), [("cuda", True), ("cuda:1", True), ("mps", False), ("meta", False)])
def test_other_devices(kind, pays):
    assert mixed_precision_pays(torch.device(kind)) is pays
