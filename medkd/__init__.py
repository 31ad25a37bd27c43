"""medkd: turn a large segmentation teacher into a tiny student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medkd.inference import Segmenter

__version__ = "0.1.0"
__all__ = ["Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    # torch and MONAI take seconds to import: only what needs them pays.
    if name == "Segmenter":
        from medkd.inference import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
