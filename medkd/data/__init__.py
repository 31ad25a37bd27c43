"""Task folders, volumes, slices and their one pre-processing."""

from __future__ import annotations

import lazy_loader

# torch and MONAI take seconds and hundreds of MB to import: only what needs them pays. The names are in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
