"""Prediction map distillation (PMD): the student learns the teacher's softened class probabilities."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import comparable_logits, full_precision


class PredictionMapLoss(nn.Module):
    """Kullback-Leibler divergence of the student's from the teacher's tempered class probabilities, per pixel.

    ``T^2 * mean_pixels KL(softmax(t / T) || softmax(s / T))``, with the mean over all pixels of the batch. ``T^2``
    keeps the size of the gradient when the temperature changes.

    A single logit ``z`` stands for the two classes ``[0, z]`` (background, foreground), so a one-logit and a two-class
    network can teach each other: ``z = logit_1 - logit_0`` has the same probabilities. Where the sizes differ, the
    teacher's logits are resized to the student's grid: averaged where they shrink, interpolated linearly where they
    grow.

    The published code of MTMS-KD takes the softmax over the channel axis of one-logit outputs: of one class the
    probability is always 1, so its PMD is constantly 0 and has no gradient.

    Args:
        temperature: ``T`` > 0; the higher, the more the small probabilities count.

    Raises:
        UserError: the temperature is not positive.

    Reference:
        Biswas 2024, arXiv 2406.03173, Eq. 3.4; Qin et al. 2021, IEEE TMI 40(12), Eq. 1; Hinton et al. 2015.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: give a positive number, the papers use 4.")
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
            student_log = F.log_softmax(student / self.temperature, dim=1)
            teacher_log = F.log_softmax(teacher / self.temperature, dim=1)
            divergence = F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)
            return self.temperature**2 * divergence.mean()
