"""A distillation term on slices that were cut together, which the teacher knows as little as the student does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from monai.utils.enums import CommonKeys
from torch import nn

from medkd.distributed import gather_batch, process_rank
from medkd.errors import UserError
from medkd.handlers.distillation import DistillationHandler

if TYPE_CHECKING:
    from medkd.engines import DistillationTrainer

# Of the area of a slice, that of the square that another slice gives.
SHARE = (0.2, 0.6)


class MixedSlicesHandler(DistillationHandler):
    """Adds ``weight * loss(student, teacher)`` of their logits for mixed slices; the segmentation stays on true ones.

    A student that gives its teacher's answers for the slices of few patients may not for those of others. No label is
    needed to compare the two on anything else, here on each slice of the batch with a square of another one in it
    (:func:`mix_slices`), drawn anew in every step. Student and teacher see the same mixed slices, after augmentation.
    The student's second pass costs as much again as its first.

    Args:
        name: see :class:`DistillationHandler`.
        loss: of logits, without label.
        weight: see :class:`DistillationHandler`.
        warmup_epochs: see :class:`DistillationHandler`.

    Raises:
        UserError: the loss asks for the label, or see :class:`DistillationHandler`.

    Reference: Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", arXiv 2106.05237,
        for distillation on mixed images; Yun et al. 2019, "CutMix", arXiv 1905.04899, for how they are mixed.
    """

    def __init__(self, name: str, loss: nn.Module, weight: float = 1.0, warmup_epochs: float = 0) -> None:
        super().__init__(name, loss, weight, warmup_epochs=warmup_epochs)
        if self._wants_label:
            raise UserError(f"term {name!r}: {type(loss).__name__} needs a label, which mixed slices do not have.")

    def _ask_teacher(self, engine: DistillationTrainer) -> None:
        # Not for the batch as it is: that pass is left out if no other term wants it.
        engine.teacher.ask(None)

    def _pair(self, engine: DistillationTrainer) -> tuple[torch.Tensor, torch.Tensor]:
        image = engine.state.output[CommonKeys.IMAGE].as_subclass(torch.Tensor)
        # Of all processes' slices, so that they mix as one process does.
        mixed = mix_slices(gather_batch(image)).split(len(image))[process_rank()]
        # Other terms compare what the taps gave for the batch as it is.
        tapped = dict(engine.student_taps.features)
        student = self._logits(engine.inferer(mixed, engine.network))
        engine.student_taps.features.update(tapped)
        return gather_batch((student, engine.teacher(mixed)[None]))


def mix_slices(image: torch.Tensor) -> torch.Tensor:
    """Each slice of a batch with a square of the slice before it, at the same place; of volumes a cube.

    MONAI's ``CutMix`` starts the squares of a whole batch at one corner and cuts off what does not fit.

    Args:
        image: ``(B, C, *spatial)``, in random order.

    Returns:
        The same shape; the squares have 0.2 to 0.6 of the area.
    """
    count, _, *sizes = image.shape
    side = torch.empty(count, 1).uniform_(*SHARE) ** (1 / len(sizes))
    square = torch.ones(count, 1, *(1 for _ in sizes), dtype=torch.bool)
    for axis, size in enumerate(sizes, start=2):
        start = torch.rand(count, 1) * (1 - side)
        centres = (torch.arange(size) + 0.5) / size
        within = (centres >= start) & (centres < start + side)
        square = square & within.reshape(count, *(size if axis == other else 1 for other in range(1, image.ndim)))
    return torch.where(square.to(image.device), image.roll(1, 0), image)
