"""Trained models, made without training, and a cache of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medkd.data import Preprocessing
from medkd.engines import SavedModel
from medkd.networks import create_network, network_definition

MakeRun = Callable[..., Path]


def make_model(
    folder: Path,
    name: str = "unet_s1",
    classes: int = 1,
    channels: str = "neighbours",
    seed: int = 0,
    arguments: dict[str, Any] | None = None,
) -> Path:
    """Writes a model of any network; batch norm has seen images, so that it says neither nothing nor everything."""
    torch.manual_seed(seed)
    preprocessing = Preprocessing(32, (-100.0, 200.0), channels)
    arguments = arguments or ({"channels": (4, 8)} if name == "unet_s1" else {})
    network = create_network(name, in_channels=preprocessing.in_channels, out_channels=classes, **arguments)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.rand(8, preprocessing.in_channels, 32, 32))
    labels = {value: f"label {value}" for value in range(max(2, classes))}
    SavedModel(network_definition(network), preprocessing, labels).save(folder, network.state_dict())
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a model to the folder of that name."""
    return lambda folder="run", **arguments: make_model(tmp_path / folder, **arguments)


@pytest.fixture(scope="module")
def make_shared_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """The same for all tests of a file."""
    return lambda **arguments: make_model(tmp_path_factory.mktemp("run"), **arguments)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is remembered from other tests."""
    monkeypatch.setenv("MEDKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
