"""Any input size: pad to what a network can halve, crop its logits back."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zero-pad the far end of every spatial axis of ``(B, C, *spatial)`` to a multiple of ``multiple``."""
    missing = [-size % multiple for size in x.shape[2:]]
    if not any(missing):
        return x
    pads: list[int] = []
    for amount in missing[::-1]:
        pads += [0, amount]
    return F.pad(x, pads)


def crop_like(x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Crop the spatial axes of ``x`` to those of ``reference``, from the near end."""
    if x.shape[2:] == reference.shape[2:]:
        return x
    for axis in range(2, x.ndim):
        x = x.narrow(axis, 0, reference.shape[axis])
    return x
