"""One distillation term: a loss, the pair of places it compares, its weight."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from medkd.distributed import broadcast_state, gather_batch
from medkd.errors import UserError
from medkd.losses import ContrastiveFeatureLoss, HolisticAdversarialLoss
from medkd.run_folder import TERM_FIGURES

if TYPE_CHECKING:
    from medkd.engines import DistillationTrainer

# Columns of the history, and what a module that holds modules by name cannot call them.
RESERVED = {"epoch", "loss", "segmentation", "seconds", "val_dice", *TERM_FIGURES, *dir(nn.ModuleDict)}


class DistillationHandler:
    """Adds ``weight * loss(student, teacher)`` to the training loss.

    A loss that plays against the student, :class:`~medkd.losses.HolisticAdversarialLoss`, is trained by its own
    optimiser after each step of the student.

    Of several processes each computes the loss of all their batches together (:func:`~medkd.distributed.gather_batch`),
    with the same projectors and memory bank.

    Args:
        name: under which the term appears in curves and logs.
        loss: a loss of :mod:`medkd.losses`; one whose ``forward`` has a ``label`` is given the label map.
        weight: factor in the total; with 0 the term is not computed and its taps are not captured.
        student_tap: place in the student (:class:`~medkd.engines.FeatureTaps`); None compares the logits.
        teacher_tap: place in the teacher; None compares the logits.
        warmup_epochs: over so many epochs the weight rises linearly from 0; with 0 it is constant.

    Raises:
        UserError: only one of the two taps is given, the weight or the warm-up is negative, or the name is not one.
    """

    def __init__(
        self,
        name: str,
        loss: nn.Module,
        weight: float = 1.0,
        student_tap: str | None = None,
        teacher_tap: str | None = None,
        warmup_epochs: float = 0,
    ) -> None:
        if min(weight, warmup_epochs) < 0:
            raise UserError(f"term {name!r} has weight {weight} and warmup_epochs {warmup_epochs}: give 0 or more.")
        if not name.isidentifier() or name in RESERVED:
            raise UserError(f"a term cannot be called {name!r}: choose a word that the history has no column for.")
        if (student_tap is None) != (teacher_tap is None):
            raise UserError(f"term {name!r} taps only one network: give both student_tap and teacher_tap, or neither.")
        self.name = name
        self.loss = loss
        self.weight = weight
        self.student_tap = student_tap
        self.teacher_tap = teacher_tap
        self.warmup_epochs = warmup_epochs
        self._wants_label = "label" in inspect.signature(loss.forward).parameters

    def attach(self, engine: DistillationTrainer) -> None:
        """Hang the term on a trainer and ask it for the taps."""
        if self.weight == 0:
            return
        if self.name in engine.terms:
            raise UserError(f"two terms are called {self.name!r}: give each a name of its own.")
        places = f"{self.student_tap} and {self.teacher_tap}" if self.student_tap else "the logits"
        engine.terms[self.name] = f"{self.weight} {type(self.loss).__name__} of {places}"
        if self.student_tap is not None:
            engine.student_taps.add(self.student_tap)
        self._ask_teacher(engine)
        self.loss.to(engine.state.device)
        # Arithmetic that is not the same twice would let the projectors of the processes drift apart.
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: broadcast_state(self.loss))
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)
        if isinstance(self.loss, HolisticAdversarialLoss):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._train_discriminator, self.loss)

    def _ask_teacher(self, engine: DistillationTrainer) -> None:
        engine.ask_teacher(self.teacher_tap, lambda: self._teacher_grid(engine))

    def __call__(self, engine: DistillationTrainer) -> None:
        student, teacher = self._pair(engine)
        label = (gather_batch(self._label(engine)),) if self._wants_label else ()
        engine.add_term(self.name, self.loss(student, teacher, *label), self.weight * self._warmth(engine))

    def _warmth(self, engine: DistillationTrainer) -> float:
        """How much of the weight counts in this step, 0 to 1."""
        steps = self.warmup_epochs * (engine.state.epoch_length or 1)
        return min(1.0, engine.state.iteration / steps) if steps else 1.0

    def _pair(self, engine: DistillationTrainer) -> tuple[torch.Tensor, torch.Tensor]:
        return gather_batch((self._student(engine), engine.state.output["teacher"][self.teacher_tap]))

    def _student(self, engine: DistillationTrainer) -> torch.Tensor:
        if self.student_tap is not None:
            return engine.student_taps.features[self.student_tap]
        return self._logits(engine.state.output[CommonKeys.PRED])

    @staticmethod
    def _logits(prediction: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
        # A multi-task network gives its reconstruction too.
        return prediction[0] if isinstance(prediction, tuple) else prediction

    def _label(self, engine: DistillationTrainer) -> torch.Tensor:
        target = engine.state.output[CommonKeys.LABEL]
        return target[CommonKeys.LABEL] if isinstance(target, Mapping) else target

    def _teacher_grid(self, engine: DistillationTrainer) -> tuple[int, ...] | None:
        if not isinstance(self.loss, ContrastiveFeatureLoss):
            return None
        return self.loss.teacher_grid(tuple(self._student(engine).shape[2:]))

    def _train_discriminator(self, engine: DistillationTrainer, loss: HolisticAdversarialLoss) -> None:
        student, teacher = self._pair(engine)
        loss.train_discriminator(student.detach(), teacher)
