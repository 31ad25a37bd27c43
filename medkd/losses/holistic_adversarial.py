"""Holistic distillation (SKD): a critic that cannot tell the student's score maps from the teacher's."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import at_least_float32, check_pair, full_precision, resize_to_grid, same_classes, smaller_grid

# Cells per axis that the critic is shown at most.
LARGEST_GRID = 64

_SLOPE = 0.1
_CONVOLUTION: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class HolisticAdversarialLoss(nn.Module):
    """The student's score maps please a critic that learns to tell them from the teacher's (WGAN-GP).

    The loss is ``-mean D(student)``. The critic ``D`` is trained by :meth:`train_discriminator`, with an optimiser of
    its own, on ``mean D(student) - mean D(teacher) + gradient_penalty * mean (||grad_x D(x)|| - 1)^2``, where ``x`` is
    a random mix of student and teacher for each sample. Only there do its parameters take a gradient. They and the
    state of the optimiser are in ``state_dict``.

    The critic is shown class probabilities, averaged down to the smaller of the two grids and to at most 64 cells per
    axis: it judges the layout, not single pixels. A single logit ``z`` stands for the two classes ``[0, z]``. It is
    made of strided convolutions, whose kernels are products of one kernel per axis so that the same critic judges
    images and volumes, and has no batch normalisation, which the gradient penalty does not allow. Before its first step
    it judges everything to be 0, so that it never pulls the student at random.

    The critic of the paper sees the image too. That of the public code, as this one, only the score maps, but as logits
    of 65 x 65 behind a batch normalisation, and it has self-attention and spectral normalisation.

    Args:
        out_channels: outputs of the two networks: 1 logit, or the number of classes.
        learning_rate: of the critic's optimiser, Adam with betas 0 and 0.9.
        gradient_penalty: weight of the penalty.
        channels: of the critic's stages, each of which halves every axis.

    Raises:
        UserError: an argument has no meaning.

    Reference:
        Liu et al. 2019, arXiv 1903.04197, "Structured knowledge distillation for semantic segmentation", holistic
        distillation; Wang et al. 2020 (IFVD) use it too; Gulrajani et al. 2017, arXiv 1704.00028, Eq. 3.
    """

    def __init__(
        self,
        out_channels: int,
        learning_rate: float = 4e-4,
        gradient_penalty: float = 10.0,
        channels: Sequence[int] = (16, 32, 64, 128),
    ) -> None:
        super().__init__()
        if min(out_channels, *channels, out_channels) < 1:
            raise UserError(f"out_channels={out_channels} and channels={tuple(channels)}: give only positive numbers.")
        if learning_rate <= 0 or gradient_penalty < 0:
            raise UserError(
                f"learning_rate={learning_rate} and gradient_penalty={gradient_penalty}: "
                "give a positive rate, and a penalty of 0 or more."
            )
        self.classes = max(out_channels, 2)
        self.gradient_penalty = gradient_penalty
        self.critic = _Critic(self.classes, channels).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), learning_rate, betas=(0.0, 0.9))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The student's part.

        Args:
            student_logits: ``(B, out_channels, *spatial)``.
            teacher_logits: ``(B, out_channels, *spatial)`` of any size, which is all that counts of it here.

        Returns:
            the loss, a scalar of either sign, in the precision of the critic (float32).

        Raises:
            UserError: the logits do not fit each other or ``out_channels``.
        """
        with full_precision(student_logits.device):
            student, _, grid = self._pair(student_logits, teacher_logits)
            judgement: Tensor = self.critic(self._scores(student, grid))
            return -judgement.mean()

    def train_discriminator(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Make one step of the critic.

        Call it behind the backward pass of the student, which needs the critic as it was.

        Args:
            student_logits: ``(B, out_channels, *spatial)``.
            teacher_logits: ``(B, out_channels, *spatial)`` of any size; no gradient flows into either.

        Returns:
            the critic's loss before the step, a scalar without gradient.

        Raises:
            UserError: the logits do not fit each other or ``out_channels``.
        """
        with full_precision(student_logits.device):
            student, teacher, grid = self._pair(student_logits.detach(), teacher_logits.detach())
            self.critic.requires_grad_(True)
            loss = self._critic_loss(self._scores(student, grid), self._scores(teacher, grid))
            loss.backward(inputs=list(self.critic.parameters()))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.critic.requires_grad_(False)
        return loss.detach()

    def get_extra_state(self) -> dict[str, Any]:
        """State of the critic's optimiser."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the critic's optimiser."""
        # Copied: else two losses would share the moments that each of them updates.
        self.optimizer.load_state_dict(copy.deepcopy(state))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> HolisticAdversarialLoss:
        super()._apply(fn, recurse)
        # An optimiser does not notice that its parameters move; loading brings its state to where they are.
        self.optimizer.load_state_dict(self.optimizer.state_dict())
        return self

    def _pair(self, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Logits of the same classes, and the grid on which the critic sees them."""
        check_pair(student_logits, teacher_logits)
        student, teacher = same_classes(student_logits, teacher_logits)
        if student.shape[1] != self.classes:
            raise UserError(
                f"the networks give {student.shape[1]} classes but the critic was built for {self.classes} "
                f"(one logit counts as 2): set out_channels={student.shape[1]}."
            )
        return student, teacher, tuple(min(LARGEST_GRID, length) for length in smaller_grid(student, teacher))

    def _scores(self, logits: Tensor, grid: Sequence[int]) -> Tensor:
        """Class probabilities ``(B, classes, *grid)``."""
        probabilities = at_least_float32(logits).as_subclass(Tensor).softmax(dim=1)
        return resize_to_grid(probabilities, grid).to(self.critic.head.weight.dtype)

    def _critic_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        share = torch.rand(len(student), *[1] * (student.ndim - 1), dtype=student.dtype, device=student.device)
        mix = teacher.lerp(student, share).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(mix).sum(), mix, create_graph=True)
        steepness = torch.linalg.vector_norm(slope.flatten(1), dim=1)
        of_student, of_teacher = self.critic(torch.cat([student, teacher])).chunk(2)
        return of_student.mean() - of_teacher.mean() + self.gradient_penalty * (steepness - 1).square().mean()


