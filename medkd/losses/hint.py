"""Hints (FitNets, MIMIC): mean squared error between projected student features and teacher features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from medkd.losses.maps import check_channels, check_pair, full_precision, positions, resize_to_grid, smaller_grid

# How many numbers of the projection to hold at a time.
_CACHED = 2**17


class HintLoss(nn.Module):
    """Mean squared error of the student's map, projected to the teacher's channels, from the teacher's map.

    The comparison is made on the smaller of the two grids, onto which the larger map is averaged. ``projector``, a 1x1
    convolution in any number of dimensions, is trained with the student, is part of the training state and is not part
    of the deployed student.

    Args:
        student_channels: channels of the student's map.
        teacher_channels: channels of the teacher's map.

    Reference:
        Romero et al. 2015, "FitNets"; Li et al. 2017, "Mimicking very efficient network for object detection" (MIMIC);
        Biswas 2024, arXiv 2406.03173, Table 4.10 (MSE in place of the contrastive loss).
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.projector = nn.Linear(student_channels, teacher_channels)

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Compare two feature maps.

        Args:
            student_map: ``(B, student_channels, *spatial)``.
            teacher_map: ``(B, teacher_channels, *spatial)`` of any size; no gradient flows into it.

        Returns:
            the loss, a scalar in the precision of the projector (float32).

        Raises:
            UserError: the maps do not fit the declared channels or each other.
        """
        check_pair(student_map, teacher_map)
        check_channels(student_map, teacher_map, self.student_channels, self.teacher_channels)
        weight, bias = self.projector.weight, self.projector.bias
        grid = smaller_grid(student_map, teacher_map)
        with full_precision(student_map.device):
            student, teacher = (
                positions(resize_to_grid(feature_map, grid).to(weight.dtype)).flatten(0, 1)
                for feature_map in (student_map, teacher_map.detach())
            )
            value: Tensor = _ProjectedError.apply(student, teacher, weight, bias)
            return value


class _ProjectedError(torch.autograd.Function):
    """Mean of ``(student W^T + b - teacher)^2`` and its gradients, piece by piece.

    The projection of a map of T1's decoder has 134 MB; autograd would write and read it five times, here it never
    leaves the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        total = student.new_zeros(())
        of_student, of_weight, of_bias = (torch.zeros_like(x) for x in (student, weight, bias))
        rows = max(1, _CACHED // weight.shape[0]) if student.device.type == "cpu" else len(student)
        pieces = zip(student.split(rows), teacher.split(rows), of_student.split(rows), strict=True)
        for piece, target, gradient in pieces:
            error = torch.addmm(bias, piece, weight.T).sub_(target)
            total += torch.dot(error.flatten(), error.flatten())
            torch.mm(error, weight, out=gradient)
            of_weight.addmm_(error.T, piece)
            of_bias += error.sum(dim=0)
        ctx.save_for_backward(of_student, of_weight, of_bias)
        ctx.factor = 2 / teacher.numel()
        return total / teacher.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        of_student, of_weight, of_bias = (ctx.factor * gradient * saved for saved in ctx.saved_tensors)
        return of_student, None, of_weight, of_bias
