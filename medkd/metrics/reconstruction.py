"""How close a reconstruction comes to its image."""

from __future__ import annotations

import math

import torch


def psnr(reconstruction: torch.Tensor, image: torch.Tensor, maximum: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(maximum^2 / MSE)``; infinite where the two are equal.

    Args:
        reconstruction: any shape.
        image: the same shape.
        maximum: largest value an image can have.
    """
    error = float(torch.mean((reconstruction.double() - image.double()) ** 2))
    return math.inf if error == 0 else 10 * math.log10(maximum**2 / error)
