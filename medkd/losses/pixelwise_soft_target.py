"""Pixel-wise soft targets (SKD): the teacher's class probabilities in place of the label."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import comparable_logits, full_precision


class PixelwiseSoftTargetLoss(nn.Module):
    """Cross entropy of the student's class probabilities with those of the teacher, per pixel.

    ``-T^2 * mean_pixels sum_c softmax(t / T)_c * log softmax(s / T)_c``, with the mean over all pixels of the batch.
    ``T^2`` keeps the size of the gradient when the temperature changes. The least value, of a student equal to its
    teacher, is ``T^2`` times the mean entropy of the teacher; what exceeds it is the Kullback-Leibler divergence.

    A single logit ``z`` stands for the two classes ``[0, z]`` (background, foreground). Where the sizes differ, the
    teacher's logits are resized to the student's grid: averaged where they shrink, interpolated linearly where they
    grow.

    The published code divides by the pixels of one image instead of those of the batch, so its loss grows with the
    batch.

    Args:
        temperature: ``T`` > 0; the paper uses 1.

    Raises:
        UserError: the temperature is not positive.

    Reference:
        Liu et al. 2019, arXiv 1903.04197, "Structured knowledge distillation for semantic segmentation" (SKD), the
        pixel-wise term.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: give a positive number, the paper uses 1.")
        self.temperature = temperature

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
        with full_precision(student_logits.device):
            student, teacher = comparable_logits(student_logits, teacher_logits)
            target = F.softmax(teacher / self.temperature, dim=1)
            return self.temperature**2 * F.cross_entropy(student / self.temperature, target)
