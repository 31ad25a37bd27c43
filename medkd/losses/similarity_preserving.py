"""Similarity preserving distillation (SPKD): samples that are alike for the teacher are alike for the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medkd.losses.maps import SHORTEST, at_least_float32, check_pair, full_precision


class SimilarityPreservingLoss(nn.Module):
    """Difference of the similarities between the samples of a batch, as student and teacher see them.

    With every sample flattened to a row of ``F``, the similarities are ``G = F F^T`` with rows of length 1, and the
    loss is ``||Gt - Gs||_F^2 / B^2``. The maps keep their grids, because ``G`` is ``(B, B)`` for maps of any size.

    A batch of one costs 0 and teaches nothing. A sample of zeros is a row of zeros: it resembles nothing, itself
    included.

    Reference:
        Tung and Mori 2019, arXiv 1907.09682, "Similarity-preserving knowledge distillation".
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
            return F.mse_loss(_similarities(student_map), _similarities(teacher_map.detach()))


def _similarities(feature_map: Tensor) -> Tensor:
    """Inner products of the samples of a map ``(B, B)``, the rows of length 1."""
    features = at_least_float32(feature_map)
    # The order of the features within a sample does not matter: the stored one needs no copy.
    rows = (features if features.is_contiguous() else features.movedim(1, -1)).flatten(1)
    products = rows @ rows.T
    squared_lengths = products.detach().diagonal().unsqueeze(1)
    peak = products.detach().abs().amax(dim=1, keepdim=True)
    # Relative to its peak no product is too large or too small to be squared.
    return F.normalize(products / peak.masked_fill(squared_lengths <= SHORTEST**2, torch.inf), dim=1)
