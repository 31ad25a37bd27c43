"""One distillation term: a loss, the pair of places it compares, its weight."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from medkd.errors import UserError

if TYPE_CHECKING:
    from medkd.engines import DistillationTrainer


class DistillationHandler:
    """Adds ``weight * loss(student, teacher)`` to the training loss.

    Args:
        name: under which the term appears in curves and logs.
        loss: a loss of :mod:`medkd.losses`; one whose ``forward`` has a ``label`` is given the label map.
        weight: factor in the total; with 0 the term is not computed and its taps are not captured.
        student_tap: place in the student (:class:`~medkd.engines.FeatureTaps`); None compares the logits.
        teacher_tap: place in the teacher; None compares the logits.

    Raises:
        UserError: only one of the two taps is given, or the weight is negative.
    """

    def __init__(
        self,
        name: str,
        loss: nn.Module,
        weight: float = 1.0,
        student_tap: str | None = None,
        teacher_tap: str | None = None,
    ) -> None:
        if weight < 0:
            raise UserError(f"term {name!r} has the weight {weight}: give 0 or more.")
        if (student_tap is None) != (teacher_tap is None):
            raise UserError(f"term {name!r} taps only one network: give both student_tap and teacher_tap, or neither.")
        self.name = name
        self.loss = loss
        self.weight = weight
        self.student_tap = student_tap
        self.teacher_tap = teacher_tap
        self._wants_label = "label" in inspect.signature(loss.forward).parameters

    def attach(self, engine: DistillationTrainer) -> None:
        """Hang the term on a trainer and ask it for the taps."""
        if self.weight == 0:
            return
        engine.teacher_needed = True
        if self.student_tap is not None and self.teacher_tap is not None:
            engine.student_taps.add(self.student_tap)
            engine.teacher_taps.add(self.teacher_tap)
        self.loss.to(engine.state.device)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: DistillationTrainer) -> None:
        output = engine.state.output
        student, teacher = self._pair(engine)
        arguments = (student, teacher, output[CommonKeys.LABEL]) if self._wants_label else (student, teacher)
        term = self.loss(*arguments)
        output["terms"][self.name] = term.detach()
        output[CommonKeys.LOSS] = output[CommonKeys.LOSS] + self.weight * term

    def _pair(self, engine: DistillationTrainer) -> tuple[torch.Tensor, torch.Tensor]:
        if self.student_tap is None or self.teacher_tap is None:
            return engine.state.output[CommonKeys.PRED], engine.state.output["teacher"]
        return engine.student_taps.features[self.student_tap], engine.teacher_taps.features[self.teacher_tap]
