"""Class-guided contrastive distillation (PNSCD): regions of a class among those of the other classes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import check_channels, check_pair, full_precision, unit_vectors
from medkd.losses.memory_bank import MemoryBank
from medkd.losses.regions import check_label, region_vectors


def class_guided_contrastive(scores: Tensor, num_positives: int, num_samples: int) -> Tensor:
    """Noise-contrastive loss of anchors that tell P positives from K negatives.

    With ``c = K / M``, ``-1/B sum_b [ 1/P sum_{i<=P} log( h_i / (h_i + c) ) + sum_{j<=K} log( c / (h_j + c) ) ]``.

    Args:
        scores: ``h > 0`` of shape ``(B, P + K)``, the positives first: ``exp(g.t / tau) / Z``.
        num_positives: ``P``.
        num_samples: ``M``, the number of samples that ``Z`` was taken for.

    Returns:
        the loss, a scalar.

    Raises:
        UserError: the scores hold no positive or no negative.

    Reference:
        Ma et al. 2024, Journal of Computers 35(3), Eq. 8; with one positive Tian et al. 2020, arXiv 1910.10699.
    """
    num_negatives = scores.shape[1] - num_positives
    if min(num_positives, num_negatives) < 1:
        raise UserError(
            f"{scores.shape[1]} scores with num_positives={num_positives} leave {num_negatives} negatives: "
            "give at least one positive and one negative."
        )
    limits = torch.finfo(scores.dtype)
    # The odds against the noise as logits: neither the quotients nor their gradients over- or underflow.
    odds = scores.clamp(limits.tiny, limits.max).log() - math.log(num_negatives / num_samples)
    of_positives = F.logsigmoid(odds[:, :num_positives]).mean(dim=1)
    of_negatives = F.logsigmoid(-odds[:, num_positives:]).sum(dim=1)
    return -(of_positives + of_negatives).mean()


class BankContrast(nn.Module):
    """One direction of the contrast: anchors of one network against a bank with embeddings of the other.

    Args:
        bank: the embeddings; ``M`` is the number of its slots.
        temperature: ``tau`` > 0.

    Attributes:
        normaliser: ``Z``, ``M`` times the mean of ``exp(g.t / tau)`` over the first batch with a pair; 0 before.
    """

    normaliser: Tensor

    def __init__(self, bank: MemoryBank, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: give a positive number, the papers use 0.07.")
        self.bank = bank
        self.temperature = temperature
        self.register_buffer("normaliser", torch.zeros(()))

    def forward(self, anchors: Tensor, positives: Tensor, negatives: Tensor, usable: Tensor) -> Tensor:
        """Tell the positives of each anchor from its negatives.

        Args:
            anchors: ``(N, D)``, of unit length.
            positives: ``(N, P, D)``.
            negatives: ``(N, K, D)``.
            usable: which anchors count ``(N,)``, as bool.

        Returns:
            the loss, a scalar; 0 with a gradient of 0 where no anchor counts.
        """
        candidates = torch.cat([positives, negatives], dim=1)[usable]
        if len(candidates) == 0:
            return 0 * anchors.sum()
        scores = torch.exp((candidates @ anchors[usable].unsqueeze(2)).squeeze(2) / self.temperature)
        of_batch = self.bank.capacity * scores.detach().mean()
        normaliser = torch.where(self.normaliser > 0, self.normaliser, of_batch)
        if self.training:
            self.normaliser.copy_(normaliser)
        return class_guided_contrastive(scores / normaliser, positives.shape[1], self.bank.capacity)


def project(projector: nn.Linear, vectors: Tensor) -> Tensor:
    """Embeddings ``(N, D)`` of unit length, in the precision of the projector."""
    return unit_vectors(projector(vectors.to(projector.weight.dtype)), 1)


class ClassGuidedContrastiveLoss(nn.Module):
    """An embedding of one network recognises those of its class, among other classes, as the other network gives them.

    The embeddings are the means of every class in every sample, behind one trained linear projector per side. There are
    two directions, which add up: anchors of the student against a bank of the teacher's embeddings, and the reverse.
    The positives of an anchor are its own counterpart and draws of its class from the bank, its negatives are draws of
    the other classes; see :func:`class_guided_contrastive`. The loss is the mean over the anchors that have negatives:
    while the bank holds a single class, it is 0 and teaches nothing.

    In training the batch is written into the banks before they are drawn from, so that the first batch has something
    to draw; in evaluation neither the banks nor the normalisers change. ``student_projector`` and ``teacher_projector``
    are trained with the student; they, the banks and the normalisers are part of the training state and not of the
    deployed student.

    Equation 8 is garbled in print; this is the loss of CRD with labels (Xing et al. 2021), on which it builds. Class
    regions are compared, not slices, since every slice holds background, and the bank has slots in turn, not one for
    every sample of the data set: what a slot blends are regions of one class, not one sample at two times.

    Args:
        student_channels: channels of the student's map.
        teacher_channels: channels of the teacher's map.
        num_classes: classes of the label, background included.
        num_positives: ``P``, positives of an anchor.
        num_negatives: ``K``, negatives of an anchor.
        bank_slots: embeddings kept of each class; ``M`` is this times ``num_classes``.
        embedding_channels: length of an embedding.
        temperature: ``tau`` > 0.
        momentum: share of the old embedding when a slot is written again.

    Raises:
        UserError: an argument has no meaning.

    Reference:
        Ma et al. 2024, Journal of Computers 35(3), Eq. 8 (PNSCD); Tian et al. 2020, arXiv 1910.10699 (CRD).
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        num_classes: int = 2,
        num_positives: int = 4,
        num_negatives: int = 64,
        bank_slots: int = 512,
        embedding_channels: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        if num_classes < 2 or min(num_positives, num_negatives) < 1:
            raise UserError(
                f"num_classes={num_classes}, num_positives={num_positives}, num_negatives={num_negatives} give nothing "
                "to contrast: give at least 2 classes, 1 positive and 1 negative."
            )
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.num_classes = num_classes
        self.num_positives = num_positives
        self.num_negatives = num_negatives
        self.student_projector = nn.Linear(student_channels, embedding_channels)
        self.teacher_projector = nn.Linear(teacher_channels, embedding_channels)
        self.against_teacher, self.against_student = (
            BankContrast(MemoryBank(num_classes, bank_slots, embedding_channels, momentum), temperature)
            for _ in range(2)
        )

    def forward(self, student_map: Tensor, teacher_map: Tensor, label: Tensor) -> Tensor:
        """Contrast the class regions of two feature maps.

        Args:
            student_map: ``(B, student_channels, *spatial)``.
            teacher_map: ``(B, teacher_channels, *spatial)`` of any size; no gradient flows into it.
            label: class indices ``(B, 1, *spatial)``, of any resolution.

        Returns:
            the loss, a scalar in the precision of the projectors (float32).

        Raises:
            UserError: the maps do not fit the declared channels or each other, or the label does not fit the maps or
                ``num_classes``.
        """
        check_pair(student_map, teacher_map)
        check_channels(student_map, teacher_map, self.student_channels, self.teacher_channels)
        check_label(label, student_map)
        with full_precision(student_map.device):
            student, teacher, classes = region_vectors(student_map, teacher_map.detach(), label)
            if classes.max() >= self.num_classes:
                raise UserError(
                    f"the label holds class {int(classes.max())} but num_classes is {self.num_classes}: "
                    "set num_classes to the number of classes, background included."
                )
            of_student = project(self.student_projector, student)
            of_teacher = project(self.teacher_projector, teacher)
            return self._direction(self.against_teacher, of_student, of_teacher, classes) + self._direction(
                self.against_student, of_teacher, of_student, classes
            )

    def _direction(self, contrast: BankContrast, anchors: Tensor, counterparts: Tensor, classes: Tensor) -> Tensor:
        counterparts = counterparts.detach()
        if self.training:
            contrast.bank.write(counterparts, classes)
        own = counterparts.unsqueeze(1)
        drawn, any_positive = contrast.bank.draw(classes, self.num_positives - 1, same=True)
        negatives, any_negative = contrast.bank.draw(classes, self.num_negatives, same=False)
        # In evaluation the bank may not know the class: then the counterpart stands in for the draws.
        positives = torch.cat([own, torch.where(any_positive[:, None, None], drawn, own)], dim=1)
        value: Tensor = contrast(anchors, positives, negatives, any_negative)
        return value
