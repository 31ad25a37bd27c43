"""Hints (FitNets, MIMIC): mean squared error between projected student features and teacher features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medkd.losses.maps import check_channels, check_pair, full_precision, resize_to_grid


class HintLoss(nn.Module):
    """Mean squared error of the student's map, projected to the teacher's channels, from the teacher's map.

    The comparison is made on the student's grid: the teacher's map is averaged where it has to shrink and interpolated
    linearly where it has to grow. ``projector``, a 1x1 convolution in any number of dimensions, is trained with the
    student, is part of the training state and is not part of the deployed student.

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
        dtype = self.projector.weight.dtype
        with full_precision(student_map.device):
            teacher = resize_to_grid(teacher_map.detach(), student_map.shape[2:])
            # A map from inference_mode cannot be kept for the backward pass, a copy of it can.
            teacher = teacher.to(dtype, copy=teacher.is_inference())
            projected = self.projector(student_map.to(dtype).movedim(1, -1))
            return F.mse_loss(projected, teacher.movedim(1, -1))
