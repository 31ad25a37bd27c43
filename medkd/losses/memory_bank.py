"""A memory of embeddings by class, from which contrastive losses draw more samples than a batch holds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError


class MemoryBank(nn.Module):
    """Embeddings of unit length in a fixed number of slots per class.

    The slots of a class are written in turn, so a bank needs no index of the samples in the data set and works with any
    sampler. Its state is in buffers: it moves with the module, and is saved and resumed with it.

    Args:
        num_classes: number of classes.
        slots: embeddings kept of each class.
        channels: length of an embedding.
        momentum: share of the old embedding, 0 to below 1, when a filled slot is written again.

    Attributes:
        embeddings: ``(num_classes, slots, channels)``; slots that were never written are zero.
        written: how many embeddings of each class were ever written ``(num_classes,)``: the first ``written`` slots are
            filled, and the next one goes to slot ``written % slots``.

    Raises:
        UserError: a size is below 1, or the momentum out of its range.
    """

    embeddings: Tensor
    written: Tensor

    def __init__(self, num_classes: int, slots: int, channels: int, momentum: float = 0.5) -> None:
        super().__init__()
        if min(num_classes, slots, channels) < 1:
            raise UserError(
                f"a memory bank of {num_classes} classes x {slots} slots x {channels} channels holds nothing: "
                "give at least 1 of each."
            )
        if not 0 <= momentum < 1:
            raise UserError(f"momentum is {momentum}: give 0 to below 1, with 1 a slot would never change.")
        self.momentum = momentum
        self.register_buffer("embeddings", torch.zeros(num_classes, slots, channels))
        self.register_buffer("written", torch.zeros(num_classes, dtype=torch.long))

    @property
    def capacity(self) -> int:
        """Number of slots of all classes."""
        return self.embeddings.shape[:2].numel()

    def write(self, embeddings: Tensor, classes: Tensor) -> None:
        """Keep embeddings, without their gradient, in the next slots of their classes.

        An empty slot takes the embedding; a filled one becomes ``momentum * old + (1 - momentum) * new``. Both are
        normalised to unit length.

        Args:
            embeddings: ``(N, channels)``, of any length but zero.
            classes: their class indices ``(N,)``.
        """
        slots = self.embeddings.shape[1]
        # Of so many rows no two meet in a slot.
        for rows, of_class in zip(embeddings.detach().split(slots), classes.split(slots), strict=True):
            self._write(rows, of_class)

    def _write(self, embeddings: Tensor, classes: Tensor) -> None:
        num_classes, slots, _ = self.embeddings.shape
        members = (classes[:, None] == torch.arange(num_classes, device=classes.device)).long()
        earlier = members.cumsum(dim=0).gather(1, classes[:, None]).squeeze(1) - 1
        turn = self.written[classes] + earlier
        new = F.normalize(embeddings.to(self.embeddings.dtype), dim=1)
        blended = self.momentum * self.embeddings[classes, turn % slots] + (1 - self.momentum) * new
        self.embeddings[classes, turn % slots] = torch.where((turn < slots)[:, None], new, F.normalize(blended, dim=1))
        self.written += members.sum(dim=0)

    def draw(self, classes: Tensor, count: int, same: bool) -> tuple[Tensor, Tensor]:
        """Embeddings at random, uniformly and with replacement, of the same class as each anchor or of all others.

        Args:
            classes: class indices ``(N,)`` of the anchors.
            count: how many for each anchor.
            same: of the anchor's class; else of the other classes.

        Returns:
            embeddings ``(N, count, channels)``, and whether there was any to draw from ``(N,)``; where there was none,
            the embeddings mean nothing.
        """
        num_classes, slots, _ = self.embeddings.shape
        filled = self.written.clamp(max=slots)
        ends = filled.cumsum(dim=0)
        starts = ends - filled
        own, start = filled[classes][:, None], starts[classes][:, None]
        choice = own if same else ends[-1] - own
        # The filled slots are numbered through all classes, one class after the other.
        number = (torch.rand(len(classes), count, device=ends.device) * choice).long().minimum(choice - 1).clamp(min=0)
        number = number + start if same else number + own * (number >= start)
        owner = torch.searchsorted(ends, number, right=True).clamp(max=num_classes - 1)
        slot = (number - starts[owner]).clamp(max=slots - 1)
        return self.embeddings[owner, slot], choice.squeeze(1) > 0
