"""Contrastive representation distillation (CRD): a sample among the samples of earlier batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.class_guided_contrastive import BankContrast, project
from medkd.losses.maps import at_least_float32, check_channels, check_pair, full_precision
from medkd.losses.memory_bank import MemoryBank


class ContrastiveRepresentationLoss(nn.Module):
    """The embedding of a sample in one network recognises that of the same sample in the other network.

    The embeddings are the means of the whole maps, behind one trained linear projector per side. There are two
    directions, which add up: anchors of the student against a bank of the teacher's embeddings, and the reverse. The
    positive of an anchor is its own counterpart, its negatives are drawn from the bank, which holds earlier batches:
    on the first batch the loss is 0 and teaches nothing. The loss of a direction is that of
    :func:`~medkd.losses.class_guided_contrastive.class_guided_contrastive` with one positive.

    In training the batch is written into the banks after they are drawn from, so that no sample of a batch is its own
    negative; in evaluation neither the banks nor the normalisers change. ``student_projector`` and
    ``teacher_projector`` are trained with the student; they, the banks and the normalisers are part of the training
    state and not of the deployed student.

    The slots of the bank are written in turn, where the paper has one for every training sample: slices are drawn at
    random and have no fixed index, so the bank may hold an earlier embedding of the anchor's own slice. The paper's
    formula has no normaliser ``Z``; its public code divides by one, as is done here.

    Args:
        student_channels: channels of the student's map.
        teacher_channels: channels of the teacher's map.
        num_negatives: negatives of an anchor.
        bank_slots: embeddings kept of each network.
        embedding_channels: length of an embedding.
        temperature: ``tau`` > 0.
        momentum: share of the old embedding when a slot is written again.

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
        momentum: float = 0.5,
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
            BankContrast(MemoryBank(1, bank_slots, embedding_channels, momentum), temperature) for _ in range(2)
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
            of_student = project(self.student_projector, _sample_means(student_map))
            of_teacher = project(self.teacher_projector, _sample_means(teacher_map.detach()))
            return self._direction(self.against_teacher, of_student, of_teacher) + self._direction(
                self.against_student, of_teacher, of_student
            )

    def _direction(self, contrast: BankContrast, anchors: Tensor, counterparts: Tensor) -> Tensor:
        counterparts = counterparts.detach()
        one_class = torch.zeros(len(anchors), dtype=torch.long, device=anchors.device)
        negatives, any_negative = contrast.bank.draw(one_class, self.num_negatives, same=True)
        if self.training:
            contrast.bank.write(counterparts, one_class)
        value: Tensor = contrast(anchors, counterparts.unsqueeze(1), negatives, any_negative)
        return value


def _sample_means(feature_map: Tensor) -> Tensor:
    return at_least_float32(feature_map).mean(dim=tuple(range(2, feature_map.ndim)))
