"""Attention transfer (AT): the student looks where the teacher looks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medkd.losses.importance_map import importance_map
from medkd.losses.maps import check_pair, full_precision, resize_to_grid


class AttentionTransferLoss(nn.Module):
    """Mean squared difference of the attention maps of student and teacher.

    The attention map is ``Q = mean_c F^2``, flattened over the positions and divided by its Euclidean length in every
    sample; the loss is the mean over batch and positions of ``(Qs - Qt)^2``. The student's map is brought to the
    teacher's grid before.

    The paper adds up the lengths of the differences; its public code, to which the published weight of 1000 belongs,
    takes the mean of the squares, as is done here. That mean is small, at most ``2 / N`` for N positions.

    Reference:
        Zagoruyko and Komodakis 2017, arXiv 1612.03928, "Paying more attention to attention", Eq. 2.
    """

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
            student = importance_map(resize_to_grid(student_map, teacher_map.shape[2:]), exponent=2)
            return F.mse_loss(student, importance_map(teacher_map.detach(), exponent=2))
