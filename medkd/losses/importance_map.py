"""Importance map distillation (IMD, RMD): where in the image the features are strong, whatever they say there."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medkd.errors import UserError
from medkd.losses.maps import at_least_float32, check_pair, full_precision, resize_to_grid

NORMS = ("l1", "mse")

# How many numbers to raise to a power at a time.
_CACHED = 2**17

# Features below this everywhere are a map of zeros, and the gradient of their direction would explode.
_SMALLEST = 1e-6


class ImportanceMapLoss(nn.Module):
    """Difference of the importance that student and teacher give to every position.

    The importance of a position is ``M = sum_c |e_c|^exponent``; the map of one sample, as a vector of positions, is
    divided by its Euclidean length, so neither the scale nor the number of channels matters. The student's map is
    brought to the teacher's grid before.

    - ``l1``: the sum over positions of ``|Ms - Mt|``, as in the papers. It grows with the square root of the number of
      positions.
    - ``mse``: the sum over positions of ``(Ms - Mt)^2``, at most 2.

    Both are averaged over the batch. The public code of EMKD differs from its paper: it has the fourth power and the
    squared difference, ``exponent=4, norm="mse"``.

    Args:
        exponent: at least 1; the higher, the more the strongest positions count.
        norm: ``l1`` or ``mse``.

    Raises:
        UserError: an argument has no meaning.

    Reference:
        Qin et al. 2021, IEEE TMI 40(12), Eq. 2-5 (IMD); Ma et al. 2024, Journal of Computers 35(3), Eq. 1-4 (RMD).
    """

    def __init__(self, exponent: int = 2, norm: str = "l1") -> None:
        super().__init__()
        if not exponent >= 1:
            raise UserError(f"exponent is {exponent}: give at least 1, the papers use 2 and the code of EMKD 4.")
        if norm not in NORMS:
            raise UserError(f"norm is {norm!r}: choose one of {', '.join(NORMS)}.")
        self.exponent = exponent
        self.norm = norm

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Compare two feature maps.

        Args:
            student_map: ``(B, Cs, *spatial)``.
            teacher_map: ``(B, Ct, *spatial)`` of any size; no gradient flows into it.

        Returns:
            the loss, a scalar in float32 or wider.

        Raises:
            UserError: the maps are of different batches or numbers of spatial axes.
        """
        check_pair(student_map, teacher_map)
        with full_precision(student_map.device):
            student = importance_map(resize_to_grid(student_map, teacher_map.shape[2:]), self.exponent)
            difference = student - importance_map(teacher_map.detach(), self.exponent)
            distance = difference.abs() if self.norm == "l1" else difference.square()
            return distance.sum(dim=1).mean()


def importance_map(feature_map: Tensor, exponent: int) -> Tensor:
    """The importance of every position of a map, of length 1 in every sample; zeros where the map is zero.

    Args:
        feature_map: ``(B, C, *spatial)`` with N positions.
        exponent: the power of the features that is summed over the channels, at least 1.

    Returns:
        ``(B, N)``, in float32 or wider.
    """
    importance = _power_sums(at_least_float32(feature_map), exponent)
    importance = importance.flatten(1)
    peak = importance.detach().amax(dim=1, keepdim=True)
    # Relative to its peak no importance is too large or too small to be squared. A map of zeros stays one, without
    # gradient.
    return F.normalize(importance / peak.masked_fill(peak <= _SMALLEST**exponent, torch.inf), dim=1)


def _power_sums(features: Tensor, exponent: int) -> Tensor:
    """``sum_c |x_c|^exponent``, ``(B, *spatial)``."""
    rows = features.movedim(1, -1)
    if exponent == 2 or not rows.is_contiguous() or features.device.type != "cpu":
        return _sums(rows, exponent)
    sums: Tensor = _PiecewiseSums.apply(rows.flatten(0, -2), exponent)
    return sums.reshape(rows.shape[:-1])


def _sums(rows: Tensor, exponent: int) -> Tensor:
    if exponent % 2:
        return rows.abs().pow(exponent).sum(dim=-1)
    # As a squared length: a sum of squares would write the squares to memory first.
    roots = rows if exponent == 2 else rows.pow(exponent // 2)
    return torch.linalg.vector_norm(roots, dim=-1).square()


class _PiecewiseSums(torch.autograd.Function):
    """The sums of rows ``(N, C)``, piece by piece, so that their powers never leave the processor's cache."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, exponent: int) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.exponent = exponent
        return torch.cat([_sums(piece, exponent) for piece in _pieces(rows)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        result = torch.empty_like(rows)
        gradients = (ctx.exponent * gradient[:, None]).split(len(_pieces(rows)[0]))
        for piece, factor, out in zip(_pieces(rows), gradients, _pieces(result), strict=True):
            powers = piece.pow(ctx.exponent - 1)
            torch.mul(powers if ctx.exponent % 2 == 0 else powers * piece.sign(), factor, out=out)
        return result, None


def _pieces(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(max(1, _CACHED // rows.shape[1]))
