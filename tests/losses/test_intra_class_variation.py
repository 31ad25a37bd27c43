from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.intra_class_variation import IntraClassVariationLoss
from medkd.losses.maps import resize_to_grid


def slow_variation(sample: Tensor, labels: dict[tuple[int, ...], int]) -> dict[tuple[int, ...], Tensor]:
    channels = range(len(sample))
    variation = {}
    for position, index in labels.items():
        members = [other for other, of_other in labels.items() if of_other == index]
        mean = [sum(sample[(c, *other)] for other in members) / len(members) for c in channels]
        product = sum(sample[(c, *position)] * mean[c] for c in channels)
        length = sum(sample[(c, *position)] ** 2 for c in channels) ** 0.5
        variation[position] = product / (length * sum(value**2 for value in mean) ** 0.5)
    return variation


def slow_ifvd(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    grid = teacher.shape[2:]
    student = resize_to_grid(student, grid)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for b in range(len(student)):
        labels = {}
        for position in np.ndindex(*grid):
            nearest = tuple(i * n // m for i, n, m in zip(position, label.shape[2:], grid, strict=True))
            labels[position] = int(label[(b, 0, *nearest)])
        of_student, of_teacher = slow_variation(student[b], labels), slow_variation(teacher[b], labels)
        for position in labels:
            total = total + (of_student[position] - of_teacher[position]) ** 2
            count += 1
    return total / count


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize(
    ("of_student", "of_teacher", "of_label", "classes"),
    (
        ((2, 3, 3, 4), (2, 3, 3, 4), (3, 4), 2),
        ((2, 3, 6, 2), (2, 4, 3, 4), (6, 8), 4),
        ((2, 2, 2, 3, 2), (2, 3, 2, 3, 2), (2, 3, 2), 2),
        ((2, 4, 4, 1, 2), (2, 3, 2, 3, 2), (4, 3, 2), 5),
    ),
)
def test_equals_slow_loops(
    agree: Callable[..., None],
    of_student: tuple[int, ...],
    of_teacher: tuple[int, ...],
    of_label: tuple[int, ...],
    classes: int,
    channels_last: bool,
) -> None:
    torch.manual_seed(0)
    student = torch.randn(of_student, dtype=torch.float64)
    teacher = torch.randn(of_teacher, dtype=torch.float64)
    label = torch.randint(0, classes, (of_student[0], 1, *of_label))
    if channels_last:
        layout = torch.channels_last if student.ndim == 4 else torch.channels_last_3d
        student, teacher = student.to(memory_format=layout), teacher.to(memory_format=layout)
    agree(IntraClassVariationLoss(), slow_ifvd, student, teacher, label)


def test_by_hand() -> None:
    # Each student vector is 45 degrees off their mean, the teacher's are not.
    student = torch.tensor([[[1.0, 0.0, 5.0], [0.0, 1.0, 7.0]]], dtype=torch.float64)
    teacher = torch.tensor([[[3.0, 1.0, 2.0]]], dtype=torch.float64)
    value = IntraClassVariationLoss()(student, teacher, torch.tensor([[[1, 1, 0]]]))
    assert value.item() == pytest.approx(2 / 3 * (1 - 0.5**0.5) ** 2, abs=1e-12)


def test_what_keeps_the_cosines_costs_nothing() -> None:
    torch.manual_seed(0)
    loss = IntraClassVariationLoss()
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 1, 4, 4))
    expected = loss(student, teacher, label).item()
    assert expected > 0.01
    for same in (1e-3 * student, -student, student[:, [2, 0, 1]], student.repeat(1, 4, 1, 1)):
        assert loss(same, teacher, label).item() == pytest.approx(expected, abs=1e-12)
        assert loss(same, student, label).item() == pytest.approx(0, abs=1e-12)


def test_the_mean_is_that_of_the_same_image_and_class() -> None:
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 1, 6, 6))
    of_class = torch.randn(2, 4, 3, dtype=torch.float64)
    constant = torch.stack([of_class[b][:, label[b, 0]] for b in range(2)])
    # Constant within the classes of each image, whatever lies between them: every cosine is 1.
    assert IntraClassVariationLoss()(constant, torch.ones(2, 1, 6, 6), label).item() == pytest.approx(0, abs=1e-12)
    assert IntraClassVariationLoss()(constant, torch.ones(2, 1, 6, 6), 0 * label).item() > 0.01


def test_a_zero_vector_has_cosine_zero_and_stays_part_of_the_mean() -> None:
    student = torch.tensor([[[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]], requires_grad=True)
    label = torch.zeros(1, 1, 3)
    value = IntraClassVariationLoss()(student, torch.ones(1, 1, 3), label)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx((1 + 2 * (1 - 0.5**0.5) ** 2) / 3, rel=1e-6)
    # By symmetry the mean is not turned, and the zero vector itself has nothing to turn.
    assert gradient[..., 0].abs().max() < 1e-6
    assert gradient[0, 1, 1] < -1e-2 and gradient[0, 0, 2] < -1e-2


@pytest.mark.parametrize("level", (0.0, 1e-7))
def test_a_map_of_zeros_gets_no_gradient(level: float) -> None:
    torch.manual_seed(0)
    student = torch.full((2, 3, 4, 4), level, requires_grad=True)
    value = IntraClassVariationLoss()(student, torch.ones(2, 1, 4, 4), torch.randint(0, 2, (2, 1, 4, 4)))
    value.backward()
    assert value.item() == pytest.approx(1)
    assert student.grad is not None and student.grad.abs().max() == 0


def test_autocast_around_the_backward_pass_does_not_round_the_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 5, 4, 4)
    label = torch.randint(0, 3, (2, 1, 4, 4))
    (expected,) = torch.autograd.grad(IntraClassVariationLoss()(student, teacher, label), student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (gradient,) = torch.autograd.grad(IntraClassVariationLoss()(student, teacher, label), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("student", "teacher", "label", "words"),
    (
        ((2, 4, 4, 4), (1, 5, 4, 4), (2, 1, 4, 4), "same batch"),
        ((2, 3, 4, 4), (2, 5, 4, 4, 4), (2, 1, 4, 4), "spatial axes"),
        ((2, 3, 4, 4), (2, 5, 4, 4), (2, 4, 4), "class indices"),
        ((2, 3, 4, 4), (2, 5, 4, 4), (1, 1, 4, 4), "class indices"),
    ),
)
def test_inputs_that_do_not_fit_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], label: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        IntraClassVariationLoss()(torch.zeros(student), torch.zeros(teacher), torch.zeros(label))
