from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.maps import resize_to_grid
from medkd.losses.pixelwise_soft_target import PixelwiseSoftTargetLoss
from medkd.losses.prediction_map import PredictionMapLoss


def slow_probabilities(logits: Tensor, pixel: tuple[int, ...], temperature: float) -> list[Tensor]:
    b, *position = pixel
    vector = [logits[(b, c, *position)] / temperature for c in range(logits.shape[1])]
    if len(vector) == 1:
        vector = [0 * vector[0], *vector]
    return [x.exp() / sum(y.exp() for y in vector) for x in vector]


def slow_soft_target(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    teacher = resize_to_grid(teacher, student.shape[2:])
    total, pixels = torch.zeros((), dtype=torch.float64), 0
    for pixel in np.ndindex(student.shape[0], *student.shape[2:]):
        p, q = (slow_probabilities(logits, pixel, temperature) for logits in (teacher, student))
        total = total - sum(a * b.log() for a, b in zip(p, q, strict=True))
        pixels += 1
    return temperature**2 * total / pixels


@pytest.mark.parametrize(
    ("of_student", "of_teacher"),
    (
        ((2, 1, 6), (2, 1, 6)),
        ((3, 1, 3, 4), (3, 1, 3, 4)),
        ((2, 1, 3, 4), (2, 2, 3, 4)),
        ((2, 2, 3, 4), (2, 1, 3, 4)),
        ((2, 5, 4, 2), (2, 5, 2, 6)),
        ((2, 1, 2, 3, 2), (2, 1, 4, 3, 1)),
        ((2, 4, 2, 3, 2), (2, 4, 2, 3, 2)),
    ),
)
@pytest.mark.parametrize("temperature", (1.0, 4.0))
def test_equals_slow_loops(
    agree: Callable[..., None], of_student: tuple[int, ...], of_teacher: tuple[int, ...], temperature: float
) -> None:
    torch.manual_seed(0)
    student, teacher = (3 * torch.randn(size, dtype=torch.float64) for size in (of_student, of_teacher))
    agree(PixelwiseSoftTargetLoss(temperature), lambda s, t: slow_soft_target(s, t, temperature), student, teacher)


@pytest.mark.parametrize("temperature", (1.0, 2.0))
def test_by_hand(temperature: float) -> None:
    # Teacher 1/4 foreground, student 2/3, whatever the temperature divides by.
    student = torch.full((1, 1, 2, 2), temperature * math.log(2))
    teacher = torch.full((1, 1, 2, 2), -temperature * math.log(3))
    value = PixelwiseSoftTargetLoss(temperature)(student, teacher)
    assert value.item() == pytest.approx(temperature**2 * (0.75 * math.log(3) - 0.25 * math.log(2 / 3)), rel=1e-6)


@pytest.mark.parametrize("classes", (1, 2, 5))
@pytest.mark.parametrize("temperature", (1.0, 3.0))
def test_the_least_value_is_the_entropy_of_the_teacher(classes: int, temperature: float) -> None:
    torch.manual_seed(0)
    loss, divergence = PixelwiseSoftTargetLoss(temperature), PredictionMapLoss(temperature)
    student, teacher = (torch.randn(2, classes, 4, 4, dtype=torch.float64) for _ in range(2))
    logits = torch.cat([torch.zeros_like(teacher), teacher], dim=1) if classes == 1 else teacher
    entropy = torch.distributions.Categorical(logits=logits.movedim(1, -1) / temperature).entropy().mean()
    assert loss(teacher, teacher).item() == pytest.approx(temperature**2 * entropy.item(), abs=1e-12)
    excess = loss(student, teacher) - loss(teacher, teacher)
    assert excess.item() == pytest.approx(divergence(student, teacher).item(), abs=1e-12)
    assert excess > 0.01


def test_a_student_equal_to_its_teacher_gets_no_gradient() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    PixelwiseSoftTargetLoss()(student, student).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-15


def test_the_batch_does_not_count() -> None:
    student, teacher = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    expected = PixelwiseSoftTargetLoss()(student, teacher).item()
    four = PixelwiseSoftTargetLoss()(student.repeat(4, 1, 1, 1), teacher.repeat(4, 1, 1, 1))
    assert four.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
@pytest.mark.parametrize("classes", (1, 2, 3))
def test_extreme_logits_are_finite(dtype: torch.dtype, classes: int) -> None:
    pattern = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    student = pattern.repeat(2, classes, 1, 1).to(dtype)
    student[:, -1] *= -1
    student.requires_grad_()
    value = PixelwiseSoftTargetLoss()(student, pattern.repeat(2, classes, 1, 1).to(dtype))
    value.backward()
    assert torch.isfinite(value) and value > 1e3
    assert student.grad is not None and torch.isfinite(student.grad).all()


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
        PixelwiseSoftTargetLoss()(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize("temperature", (0.0, -1.0))
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature"):
        PixelwiseSoftTargetLoss(temperature)
