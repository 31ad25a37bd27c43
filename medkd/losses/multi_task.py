"""The loss of a multi-task teacher: segmentation plus reconstruction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F


class MultiTaskLoss(nn.Module):
    """``segmentation_loss(logits, label) + reconstruction_weight * MSE(reconstruction, image)``.

    A batch without label gives the reconstruction term alone, for pre-training on unlabelled volumes; a network without
    reconstruction gives the segmentation term alone.

    Args:
        segmentation_loss: called with logits and label.
        reconstruction_weight: factor of the reconstruction term.

    Reference: Biswas 2024, arXiv 2406.03173, Eq. 3.1 to 3.3 (weight 0.2).
    """

    def __init__(self, segmentation_loss: nn.Module, reconstruction_weight: float = 0.2) -> None:
        super().__init__()
        self.segmentation_loss = segmentation_loss
        self.reconstruction_weight = reconstruction_weight

    def forward(
        self, prediction: torch.Tensor | tuple[torch.Tensor, torch.Tensor], target: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            prediction: logits ``(B, classes, *spatial)``, or a pair of them and the reconstruction
                ``(B, C, *spatial)``.
            target: ``image`` ``(B, C, *spatial)`` and, unless pre-training, ``label`` ``(B, 1, *spatial)``.

        Returns:
            A scalar.
        """
        logits, reconstruction = prediction if isinstance(prediction, tuple) else (prediction, None)
        terms = []
        if "label" in target:
            terms.append(self.segmentation_loss(logits, target["label"]))
        if reconstruction is not None:
            error = F.mse_loss(reconstruction.float(), target["image"].float())
            terms.append(self.reconstruction_weight * error)
        return torch.stack(terms).sum()
