"""ONNX Runtime, as every part of medkd that needs it imports it."""

from __future__ import annotations

import os
from typing import Any

from medkd.errors import UserError


def import_onnxruntime() -> Any:
    """ONNX Runtime, which else tells its makers of every model that it runs.

    Raises:
        UserError: it is not installed.
    """
    # It looks at this once, when it is loaded: then it keeps an identifier of the machine and what it will send.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX Runtime is not installed: pip install medkd[onnx].") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
