"""One TorchScript file, for torch and for MONAI."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import load_net_with_metadata

from medkd.engines import load_model
from medkd.export import export_model


@pytest.mark.parametrize(("name", "arguments"), [("unet_s1", {}), ("multitask_unet", {"channels": (4, 6, 8, 10, 12)})])
def test_any_batch_and_image_size(name, arguments, make_run, tmp_path):
    run = make_run(name, **arguments)
    export_model(run, "torchscript", tmp_path / "model.ts")
    network = torch.jit.load(tmp_path / "model.ts")
    for shape in (1, 3, 32, 32), (3, 3, 64, 32), (2, 3, 50, 37):
        slices = torch.rand(*shape)
        with torch.no_grad():
            torch.testing.assert_close(network(slices), load_model(run)(slices))


def test_the_file_says_what_it_is(run, tmp_path):
    export_model(run, "torchscript", tmp_path / "model.ts")
    _, meta, _ = load_net_with_metadata(str(tmp_path / "model.ts"))
    content = json.loads((run / "model.json").read_text())
    assert {key: meta[key] for key in content} == content
    assert meta["name"] == "unet_s1" and meta["spatial_shape"] is None


def test_a_network_that_cannot_be_scripted_is_traced(run, tmp_path, monkeypatch):
    def refuse(network):
        raise RuntimeError("not understood")

    monkeypatch.setattr(torch.jit, "script", refuse)
    agreement = export_model(run, "torchscript", tmp_path / "model.ts")
    network, meta, _ = load_net_with_metadata(str(tmp_path / "model.ts"))
    assert agreement.lowest_dice == 1.0 and meta["spatial_shape"] == [32, 32]
    slices = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(slices), load_model(run)(slices))
