from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses import HintLoss


@pytest.mark.parametrize("size", ((6,), (5, 4), (3, 2, 4)))
def test_equals_slow_loops(agree: Callable[..., None], size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    loss = HintLoss(3, 5).double()
    student = torch.randn(2, 3, *size, dtype=torch.float64)
    teacher = torch.randn(2, 5, *size, dtype=torch.float64)
    weight, bias = loss.projector.weight.detach(), loss.projector.bias.detach()

    def slow(student: Tensor, teacher: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for b, position in ((b, p) for b in range(2) for p in np.ndindex(*size)):
            for out in range(5):
                projected = bias[out] + sum(weight[out, c] * student[(b, c, *position)] for c in range(3))
                total = total + (projected - teacher[(b, out, *position)]) ** 2
        return total / teacher.numel()

    agree(loss, slow, student, teacher)


def identity(channels: int) -> HintLoss:
    loss = HintLoss(channels, channels).double()
    with torch.no_grad():
        loss.projector.weight.copy_(torch.eye(channels))
        loss.projector.bias.zero_()
    return loss


def test_equal_maps_cost_nothing_and_a_shift_its_square() -> None:
    maps = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert identity(4)(maps, maps).item() == 0
    assert identity(4)(maps + 3, maps).item() == pytest.approx(9, abs=1e-12)


def test_teacher_is_brought_to_the_students_grid() -> None:
    teacher = torch.randn(1, 1, 4, 6, dtype=torch.float64)
    blocks = torch.stack([teacher[0, 0, i : i + 2, j : j + 3].mean() for i in (0, 2) for j in (0, 3)])
    assert identity(1)(blocks.reshape(1, 1, 2, 2), teacher).item() == pytest.approx(0, abs=1e-20)
    by_hand = torch.tensor([[[0.0, 2.0, 6.0, 8.0]]], dtype=torch.float64)
    assert identity(1)(by_hand, torch.tensor([[[0.0, 8.0]]], dtype=torch.float64)).item() == pytest.approx(0, abs=1e-20)


def test_projector_learns_a_linear_relation() -> None:
    torch.manual_seed(0)
    loss, relation = HintLoss(3, 2), torch.randn(2, 3)
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    values = []
    for _ in range(150):
        student = torch.randn(2, 3, 4, 4)
        value = loss(student, torch.einsum("oc,bcij->boij", relation, student))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.01 * values[0]


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    (
        ((2, 4, 4, 4), (2, 5, 4, 4), "student_channels=4"),
        ((2, 3, 4, 4), (2, 6, 4, 4), "teacher_channels=6"),
        ((2, 3, 4, 4), (1, 5, 4, 4), "same batch"),
        ((2, 3, 4, 4), (2, 5, 4, 4, 4), "spatial axes"),
        ((2, 3), (2, 5), "spatial axes"),
    ),
)
def test_maps_that_do_not_fit_are_refused(student: tuple[int, ...], teacher: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        HintLoss(3, 5)(torch.zeros(student), torch.zeros(teacher))
