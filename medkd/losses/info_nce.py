"""InfoNCE: an embedding of the student must recognise its teacher's among those of the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import full_precision, unit_vectors


class InfoNCELoss(nn.Module):
    """Contrastive loss between matching rows of two sets of embeddings.

    On L2-normalised embeddings, ``mean_i -log( exp(s_i.t_i / tau) / sum_j exp(s_i.t_j / tau) )``. With labels, the
    positives of a row are all teacher embeddings of its class, and the mean over them is taken outside of the logarithm
    (``L_out`` of Khosla et al.); a class with a single row falls back to the unsupervised term, since ``t_i`` is always
    a positive of ``s_i``.

    Rows that cannot be told apart cost ``log N``, a single row costs 0 and teaches nothing; a row of zeros
    is like none and gets no gradient. Gradients flow into both arguments, because the teacher's embeddings come from a
    trained projector: detach the teacher's features before it.

    Args:
        temperature: ``tau`` > 0; the lower, the more the nearest negatives count.

    Raises:
        UserError: the temperature is not positive.

    Reference:
        Biswas 2024, arXiv 2406.03173, Eq. 3.5-3.6; van den Oord et al. 2018; Khosla et al. 2020, Eq. 2.
    """

    def __init__(self, temperature: float = 0.4) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature is {temperature}: give a positive number, MTMS-KD uses 0.4.")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
        """Contrast every student embedding with all teacher embeddings.

        Args:
            student: embeddings ``(N, D)``.
            teacher: embeddings ``(N, D)``; row i belongs to the student's row i.
            labels: class of every row ``(N,)``, or None.

        Returns:
            the loss, a scalar in float32 or wider.

        Raises:
            UserError: the shapes do not match.
        """
        if student.ndim != 2 or student.shape != teacher.shape or len(student) == 0:
            raise UserError(
                f"student and teacher embeddings have shapes {tuple(student.shape)} and {tuple(teacher.shape)}: "
                "give both the same shape (N, D) with N > 0."
            )
        if labels is not None and labels.shape != student.shape[:1]:
            raise UserError(f"labels have shape {tuple(labels.shape)}: give one per embedding, ({len(student)},).")
        with full_precision(student.device):
            similarity = unit_vectors(student, 1) @ unit_vectors(teacher, 1).T / self.temperature
            if labels is None:
                return F.cross_entropy(similarity, torch.arange(len(student), device=student.device))
            positives = (labels[:, None] == labels[None, :]).to(similarity.dtype)
            log_probability = F.log_softmax(similarity, dim=1)
            return -((log_probability * positives).sum(dim=1) / positives.sum(dim=1)).mean()
