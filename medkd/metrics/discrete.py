"""From logits to label maps, for one-logit and multi-class networks alike."""

from __future__ import annotations

import torch


def labels_from_logits(logits: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """The label map that logits stand for.

    Args:
        logits: ``(C, *spatial)``; one channel is binary segmentation, more are classes with the background first.
        threshold: the logit above which a one-logit network says foreground; 0 is a probability of one half.

    Returns:
        ``(1, *spatial)`` uint8.
    """
    if logits.shape[0] == 1:
        return (logits > threshold).to(torch.uint8)
    return logits.argmax(dim=0, keepdim=True).to(torch.uint8)
