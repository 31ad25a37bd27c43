"""A run folder as training leaves it, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medkd.data import Preprocessing, Split
from medkd.engines import SavedModel
from medkd.engines.saved_model import save_tensors
from medkd.networks import create_network, network_definition
from medkd.run_folder import CHECKPOINT_FILE, RECIPE_FILE, SPLIT_FILE

LABELS = {0: "background", 1: "block"}


@pytest.fixture
def make_run(tiny_task, tmp_path) -> Callable[..., Path]:
    """Writes a run of any network on the tiny task; batch norm has seen images, so that the masks are not empty."""

    def make(
        name: str = "unet_s1", labels: dict[int, str] = LABELS, preprocessing: Preprocessing | None = None, **more: Any
    ) -> Path:
        torch.manual_seed(0)
        arguments: dict[str, Any] = {"channels": (4, 8)} if name == "unet_s1" else {}
        classes = 1 if len(labels) == 2 else len(labels)
        preprocessing = preprocessing or Preprocessing(size=32)
        channels = preprocessing.in_channels
        network = create_network(name, **{"in_channels": channels, "out_channels": classes, **arguments, **more})
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network.train()
        with torch.no_grad():
            network(torch.rand(8, channels, 32, 32))
        model = SavedModel(network_definition(network), preprocessing, labels)
        run = tmp_path / "run"
        model.save(run, network.state_dict())
        Split(["tiny_0", "tiny_1"], ["tiny_0"], ["tiny_2"], ["tiny_3", "tiny_4"]).write(run / SPLIT_FILE)
        overrides = {
            "dataset_dir": str(tiny_task), "teacher_run": "/home/somebody/teacher", "epochs": 3,
            "weights::pmd": 0.3, "network_def::channels": [4, 8], "train::volumes::cache": "/home/somebody/cache",
        }  # fmt: skip
        recipe = {"bundle": "spleen_ct_student", "config": "distill", "overrides": overrides, "method": "emkd"}
        (run / RECIPE_FILE).write_text(json.dumps(recipe))
        save_tensors(run / CHECKPOINT_FILE, {"projectors": {"pmd.weight": torch.zeros(2)}})
        return run

    return make


@pytest.fixture
def run(make_run) -> Path:
    """A run of a tiny student."""
    return make_run()
