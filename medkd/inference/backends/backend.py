"""What the Segmenter asks of those who run the network."""

from __future__ import annotations

from typing import Protocol

import numpy as np

AUTO = "auto"
BACKENDS = ("openvino", "onnx", "torch")


class Backend(Protocol):
    """Runs a network; may be called by several threads.

    Attributes:
        name: one of :data:`BACKENDS`.
    """

    name: str

    def __call__(self, slices: np.ndarray) -> np.ndarray:
        """Logits ``(B, classes, size, size)`` float32 of slices ``(B, C, size, size)`` float32."""
