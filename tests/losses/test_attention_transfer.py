from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.attention_transfer import AttentionTransferLoss
from medkd.losses.maps import resize_to_grid


def slow_attention(sample: Tensor) -> list[Tensor]:
    attention = []
    for position in np.ndindex(*sample.shape[1:]):
        squares = [sample[(c, *position)] * sample[(c, *position)] for c in range(len(sample))]
        attention.append(sum(squares) / len(squares))
    length = sum(value * value for value in attention) ** 0.5
    return [value / length for value in attention]


def slow_at(student: Tensor, teacher: Tensor) -> Tensor:
    student = resize_to_grid(student, teacher.shape[2:])
    total, count = torch.zeros((), dtype=torch.float64), 0
    for b in range(len(student)):
        for of_student, of_teacher in zip(slow_attention(student[b]), slow_attention(teacher[b]), strict=True):
            total = total + (of_student - of_teacher) ** 2
            count += 1
    return total / count


@pytest.mark.parametrize(
    ("of_student", "of_teacher"),
    (
        ((2, 3, 6), (2, 3, 6)),
        ((3, 1, 3, 4), (3, 5, 3, 4)),
        ((2, 3, 6, 2), (2, 1, 3, 4)),
        ((2, 2, 2, 3, 2), (2, 3, 2, 3, 2)),
        ((2, 2, 4, 1, 2), (2, 3, 2, 3, 2)),
    ),
)
def test_equals_slow_loops(
    agree: Callable[..., None], of_student: tuple[int, ...], of_teacher: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    student = torch.randn(of_student, dtype=torch.float64)
    teacher = torch.randn(of_teacher, dtype=torch.float64)
    agree(AttentionTransferLoss(), slow_at, student, teacher)


def test_by_hand() -> None:
    # Mean squares of 1 and 4/3 are 3/5 and 4/5 of their length; two positions differ by 1/5.
    student = torch.tensor([[[1.0, 2.0], [-1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    assert AttentionTransferLoss()(student, student.flip(2)).item() == pytest.approx(0.04, abs=1e-12)


def test_attention_at_different_positions_costs_two_over_their_number() -> None:
    student, teacher = torch.zeros(3, 2, 4, 4), torch.zeros(3, 5, 4, 4)
    student[:, 1, 0, 2], teacher[:, 3, 2, 1] = -7.0, 0.5
    assert AttentionTransferLoss()(student, teacher).item() == pytest.approx(2 / 16)


def test_scale_sign_and_number_of_channels_do_not_matter() -> None:
    torch.manual_seed(0)
    loss = AttentionTransferLoss()
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = loss(student, teacher).item()
    for same in (-student, 40 * student, student[:, [2, 0, 1]], student.repeat(1, 4, 1, 1)):
        assert loss(same, teacher).item() == pytest.approx(expected, abs=1e-12)
        assert loss(same, student).item() == pytest.approx(0, abs=1e-12)


def test_a_sample_of_zeros_costs_the_teachers_attention_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = torch.zeros(1, 3, 4, 4, requires_grad=True), torch.randn(1, 3, 4, 4)
    value = AttentionTransferLoss()(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(1 / 16)
    assert student.grad is not None and student.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    (
        ((2, 3, 4, 4), (1, 5, 4, 4), "same batch"),
        ((2, 3, 4, 4), (2, 5, 4, 4, 4), "spatial axes"),
        ((2, 3), (2, 5), "spatial axes"),
    ),
)
def test_maps_that_do_not_fit_are_refused(student: tuple[int, ...], teacher: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        AttentionTransferLoss()(torch.zeros(student), torch.zeros(teacher))
