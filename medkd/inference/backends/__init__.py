"""What runs the network: torch, ONNX Runtime or OpenVINO."""

from __future__ import annotations

import lazy_loader

# Each is a large library: only the one that is used is imported. The names are in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
