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


def test_maps_are_compared_on_the_smaller_grid() -> None:
    large = torch.randn(1, 1, 4, 6, dtype=torch.float64)
    blocks = torch.stack([large[0, 0, i : i + 2, j : j + 3].mean() for i in (0, 2) for j in (0, 3)]).reshape(1, 1, 2, 2)
    assert identity(1)(blocks, large).item() == pytest.approx(0, abs=1e-20)
    assert identity(1)(large, blocks + 2).item() == pytest.approx(4, abs=1e-12)


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_pieces_add_up_to_the_whole(layout: torch.memory_format) -> None:
    """More positions than fit into one piece, against autograd on the whole map."""
    torch.manual_seed(0)
    loss = HintLoss(3, 40).double()
    student = torch.randn(2, 3, 50, 41, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    teacher = torch.randn(2, 40, 50, 41, dtype=torch.float64).to(memory_format=layout)
    wanted = [student, *loss.parameters()]
    value = loss(student, teacher)
    expected = (loss.projector(student.movedim(1, -1)) - teacher.movedim(1, -1)).square().mean()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(3 * value, wanted), torch.autograd.grad(3 * expected, wanted), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


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
