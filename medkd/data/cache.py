"""Where medkd keeps what it has made and can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``MEDKD_CACHE``, else ``medkd`` in the user's cache folder."""
    if "MEDKD_CACHE" in os.environ:
        return Path(os.environ["MEDKD_CACHE"])
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "medkd"
    return Path.home() / ".cache" / "medkd"
