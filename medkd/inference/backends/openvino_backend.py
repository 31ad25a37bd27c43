"""The network in OpenVINO, on the processor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from medkd.errors import UserError


class OpenVinoBackend:
    """Runs an ONNX file that :func:`medkd.export.onnx.write_onnx` wrote; sends nothing to OpenVINO's makers.

    Args:
        file: the model.
        size: side of its slices.
        threads: of the processor; all by default.

    Raises:
        UserError: OpenVINO is not installed, or cannot read the file.
    """

    name = "openvino"

    def __init__(self, file: Path, size: int, threads: int | None = None) -> None:
        openvino = _openvino()
        # Half precision, which it takes by itself where the processor has it, would give other masks.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = openvino.Core().read_model(file.read_bytes(), b"")
            # One slice at a time stays in the cache of the processor: faster than several, in half of the memory.
            model.reshape([1, model.input().partial_shape[1], size, size])
            self._model: Any = openvino.compile_model(model, "CPU", settings)
        except Exception as error:  # It has no common class for its errors.
            raise UserError(f"{file} cannot be run by OpenVINO: remove it, so that it is made anew.") from error

    def __call__(self, slices: np.ndarray) -> np.ndarray:
        """See :class:`~medkd.inference.backends.Backend`."""
        # A request belongs to one thread; making one takes microseconds.
        request = self._model.create_infer_request()
        return np.concatenate([request.infer([one[None]])[0] for one in slices])


def _openvino() -> Any:
    try:
        # Its tools count their users where this package is found; running a network never needs it.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino
    except ImportError as error:
        raise UserError("OpenVINO is not installed: pip install medkd[openvino], or --backend torch.") from error
    return openvino
