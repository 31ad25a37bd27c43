"""A network as one ONNX file."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medkd.data.transforms import Preprocessing
from medkd.engines.saved_model import SavedModel
from medkd.errors import UserError
from medkd.export.agreement import Predictor
from medkd.export.description import is_free_in_size, logits_of, other_sizes, random_slices
from medkd.onnx_runtime import import_onnxruntime

METADATA_KEY = "medkd"
OPSET = 17
# Of the largest logit; a network that was frozen to one size is off by far more, or fails.
TOLERANCE = 1e-2


def write_onnx(network: nn.Module, model: SavedModel, path: Path) -> None:
    """Write ``image`` ``(batch, channels, height, width)`` to ``pred`` ``(batch, classes, height, width)``, in float32.

    Height and width are free where the network is free in them and the file gives the same at other sizes; else they
    are fixed to the size of the pre-processing. The metadata property ``medkd`` holds the content of ``model.json``.

    Args:
        network: in evaluation mode, on the CPU.
        model: what it is.
        path: the file.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    onnx, _ = _packages()
    proto = onnx.load_from_string(_graph(network, model.preprocessing, path))
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(model.to_dict())})
    path.write_bytes(proto.SerializeToString())


def load_onnx(path: Path) -> Predictor:
    """The network of a file, run by ONNX Runtime on the CPU.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    return _session(str(path))


def _packages() -> tuple[Any, Any]:
    onnxruntime = import_onnxruntime()
    try:
        import onnx
    except ImportError as error:
        raise UserError("onnx is missing, ONNX files need it: pip install medkd[onnx].") from error
    return onnx, onnxruntime


def _session(source: str | bytes) -> Predictor:
    _, onnxruntime = _packages()
    options = onnxruntime.SessionOptions()
    # What goes wrong is raised; it need not be printed too.
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def predict(slices: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["pred"], {"image": slices.numpy()})[0])

    return predict


def _graph(network: nn.Module, preprocessing: Preprocessing, path: Path) -> bytes:
    size, channels = preprocessing.size, preprocessing.in_channels
    # Tracing keeps the steps that its example takes: one that cannot be halved makes the network pad and crop, by
    # amounts that are computed anew for each image. Networks that do not pad refuse such an example.
    examples = (other_sizes(size)[-1], (size, size)) if is_free_in_size(network, preprocessing) else ()
    for height, width in examples:
        sample = random_slices(channels, height, width, batch=2)
        if logits_of(network, sample) is not None:
            graph = _trace(network, sample, path, free=True)
            if _right_at_other_sizes(network, graph, preprocessing):
                return graph
    return _trace(network, random_slices(channels, size, size, batch=2), path, free=False)


def _trace(network: nn.Module, sample: torch.Tensor, path: Path, free: bool) -> bytes:
    axes = {0: "batch"} | ({2: "height", 3: "width"} if free else {})
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The tracer warns of every size that it may have fixed; that is checked.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network, (sample,), str(path), input_names=["image"], output_names=["pred"], opset_version=OPSET,
                dynamic_axes={"image": axes, "pred": axes}, dynamo=False,
            )  # fmt: skip
    finally:
        logging.disable(level)
    return path.read_bytes()


def _right_at_other_sizes(network: nn.Module, graph: bytes, preprocessing: Preprocessing) -> bool:
    predict = _session(graph)
    size = preprocessing.size
    for height, width in ((size, size), *other_sizes(size)):
        slices = random_slices(preprocessing.in_channels, height, width)
        expected = logits_of(network, slices)
        if expected is None:
            continue
        try:
            found = predict(slices)
        except Exception:  # of ONNX Runtime, which has no common class for them
            return False
        if found.shape != expected.shape or (found - expected).abs().max() > TOLERANCE * expected.abs().max():
            return False
    return True
