"""Training a student beside a frozen teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from medkd.distributed import mean_over_processes, plain_network
from medkd.engines.cached_teacher import CachedTeacher, Grid
from medkd.engines.frozen_teacher import FrozenTeacher
from medkd.engines.taps import FeatureTaps
from medkd.engines.teacher_cache import TeacherCache
from medkd.errors import UserError


class DistillationTrainer(SupervisedTrainer):
    """MONAI's trainer with a frozen teacher that sees the same batch.

    After the student's forward pass the teacher runs on the same input, if any handler asked for it. Then each
    :class:`~medkd.handlers.DistillationHandler` adds its weighted term to the loss.

    What each term does is kept by its name in ``engine.state.output``, on the device: its value in ``terms``, its share
    of the total in ``weighted``, and in the first step of an epoch, in ``gradient``, the norm of that share's gradient
    in the student's parameters (one more backward pass for each term).

    Args:
        teacher: frozen here: evaluation mode, no gradients.
        teacher_cache: where its outputs are kept, so that it sees every slice once; None runs it in every step.
        segmentation_weight: factor of the segmentation loss in the total.
        train_handlers: as in MONAI; the distillation handlers are among them.
        kwargs: everything else :class:`monai.engines.SupervisedTrainer` takes; ``decollate`` is False unless given,
            since the terms are kept beside the batch.

    Raises:
        UserError: the weight is negative.

    Reference: Biswas 2024, arXiv 2406.03173, Eq. 3.7.
    """

    def __init__(
        self,
        *,
        teacher: nn.Module,
        teacher_cache: TeacherCache | None = None,
        segmentation_weight: float = 1.0,
        train_handlers: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if segmentation_weight < 0:
            raise UserError(f"the segmentation has the weight {segmentation_weight}: give 0 or more.")
        super().__init__(**{"decollate": False, **kwargs})
        self.teacher = FrozenTeacher(teacher, self.state.device, self.inferer)
        self.teacher_cache = teacher_cache
        self.segmentation_weight = segmentation_weight
        self.student_taps = FeatureTaps(plain_network(self.network))
        self.terms: dict[str, str] = {}
        self._grids: dict[str | None, list[Callable[[], Grid]]] = {}
        # Registered before the handlers, so that the teacher has run and the loss is weighed when they come.
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._run_teacher)
        self.add_event_handler(IterationEvents.LOSS_COMPLETED, self._weigh_segmentation)
        self._register_handlers(train_handlers or [])

    def ask_teacher(self, tap: str | None, grid: Callable[[], Grid]) -> None:
        """Ask for an output of the teacher in every step, in ``engine.state.output["teacher"][tap]``.

        Args:
            tap: None for the logits.
            grid: tells in a step, when the student has run, the grid onto which the map may be averaged; None asks for
                the map as it is.
        """
        self.teacher.ask(tap)
        self._grids.setdefault(tap, []).append(grid)

    def _run_teacher(self, engine: Engine) -> None:
        if not self._grids:
            return
        image = self.state.output[CommonKeys.IMAGE]
        if self._cached_teacher is not None:
            grids = {tap: _common([grid() for grid in wishes]) for tap, wishes in self._grids.items()}
            outputs = self._cached_teacher(image, self.state.batch, grids)
        else:
            outputs = self.teacher(image)
        self.state.output["teacher"] = outputs

    @cached_property
    def _cached_teacher(self) -> CachedTeacher | None:
        if self.teacher_cache is None:
            return None
        # Both change what the teacher gives: MONAI's autocast, and that of medkd's inferer.
        precision = f"amp-{self.amp}-bfloat16-{getattr(self.inferer, 'enabled', False)}"
        return CachedTeacher(self.teacher, self.teacher_cache, precision)

    def _weigh_segmentation(self, engine: Engine) -> None:
        loss = self.state.output[CommonKeys.LOSS]
        self.state.output |= {"terms": {}, "weighted": {}, "gradient": {}}
        self.state.output[CommonKeys.LOSS] = torch.zeros_like(loss)
        self.add_term("segmentation", loss, self.segmentation_weight)

    def add_term(self, name: str, value: torch.Tensor, weight: float) -> None:
        """Add ``weight * value`` to the loss of this step and note it.

        Args:
            name: of the term, in curves and logs.
            value: a scalar.
            weight: its factor in this step.
        """
        weighted = weight * value
        output = self.state.output
        output["terms"][name] = value.detach()
        output["weighted"][name] = weighted.detach()
        if (self.state.iteration - 1) % (self.state.epoch_length or 1) == 0:
            output["gradient"][name] = _gradient_norm(weighted, self.network, self.scaler)
        output[CommonKeys.LOSS] = output[CommonKeys.LOSS] + weighted


def _common(grids: Sequence[Grid]) -> Grid:
    """The grid all terms of a tap wish for; the map as it is where they differ."""
    return grids[0] if len(set(grids)) == 1 else None


def _gradient_norm(value: torch.Tensor, network: nn.Module, scaler: torch.amp.GradScaler | None) -> torch.Tensor:
    """Norm of the gradient of a scalar in all parameters of a network; they keep the gradients they have.

    Of several processes it is the gradient that the step takes, the mean over all.
    """
    # In mixed precision small gradients would vanish without the scale that the step itself has.
    scale = scaler.get_scale() if scaler is not None else 1.0
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(scale * value, parameters, retain_graph=True, allow_unused=True)
    shared = mean_over_processes([gradient for gradient in gradients if gradient is not None])
    norms = [torch.linalg.vector_norm(gradient) for gradient in shared]
    return torch.linalg.vector_norm(torch.stack(norms)) / scale if norms else value.new_zeros(())
