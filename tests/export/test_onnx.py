"""One ONNX file: what it takes, what it says of itself, what it gives."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from medkd.data import Preprocessing
from medkd.engines import SavedModel, load_model
from medkd.errors import UserError
from medkd.export import export_model
from medkd.export.onnx import load_onnx, write_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FIXED_TRANSFORMER = {"width": 16, "tokens": "published", "image_size": 32}
STOCK = {"spatial_dims": 2, "channels": (4, 8, 16), "strides": (2, 2), "norm": "batch"}


@pytest.mark.parametrize(
    ("name", "arguments"), [("unet_s1", {}), ("multitask_unet", {"channels": (4, 6, 8, 10, 12)}), ("espnet", {})]
)
def test_any_batch_and_image_size(name, arguments, make_run, tmp_path):
    run = make_run(name, **arguments)
    export_model(run, "onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in (1, 3, 32, 32), (3, 3, 64, 32), (2, 3, 50, 37):
        slices = torch.rand(*shape)
        (found,) = session.run(["pred"], {"image": slices.numpy()})
        with torch.no_grad():
            expected = load_model(run)(slices).numpy()
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def shapes(file) -> tuple[list, list]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,), (pred,) = session.get_inputs(), session.get_outputs()
    assert (image.name, pred.name) == ("image", "pred")
    return image.shape, pred.shape


@pytest.mark.parametrize(
    ("name", "arguments", "sides"),
    [
        ("unet_s1", {}, ["height", "width"]),
        # Of one image size.
        ("multitask_transunet", FIXED_TRANSFORMER, [32, 32]),
        # Takes sizes that can be halved twice, and does not pad others.
        ("monai.networks.nets.UNet", STOCK, ["height", "width"]),
    ],
)
def test_the_axes_that_are_free(name, arguments, sides, make_run, tmp_path):
    export_model(make_run(name, **arguments), "onnx", tmp_path / "model.onnx")
    image, pred = shapes(tmp_path / "model.onnx")
    assert image == ["batch", 3, *sides] and pred == ["batch", 1, *sides]


class CountsItsRows(nn.Module):
    """Takes any size, but tracing makes the number of rows a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] * float(int(x.shape[2]))


def test_axes_are_fixed_where_the_file_would_be_wrong_at_other_sizes(tmp_path):
    model = SavedModel({"name": "counts_its_rows"}, Preprocessing(size=32), {0: "background", 1: "block"})
    write_onnx(CountsItsRows(), model, tmp_path / "model.onnx")
    assert shapes(tmp_path / "model.onnx")[0] == ["batch", 3, 32, 32]
    slices = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_onnx(tmp_path / "model.onnx")(slices), 32 * slices[:, :1])


def test_the_file_says_what_it_is(make_run, tmp_path):
    run = make_run(labels={0: "background", 1: "block", 2: "rest"}, preprocessing=Preprocessing(32, None, "replicated"))
    export_model(run, "onnx", tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (entry,) = model.metadata_props
    assert entry.key == "medkd"
    assert json.loads(entry.value) == json.loads((run / "model.json").read_text())
    assert [opset.version for opset in model.opset_import] == [17]


def test_a_missing_package_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"ONNX Runtime is not installed.*pip install medkd\[onnx\]"):
        export_model(run, "onnx", tmp_path / "model.onnx")
