"""What the public code of MTMS-KD computes in place of its equations, so that a study can show what that costs."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.contrastive_feature import ContrastiveFeatureLoss
from medkd.losses.maps import at_least_float32, check_pair, full_precision, resize_to_grid
from medkd.losses.prediction_map import PredictionMapLoss


class FixedProjectorsLoss(ContrastiveFeatureLoss):
    """The contrastive loss behind random projectors that are drawn once and never trained.

    Half of the public code's error: its projectors are not among the optimiser's parameters. There is something to
    learn all the same, since features can be arranged so that they are recognised behind these two projectors. But the
    two are unrelated, so a student with the teacher's very features costs about as much as a random one: what is learnt
    is to suit the projectors.

    The projectors belong to the state, so that a resumed training goes on with the same ones.

    Args:
        arguments: as for :class:`ContrastiveFeatureLoss`; the public code compares at granularity ``image``.
        options: likewise, by name.

    Reference:
        Biswas 2024, arXiv 2406.03173, Eq. 3.5-3.7, which this is not.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.requires_grad_(False)


class RedrawnProjectorsLoss(FixedProjectorsLoss):
    """The contrastive loss behind random projectors that are drawn anew in every step: what the public code computes.

    For N embeddings its expected value is at least ``log N``, whatever the student does. A projector is as likely as
    the one with the opposite last layer, so the expected similarity of any two embeddings is 0, and the logarithm of
    the mean of ``exp(similarity / tau)`` is never below the mean of ``similarity / tau``. So a perfect student costs as
    much as a random one, and the least, ``log N``, is what embeddings cost that are all the same.

    The draws come from the global generator, which the recipes seed in every epoch: a resumed training draws the same.

    Args:
        arguments: as for :class:`ContrastiveFeatureLoss`; the public code compares at granularity ``image``.
        options: likewise, by name.

    Reference:
        Biswas 2024, arXiv 2406.03173, Eq. 3.5-3.7, which this is not.
    """

    def forward(self, student_map: Tensor, teacher_map: Tensor, label: Tensor | None = None) -> Tensor:
        """Draw new projectors, then contrast two feature maps; see :meth:`ContrastiveFeatureLoss.forward`."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        return super().forward(student_map, teacher_map, label)


class OneChannelPredictionMapLoss(PredictionMapLoss):
    """Prediction map distillation with a softmax over the one channel of one-logit outputs: what the public code does.

    Of one class the probability is always 1, so the divergence is 0 for any two maps and its gradient is 0 as well. The
    value hangs on the graph all the same, like that of any other loss.

    Args:
        temperature: ``T`` > 0, which changes nothing.

    Reference:
        Biswas 2024, arXiv 2406.03173, Eq. 3.4, which this is not.
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Compare two prediction maps, to no effect.

        Args:
            student_logits: ``(B, 1, *spatial)``.
            teacher_logits: ``(B, 1, *spatial)`` of any size; no gradient flows into it.

        Returns:
            0, a scalar in float32 or wider.

        Raises:
            UserError: a network has several logits, for which this softmax is right, or the batches differ.
        """
        check_pair(student_logits, teacher_logits)
        if (student_logits.shape[1], teacher_logits.shape[1]) != (1, 1):
            raise UserError(
                f"the student has {student_logits.shape[1]} logits and the teacher {teacher_logits.shape[1]}: this is "
                "an error of one-logit networks, use PredictionMapLoss for others."
            )
        with full_precision(student_logits.device):
            student = at_least_float32(student_logits)
            teacher = resize_to_grid(at_least_float32(teacher_logits.detach()), student.shape[2:])
            student_log = F.log_softmax(student / self.temperature, dim=1)
            teacher_log = F.log_softmax(teacher / self.temperature, dim=1)
            divergence = F.kl_div(student_log, teacher_log, reduction="none", log_target=True)
            return self.temperature**2 * divergence.mean()
