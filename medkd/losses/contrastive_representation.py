"""Contrastive representation distillation (CRD): a sample among the samples of earlier batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.class_guided_contrastive import BankContrast, project
from medkd.losses.maps import at_least_float32, check_channels, check_pair, full_precision, unit_vectors
from medkd.losses.memory_bank import MemoryBank


class ContrastiveRepresentationLoss(nn.Module):
    """The embedding of a sample in one network recognises that of the same sample in the other network.

    The embeddings are the means of the whole maps at unit length, behind one trained linear projector per side. There
    are two directions, which add up: anchors of the student against a bank of the teacher, and the reverse. The
    positive of an anchor is its own counterpart, its negatives are drawn from the bank, which holds earlier batches:
    on the first batch the loss is 0 and teaches nothing. The loss of a direction is that of
    :func:`~medkd.losses.class_guided_contrastive.class_guided_contrastive` with one positive.

    In training the batch is written into the banks after they are drawn from, so that no sample of a batch is its own
    negative; in evaluation neither the banks nor the normalisers change. ``student_projector`` and
    ``teacher_projector`` are trained with the student; they, the banks and the normalisers are part of the training
    state and not of the deployed student.

    The bank holds the means, and what is drawn goes through the projector of today, without gradient. Projected when
    they were written, the negatives would be told from the positive by their age alone, whatever they show. The slots
    are written in turn, where the paper has one for every training sample and blends what it held before: slices are
    drawn at random and have no fixed index, so the bank may hold the anchor's own slice as it was. The paper's formula
    has no normaliser ``Z``; its public code divides by one, as is done here.

    Args:
        student_channels: channels of the student's map.
        teacher_channels: channels of the teacher's map.
        num_negatives: negatives of an anchor.
        bank_slots: samples kept of each network.
        embedding_channels: length of an embedding.
        temperature: ``tau`` > 0.

    Raises:
        UserError: an argument has no meaning.

    Reference:
        Tian et al. 2020, arXiv 1910.10699, "Contrastive representation distillation", Sec. 3.1.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_negatives: int = 64,
        bank_slots: int = 1024,
        embedding_channels: int = 128,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        if num_negatives < 1:
            raise UserError(f"num_negatives is {num_negatives}: give at least 1 to contrast with.")
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.num_negatives = num_negatives
        self.student_projector = nn.Linear(student_channels, embedding_channels)
        self.teacher_projector = nn.Linear(teacher_channels, embedding_channels)
        self.against_teacher, self.against_student = (
            BankContrast(MemoryBank(1, bank_slots, channels, momentum=0.0), temperature)
            for channels in (teacher_channels, student_channels)
        )

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """Contrast the samples of two feature maps.

        Args:
            student_map: ``(B, student_channels, *spatial)``.
            teacher_map: ``(B, teacher_channels, *spatial)`` of any size; no gradient flows into it.

        Returns:
            the loss, a scalar in the precision of the projectors (float32).

        Raises:
            UserError: the maps do not fit the declared channels or each other.
        """
        check_pair(student_map, teacher_map)
        check_channels(student_map, teacher_map, self.student_channels, self.teacher_channels)
        with full_precision(student_map.device):
            student, teacher = _sample_means(student_map), _sample_means(teacher_map.detach())
            return self._direction(
                self.against_teacher, self.student_projector, student, self.teacher_projector, teacher
            ) + self._direction(self.against_student, self.teacher_projector, teacher, self.student_projector, student)

    def _direction(
        self, contrast: BankContrast, of_anchors: nn.Linear, anchors: Tensor, of_others: nn.Linear, others: Tensor
    ) -> Tensor:
        others = others.detach()
        one_class = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
        drawn, any_negative = contrast.bank.draw(one_class, self.num_negatives, same=True)
        if self.training:
            contrast.bank.write(others, one_class)
        positives = project(of_others, others).detach().unsqueeze(1)
        negatives = project(of_others, drawn.flatten(0, 1)).detach().unflatten(0, drawn.shape[:2])
        value: Tensor = contrast(project(of_anchors, anchors), positives, negatives, any_negative)
        return value


def _sample_means(feature_map: Tensor) -> Tensor:
    return unit_vectors(at_least_float32(feature_map).mean(dim=tuple(range(2, feature_map.ndim))), 1)
