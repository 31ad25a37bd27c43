"""The network in ONNX Runtime, on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medkd.errors import UserError
from medkd.onnx_runtime import import_onnxruntime

# Slices that stay in the cache of the processor: faster than more, in less memory.
AT_A_TIME = 2


class OnnxBackend:
    """Runs an ONNX file that :func:`medkd.export.onnx.write_onnx` wrote.

    Args:
        file: the model.
        threads: of the processor; all by default.

    Raises:
        UserError: ONNX Runtime is not installed, or cannot read the file.
    """

    name = "onnx"

    def __init__(self, file: Path, threads: int | None = None) -> None:
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        # What goes wrong is raised; it need not be printed too.
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                file.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # It has no common class for its errors.
            raise UserError(f"{file} cannot be run by ONNX Runtime: remove it, so that it is made anew.") from error

    def __call__(self, slices: np.ndarray) -> np.ndarray:
        """See :class:`~medkd.inference.backends.Backend`."""
        parts = (slices[start : start + AT_A_TIME] for start in range(0, len(slices), AT_A_TIME))
        return np.concatenate([self._session.run(["pred"], {"image": part})[0] for part in parts])
