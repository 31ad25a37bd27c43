"""Region affinity distillation (RAD): how alike the regions of two classes are, as student and teacher see them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import at_least_float32, check_pair, full_precision, positions, unit_vectors
from medkd.losses.regions import check_label, class_means, nearest_label, present_classes

NORMS = ("l1", "mse")
REDUCTIONS = ("mean", "vector")


class RegionAffinityLoss(nn.Module):
    """Distance between the region affinities of student and teacher.

    The region of a class in a sample is described by ``R_i``, the mean feature vector of its positions. The affinity
    ``V`` of a sample is the cosine of ``R_i`` and ``R_j`` for every pair of classes ``i < j``: their mean or, with
    ``reduction="vector"``, all of them. The loss is the mean over the samples of ``|Vs - Vt|`` (``norm="l1"``) or
    ``(Vs - Vt)^2`` (``norm="mse"``), summed over the pairs of a vector.

    Each map keeps its own grid, to which the label is brought by the nearest voxel. Cosines are compared, so neither
    the channels nor the sizes of the two maps need to be the same. A class that either grid lacks contributes nothing,
    a sample with fewer than two classes does not count, and a batch without any pair of classes costs 0. The cosine
    with a zero vector is 0.

    The published code of EMKD divides by the number of background voxels and gives NaN where there are none.

    Args:
        norm: ``l1`` or ``mse``.
        reduction: ``mean`` or ``vector``.

    Raises:
        UserError: an argument has no meaning.

    Reference:
        Qin et al. 2021, IEEE TMI 40(12), Eq. 6-8 (RAD); Ma et al. 2024, Journal of Computers 35(3), Eq. 5-7 (RD).
    """

    def __init__(self, norm: str = "l1", reduction: str = "mean") -> None:
        super().__init__()
        if norm not in NORMS:
            raise UserError(f"norm is {norm!r}: choose one of {', '.join(NORMS)}.")
        if reduction not in REDUCTIONS:
            raise UserError(f"reduction is {reduction!r}: choose one of {', '.join(REDUCTIONS)}.")
        self.norm = norm
        self.reduction = reduction

    def forward(self, student_map: Tensor, teacher_map: Tensor, label: Tensor) -> Tensor:
        """Compare the region affinities of two feature maps.

        Args:
            student_map: ``(B, Cs, *spatial)``.
            teacher_map: ``(B, Ct, *spatial)`` of any size; no gradient flows into it.
            label: class indices ``(B, 1, *spatial)``, of any resolution.

        Returns:
            the loss, a scalar in float32 or wider.

        Raises:
            UserError: the maps do not fit each other, or the label does not fit the maps.
        """
        check_pair(student_map, teacher_map)
        check_label(label, student_map)
        with full_precision(student_map.device):
            student_label = nearest_label(label, student_map.shape[2:])
            teacher_label = nearest_label(label, teacher_map.shape[2:])
            classes = present_classes(student_label)
            student, in_student = _cosines(student_map, student_label, classes)
            teacher, in_teacher = _cosines(teacher_map.detach(), teacher_label, classes)
            present = in_student & in_teacher
            first, second = torch.triu_indices(len(classes), len(classes), offset=1, device=classes.device)
            pairs = present[:, first] & present[:, second]
            difference = (student[:, first, second] - teacher[:, first, second]) * pairs
            if self.reduction == "mean":
                difference = difference.sum(dim=1, keepdim=True) / pairs.sum(dim=1, keepdim=True).clamp(min=1)
            distance = difference.abs() if self.norm == "l1" else difference.square()
            return distance.sum() / pairs.any(dim=1).sum().clamp(min=1)


def _cosines(feature_map: Tensor, label: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines ``(B, K, K)`` between the class means of every sample, and which classes it has ``(B, K)``."""
    vectors = positions(at_least_float32(feature_map)).transpose(1, 2)
    members = label.flatten(1)[:, None] == classes[:, None]
    means = class_means(vectors, members.to(vectors.dtype))
    directions = unit_vectors(means, 2)
    return directions @ directions.transpose(1, 2), members.any(dim=2)