class _Critic(nn.Module):
    """Stages, and the mean over all positions of one channel: ``(B, classes, *grid)`` to ``(B,)``."""

    def __init__(self, classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        widths = (classes, *channels)
        self.stages = nn.Sequential(*itertools.starmap(_Stage, itertools.pairwise(widths)))
        # No bias, which would cancel in the difference of the two judgements.
        self.head = nn.Linear(widths[-1], 1, bias=False)
        # From 0 the difference alone gives the direction; from any other start the penalty would first amplify it.
        nn.init.zeros_(self.head.weight)

    def forward(self, scores: Tensor) -> Tensor:
        # The mean of a linear map is the linear map of the mean.
        judgement: Tensor = self.head(self.stages(scores).flatten(2).mean(dim=2))
        return judgement.squeeze(1)


class _Stage(nn.Module):
    """Convolution of width 4 and stride 2, then leaky ReLU.

    The kernel between two channels is a weight times one profile along each axis. An axis of length 1 has no profile
    and stays, so a volume of one slice is treated as the slice.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        self.profiles = nn.Parameter(torch.empty(3, out_channels, in_channels, 4))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, a=_SLOPE)
        # The squares of a profile add up to 1, 4 * (0.4^2 + 0.3^2): it keeps the scale that the weight gives. Around 0
        # it would first wipe out large shapes, and the critic would take several times as many steps to learn.
        nn.init.normal_(self.profiles, mean=0.4, std=0.3)

    def forward(self, maps: Tensor) -> Tensor:
        axes = maps.ndim - 2
        halved = [int(length > 1) for length in maps.shape[2:]]
        kernel = self.weight.reshape(*self.weight.shape, *[1] * axes)
        for axis in range(axes):
            if halved[axis]:
                kernel = kernel * self.profiles[axis].reshape(
                    *self.weight.shape, *[1] * axis, 4, *[1] * (axes - axis - 1)
                )
        convolved = _CONVOLUTION[axes](maps, kernel, self.bias, stride=[1 + half for half in halved], padding=halved)
        return F.leaky_relu(convolved, _SLOPE)
