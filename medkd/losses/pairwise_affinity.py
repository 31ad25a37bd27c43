"""Pair-wise affinity (PA): how alike the parts of an image are, as student and teacher see them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import check_pair, full_precision, resize_to_grid, unit_vectors

_MAX_POOL: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class PairwiseAffinityLoss(nn.Module):
    """Mean squared difference of the affinities between all pairs of nodes of a coarse grid.

    A node is the maximum, channel by channel, over a window of the map; the windows do not overlap, and the last one on
    an axis may be smaller. With the nodes of a sample as unit vectors in the columns of ``f``, the affinities are
    ``A = f^T f`` and the loss is ``sum (At - As)^2 / nodes^2 / B``. A node of zeros is alike to none, not even to
    itself. The windows are measured on the teacher's grid, to which a student's map of another size is brought before.

    The public code detaches the length by which it divides a node, so its gradient also pulls along the node, where the
    affinity does not change. Here the gradient is that of the formula.

    Args:
        pool_scale: length of a window relative to the map, above 0 and at most 1. The published 0.5 makes 2 nodes per
            axis of even length; 1 makes a single node, which has nothing to be compared with. The affinities of a fine
            grid are many: their number grows with the square of that of the nodes.

    Raises:
        UserError: ``pool_scale`` is out of its range.

    Reference:
        Liu et al. 2019, arXiv 1903.04197, "Structured knowledge distillation for semantic segmentation" (SKD), the
        pair-wise term.
    """

    def __init__(self, pool_scale: float = 0.5) -> None:
        super().__init__()
        if not 0 < pool_scale <= 1:
            raise UserError(f"pool_scale is {pool_scale}: give a number above 0 and at most 1, SKD uses 0.5.")
        self.pool_scale = pool_scale

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
        grid = teacher_map.shape[2:]
        window = tuple(max(1, int(length * self.pool_scale)) for length in grid)
        with full_precision(student_map.device):
            student = _affinities(resize_to_grid(student_map, grid), window)
            return F.mse_loss(student, _affinities(teacher_map.detach(), window))


def _affinities(feature_map: Tensor, window: tuple[int, ...]) -> Tensor:
    """Cosines of all pairs of nodes of a map, ``(B, nodes, nodes)``."""
    pooled = _MAX_POOL[len(window)](feature_map, window, ceil_mode=True)
    nodes = unit_vectors(pooled.flatten(2), 1)
    return nodes.transpose(1, 2) @ nodes
