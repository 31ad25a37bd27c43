"""Local distillation (LOCAL): the class probabilities, and how much the logits change from pixel to pixel."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medkd.errors import UserError
from medkd.losses.maps import at_least_float32, check_pair, full_precision, resize_to_grid, same_classes


class LocalConsistencyLoss(nn.Module):
    """Squared distance of the class probabilities, and of the consistency maps of the logits.

    ``mean_p |softmax(s)_p - softmax(t)_p|^2 + consistency_weight * mean_p (c_s(p) - c_t(p))^2``, with the means over
    all pixels of the batch. The first part is the zero-order knowledge of the teacher. The second is the first-order
    one: ``c(p)`` is the sum, over the neighbours ``q`` of ``p``, of the Euclidean distance ``|z_p - z_q|`` of their
    logits. There are 8 neighbours in a plane and 26 in a volume; what lies outside the image does not count.

    A single logit ``z`` stands for the two classes ``[0, z]`` (background, foreground). Consistency maps compare
    logits, not probabilities: those of a one-logit and of a two-class network differ even where their probabilities
    agree. Where the sizes differ, the teacher's logits are resized to the student's grid: averaged where they shrink,
    interpolated linearly where they grow.

    The paper has no public code. This is its reading of the two terms with the squared distance of the probability
    vectors, and with the mean, not the sum, over the pixels for both.

    Args:
        consistency_weight: weight of the first-order part, at least 0.

    Raises:
        UserError: the weight is negative.

    Reference:
        Xie et al. 2018, "Improving fast segmentation with teacher-student learning", arXiv 1810.08476.
    """

    def __init__(self, consistency_weight: float = 1.0) -> None:
        super().__init__()
        if consistency_weight < 0:
            raise UserError(f"consistency_weight is {consistency_weight}: give 0 or a positive number.")
        self.consistency_weight = consistency_weight

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compare two prediction maps.

        Args:
            student_logits: ``(B, C, *spatial)``.
            teacher_logits: ``(B, C, *spatial)`` of any size; no gradient flows into it.

        Returns:
            the loss, a scalar in float32 or wider.

        Raises:
            UserError: the two networks predict different classes, or different batches.
        """
        check_pair(student_logits, teacher_logits)
        with full_precision(student_logits.device):
            student = _channels_first(student_logits)
            teacher = _channels_first(resize_to_grid(teacher_logits.detach(), student.shape[2:]))
            student_classes, teacher_classes = same_classes(student, teacher)
            pixels = student.numel() // student.shape[1]
            squares = F.mse_loss(F.softmax(student_classes, dim=1), F.softmax(teacher_classes, dim=1), reduction="sum")
            # The constant logit of the background parts no two pixels, so z has the consistency map of [0, z].
            student_consistency: Tensor = _Consistency.apply(student)
            teacher_consistency: Tensor = _Consistency.apply(teacher)
            consistency_part = (student_consistency - teacher_consistency).square().mean()
            return squares / pixels + self.consistency_weight * consistency_part


def _channels_first(logits: Tensor) -> Tensor:
    """Logits in float32 or wider, channels first in memory, where sums over them are several times faster."""
    return at_least_float32(logits).as_subclass(Tensor).contiguous()


def _neighbours(spatial: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """For half of the directions, the other half being their opposites: where a pixel is, and where its neighbour."""
    pairs = []
    for direction in product((-1, 0, 1), repeat=len(spatial)):
        if direction > (0,) * len(spatial):
            steps = list(zip(direction, spatial, strict=True))
            pixel = tuple(slice(max(-step, 0), length - max(step, 0)) for step, length in steps)
            neighbour = tuple(slice(max(step, 0), length - max(-step, 0)) for step, length in steps)
            pairs.append(((..., *pixel), (..., *neighbour)))
    return pairs


class _Consistency(torch.autograd.Function):
    """The consistency map ``(B, *spatial)`` of logits ``(B, C, *spatial)``.

    Its backward pass adds up the gradient in place: autograd's own would fill a map with zeros for every slice. Sample
    by sample, what one step leaves is still in the cache at the next.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        consistency = logits.new_zeros(logits.shape[0], *logits.shape[2:])
        distances = []
        for sample, result in zip(logits, consistency, strict=True):
            for pixel, neighbour in _neighbours(result.shape):
                # Not vector_norm, which is several times slower across channels that lie apart in memory.
                distance = (sample[pixel] - sample[neighbour]).square_().sum(dim=0).sqrt_()
                result[pixel] += distance
                result[neighbour] += distance
                distances.append(distance)
        ctx.save_for_backward(logits, *distances)
        return consistency

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        logits, *distances = ctx.saved_tensors
        result = torch.zeros_like(logits)
        remaining = iter(distances)
        for sample, incoming, outgoing in zip(logits, gradient, result, strict=True):
            for pixel, neighbour in _neighbours(incoming.shape):
                distance = next(remaining)
                # Equal logits have no direction in which to part: no gradient.
                weight = (incoming[pixel] + incoming[neighbour]) / distance.masked_fill(distance == 0, torch.inf)
                pull = (sample[pixel] - sample[neighbour]).mul_(weight)
                outgoing[pixel] += pull
                outgoing[neighbour] -= pull
        return result
