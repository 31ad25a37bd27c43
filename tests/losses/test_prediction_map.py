from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses import PredictionMapLoss


def slow_pmd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    total, pixels = torch.zeros((), dtype=torch.float64), 0
    for b in range(student.shape[0]):
        for position in np.ndindex(*student.shape[2:]):
            s = [student[(b, c, *position)] / temperature for c in range(student.shape[1])]
            t = [teacher[(b, c, *position)] / temperature for c in range(teacher.shape[1])]
            s, t = ([0 * s[0], *s] if len(s) == 1 else s), ([0 * t[0], *t] if len(t) == 1 else t)
            p = [x.exp() / sum(y.exp() for y in t) for x in t]
            q = [x.exp() / sum(y.exp() for y in s) for x in s]
            total = total + sum(a * (a / b_).log() for a, b_ in zip(p, q, strict=True))
            pixels += 1
    return temperature**2 * total / pixels


@pytest.mark.parametrize(("of_student", "of_teacher"), ((1, 1), (1, 2), (2, 1), (2, 2), (5, 5)))
@pytest.mark.parametrize("temperature", (1.0, 4.0))
@pytest.mark.parametrize("size", ((7,), (5, 4), (3, 2, 4)))
def test_equals_slow_loops(
    agree: Callable[..., None], of_student: int, of_teacher: int, temperature: float, size: tuple[int, ...]
) -> None:
    torch.manual_seed(of_student)
    student = 5 * torch.randn(3, of_student, *size, dtype=torch.float64)
    teacher = 5 * torch.randn(3, of_teacher, *size, dtype=torch.float64)
    agree(PredictionMapLoss(temperature), lambda s, t: slow_pmd(s, t, temperature), student, teacher)


@pytest.mark.parametrize("temperature", (1.0, 2.0))
def test_by_hand(temperature: float) -> None:
    # Teacher 3/4 foreground, student 1/2, whatever the temperature divides by.
    teacher = torch.full((1, 1, 2, 2), temperature * math.log(3))
    value = PredictionMapLoss(temperature)(torch.zeros(1, 1, 2, 2), teacher)
    assert value.item() == pytest.approx(temperature**2 * (0.75 * math.log(1.5) - 0.25 * math.log(2)), rel=1e-6)


@pytest.mark.parametrize("classes", (1, 2, 5))
def test_a_student_equal_to_its_teacher_costs_nothing(classes: int) -> None:
    logits = 10 * torch.randn(2, classes, 6, 6)
    assert PredictionMapLoss()(logits, logits).item() == 0


def test_one_logit_and_two_classes_are_the_same() -> None:
    student, teacher = (torch.randn(2, 2, 4, 4, dtype=torch.float64) for _ in range(2))
    student_z, teacher_z = (logits[:, 1:] - logits[:, :1] for logits in (student, teacher))
    loss = PredictionMapLoss()
    expected = loss(student, teacher).item()
    for pair in ((student_z, teacher), (student, teacher_z), (student_z, teacher_z)):
        assert loss(*pair).item() == pytest.approx(expected, abs=1e-12)


def test_one_logit_gradient_is_the_difference_of_the_tempered_probabilities() -> None:
    student = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    PredictionMapLoss(4.0)(student, teacher).backward()
    expected = 4.0 * (torch.sigmoid(student / 4) - torch.sigmoid(teacher / 4)) / 32
    assert student.grad is not None and student.grad.abs().min() > 0
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
@pytest.mark.parametrize("classes", (1, 2, 3))
def test_extreme_logits_are_finite(dtype: torch.dtype, classes: int) -> None:
    pattern = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    student = pattern.repeat(2, classes, 1, 1).to(dtype)
    student[:, -1] *= -1
    student.requires_grad_()
    value = PredictionMapLoss()(student, pattern.T.flip(0).repeat(2, classes, 1, 1).to(dtype))
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_larger_teacher_is_averaged_and_smaller_one_interpolated() -> None:
    loss = PredictionMapLoss()
    teacher = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    student = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    blocks = torch.stack([teacher[0, 0, i : i + 4, j : j + 4].mean() for i in (0, 4) for j in (0, 4)])
    assert loss(student, teacher).item() == pytest.approx(loss(student, blocks.reshape(1, 1, 2, 2)).item(), abs=1e-12)
    teacher = torch.tensor([[[0.0, 8.0]]], dtype=torch.float64)
    student = torch.randn(1, 1, 4, dtype=torch.float64)
    by_hand = torch.tensor([[[0.0, 2.0, 6.0, 8.0]]], dtype=torch.float64)
    assert loss(student, teacher).item() == pytest.approx(loss(student, by_hand).item(), abs=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    (
        ((2, 3, 4, 4), (2, 5, 4, 4), "as many outputs as the teacher"),
        ((2, 1, 4, 4), (2, 3, 4, 4), "as many outputs as the teacher"),
        ((2, 1, 4, 4), (3, 1, 4, 4), "same batch"),
        ((2, 1, 4, 4), (2, 1, 4, 4, 4), "spatial axes"),
    ),
)
def test_pairs_that_do_not_correspond_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        PredictionMapLoss()(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize("temperature", (0.0, -1.0))
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature"):
        PredictionMapLoss(temperature)
