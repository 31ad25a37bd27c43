from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.local_consistency import LocalConsistencyLoss
from medkd.losses.maps import resize_to_grid

Vectors = dict[tuple[int, ...], list[Tensor]]


def slow_vectors(logits: Tensor, b: int) -> Vectors:
    vectors = {}
    for position in np.ndindex(*logits.shape[2:]):
        vector = [logits[(b, c, *position)] for c in range(logits.shape[1])]
        vectors[position] = [0 * vector[0], *vector] if len(vector) == 1 else vector
    return vectors


def slow_probabilities(vector: list[Tensor]) -> list[Tensor]:
    return [x.exp() / sum(y.exp() for y in vector) for x in vector]


def slow_consistency(vectors: Vectors, position: tuple[int, ...]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for step in product((-1, 0, 1), repeat=len(position)):
        neighbour = tuple(p + s for p, s in zip(position, step, strict=True))
        if any(step) and neighbour in vectors:
            squares = [(x - y) ** 2 for x, y in zip(vectors[position], vectors[neighbour], strict=True)]
            total = total + sum(squares) ** 0.5
    return total


def slow_local(student: Tensor, teacher: Tensor, weight: float) -> Tensor:
    teacher = resize_to_grid(teacher, student.shape[2:])
    total, pixels = torch.zeros((), dtype=torch.float64), 0
    for b in range(len(student)):
        of_student, of_teacher = slow_vectors(student, b), slow_vectors(teacher, b)
        for position in of_student:
            p, q = slow_probabilities(of_student[position]), slow_probabilities(of_teacher[position])
            total = total + sum((x - y) ** 2 for x, y in zip(p, q, strict=True))
            total = total + weight * (
                (slow_consistency(of_student, position) - slow_consistency(of_teacher, position)) ** 2
            )
            pixels += 1
    return total / pixels


@pytest.mark.parametrize(
    ("of_student", "of_teacher"),
    (
        ((2, 1, 5), (2, 1, 5)),
        ((2, 1, 3, 4), (2, 1, 3, 4)),
        ((1, 1, 3, 3), (1, 2, 3, 3)),
        ((1, 2, 3, 3), (1, 1, 3, 3)),
        ((2, 3, 4, 3), (2, 3, 2, 6)),
        ((1, 1, 3, 2, 3), (1, 1, 3, 2, 3)),
        ((1, 4, 2, 3, 2), (1, 4, 4, 3, 1)),
    ),
)
@pytest.mark.parametrize("weight", (0.0, 0.3, 1.0))
def test_equals_slow_loops(
    agree: Callable[..., None], of_student: tuple[int, ...], of_teacher: tuple[int, ...], weight: float
) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(of_student, dtype=torch.float64), torch.randn(of_teacher, dtype=torch.float64)
    agree(LocalConsistencyLoss(weight), lambda s, t: slow_local(s, t, weight), student, teacher)


@pytest.mark.parametrize("weight", (0.0, 1.0, 2.0))
def test_by_hand(weight: float) -> None:
    # In a square of four all are neighbours: 3 * 3 for the one that differs, 3 for each of the others.
    student = torch.tensor([[[[0.0, math.log(3)], [0.0, 0.0]]]], dtype=torch.float64)
    value = LocalConsistencyLoss(weight)(student, torch.zeros(1, 1, 2, 2, dtype=torch.float64))
    expected = (2 * 0.25**2 + weight * (3**2 + 1 + 1 + 1) * math.log(3) ** 2) / 4
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_a_voxel_has_26_neighbours_and_those_outside_do_not_count() -> None:
    logits = torch.zeros(1, 1, 5, 5, 5, dtype=torch.float64)
    inside, corner = logits.clone(), logits.clone()
    inside[0, 0, 2, 2, 2] = corner[0, 0, 4, 0, 4] = 2.0
    loss, without = LocalConsistencyLoss(), LocalConsistencyLoss(0.0)
    for student, neighbours in ((inside, 26), (corner, 7)):
        value = loss(student, logits) - without(student, logits)
        assert value.item() == pytest.approx(4 * (neighbours**2 + neighbours) / 125, abs=1e-12)


@pytest.mark.parametrize("classes", (1, 3))
def test_a_student_equal_to_its_teacher_costs_nothing_and_gets_no_gradient(classes: int) -> None:
    student = torch.randn(2, classes, 6, 6, requires_grad=True)
    value = LocalConsistencyLoss()(student, student)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None and student.grad.abs().max() == 0


def test_one_number_added_to_all_logits_changes_nothing() -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(2))
    expected = LocalConsistencyLoss()(student, teacher).item()
    assert LocalConsistencyLoss()(student + 7, teacher - 5).item() == pytest.approx(expected, abs=1e-9)


def test_equal_neighbours_have_no_gradient_towards_each_other() -> None:
    # Flat but for one edge: only the pixels at the edge have a direction in which to part.
    student = torch.zeros(1, 2, 4, 6, dtype=torch.float64)
    student[:, 1, :, 3:] = 1.0
    student.requires_grad_()
    teacher = 2 * student.detach()
    gradients = []
    for weight in (1.0, 0.0):
        (gradient,) = torch.autograd.grad(LocalConsistencyLoss(weight)(student, teacher), student)
        gradients.append(gradient)
    difference = gradients[0] - gradients[1]
    assert difference[..., [0, 1, 4, 5]].abs().max() == 0
    assert difference[:, 1, :, [2, 3]].abs().min() > 0


@pytest.mark.parametrize("classes", (1, 3))
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_extreme_logits_are_finite(classes: int, dtype: torch.dtype) -> None:
    pattern = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    student = pattern.repeat(2, classes, 1, 1).to(dtype).requires_grad_()
    value = LocalConsistencyLoss(1e-6)(student, torch.zeros_like(student))
    value.backward()
    assert torch.isfinite(value)
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
        LocalConsistencyLoss()(torch.zeros(student), torch.zeros(teacher))


def test_the_weight_must_not_be_negative() -> None:
    with pytest.raises(UserError, match="consistency_weight"):
        LocalConsistencyLoss(-0.5)
