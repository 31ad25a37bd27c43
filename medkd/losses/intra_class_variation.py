"""Intra-class feature variation distillation (IFVD): how far every position lies from the mean of its class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medkd.losses.maps import SHORTEST, at_least_float32, check_pair, full_precision, positions, resize_to_grid
from medkd.losses.regions import check_label, class_means, nearest_label, present_classes


class IntraClassVariationLoss(nn.Module):
    """Mean squared error between the variation maps of student and teacher.

    The variation map holds, at every position ``p``, the cosine between the feature vector there and the mean vector of
    its class in the same sample: ``M(p) = cos(f_p, mean_{y_p})``. The loss is the mean of ``(Ms - Mt)^2`` over all
    samples and positions. The student's map is brought to the teacher's grid, and the label to it by the nearest voxel.
    Cosines are compared, so the channels of the two maps need not be as many, and the scale of neither map counts.

    A zero vector has no direction: its cosine is 0, and it is pulled only as a part of the mean of its class.

    Reference:
        Wang et al. 2020, "Intra-class feature variation distillation for semantic segmentation", ECCV. The published
        code adds 1e-6 to the size of a class before it divides; here the mean is exact.
    """

    def forward(self, student_map: Tensor, teacher_map: Tensor, label: Tensor) -> Tensor:
        """Compare the variation inside the classes of two feature maps.

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
            teacher, student = (
                positions(at_least_float32(feature_map)).transpose(1, 2)
                for feature_map in (teacher_map.detach(), resize_to_grid(student_map, teacher_map.shape[2:]))
            )
            labels = nearest_label(label, teacher_map.shape[2:]).flatten(1)[:, None]
            members = (labels == present_classes(labels)[:, None]).to(student.dtype)
            student_variation: Tensor = _Variation.apply(student, members)
            teacher_variation = _variation(teacher, members.to(teacher.dtype))[0]
            return (student_variation - teacher_variation).square().mean()


def _lengths(vectors: Tensor) -> Tensor:
    """Euclidean length of the vectors ``(B, C, N)`` at the N positions."""
    if vectors.stride(1) == 1:
        return torch.linalg.vector_norm(vectors, dim=1)
    # Across channels that lie apart in memory vector_norm is several times slower.
    squares = torch.zeros_like(vectors[:, 0])
    for channel in vectors.unbind(1):
        squares.addcmul_(channel, channel)
    return squares.sqrt_()


def _invert_(lengths: Tensor) -> Tensor:
    return lengths.masked_fill_(lengths < SHORTEST, torch.inf).reciprocal_()


def _variation(vectors: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Variation map of vectors ``(B, C, N)`` with the classes ``members`` ``(B, K, N)``.

    Returns:
        the map ``(B, N)``, the inverse lengths of the vectors ``(B, N)``, the directions of the class means
        ``(B, K, C)`` and the inverse lengths of these means ``(B, K, 1)``.
    """
    means = class_means(vectors, members)
    inverse_means = _invert_(torch.linalg.vector_norm(means, dim=2, keepdim=True))
    directions = means * inverse_means
    inverse = _invert_(_lengths(vectors))
    variation = (directions @ vectors).mul_(members).sum(dim=1).mul_(inverse)
    return variation, inverse, directions, inverse_means


class _Variation(torch.autograd.Function):
    """The variation map with a backward pass that writes the gradient of a large map once, not five times."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, members: Tensor) -> Tensor:
        variation, inverse, directions, inverse_means = _variation(vectors, members)
        ctx.save_for_backward(vectors, members, variation, inverse, directions, inverse_means)
        return variation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        vectors, members, variation, inverse, directions, inverse_means = ctx.saved_tensors
        with full_precision(gradient.device):
            gradient = gradient * inverse
            weights = members * gradient[:, None]
            # What the direction of a mean receives from the members of its class; only what is across it turns it.
            pull = weights @ vectors.transpose(1, 2)
            across = pull - (pull * directions).sum(dim=2, keepdim=True) * directions
            to_members = across * inverse_means / members.sum(dim=2, keepdim=True).clamp(min=1)
            # Written as the vectors lie in memory.
            if vectors.stride(1) == 1:
                rows = (weights.transpose(1, 2) @ directions).baddbmm_(members.transpose(1, 2), to_members)
                result = rows.transpose(1, 2)
            else:
                result = (directions.transpose(1, 2) @ weights).baddbmm_(to_members.transpose(1, 2), members)
            return result.addcmul_(vectors, (gradient * variation * inverse)[:, None], value=-1), None
