"""Trained networks as files that others run: ONNX, TorchScript, a MONAI bundle; each compared before it is kept."""

from __future__ import annotations

from medkd.export.agreement import Agreement, compare
from medkd.export.exporter import FORMATS, export_model, format_export

__all__ = ["FORMATS", "Agreement", "compare", "export_model", "format_export"]
