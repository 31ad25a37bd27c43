from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.similarity_preserving import SimilarityPreservingLoss


def slow_similarities(maps: Tensor) -> list[list[Tensor]]:
    rows = []
    for i in range(len(maps)):
        row = []
        for j in range(len(maps)):
            row.append(sum(maps[(i, *place)] * maps[(j, *place)] for place in np.ndindex(*maps.shape[1:])))
        length = sum(value * value for value in row) ** 0.5
        rows.append([value / length if length > 0 else torch.zeros_like(value) for value in row])
    return rows


def slow_spkd(student: Tensor, teacher: Tensor) -> Tensor:
    of_student, of_teacher = slow_similarities(student), slow_similarities(teacher)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(student)):
        for j in range(len(student)):
            total = total + (of_teacher[i][j] - of_student[i][j]) ** 2
    return total / len(student) ** 2


@pytest.mark.parametrize(
    ("of_student", "of_teacher"),
    (
        ((4, 3, 6), (4, 3, 6)),
        ((3, 3, 3, 4), (3, 5, 3, 4)),
        ((4, 3, 6, 2), (4, 1, 3, 4)),
        ((3, 2, 2, 3, 2), (3, 3, 2, 3, 2)),
        ((2, 2, 4, 1, 2), (2, 3, 2, 3, 2)),
    ),
)
def test_equals_slow_loops(
    agree: Callable[..., None], of_student: tuple[int, ...], of_teacher: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    student = torch.randn(of_student, dtype=torch.float64)
    teacher = torch.randn(of_teacher, dtype=torch.float64)
    agree(SimilarityPreservingLoss(), slow_spkd, student, teacher)


@pytest.mark.parametrize("side", ("student", "teacher", "both"))
def test_memory_order_does_not_matter(agree: Callable[..., None], side: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 3, 2, 4, dtype=torch.float64), torch.randn(3, 2, 4, 3, dtype=torch.float64)
    if side != "teacher":
        student = student.to(memory_format=torch.channels_last)
    if side != "student":
        teacher = teacher.to(memory_format=torch.channels_last)
    agree(SimilarityPreservingLoss(), slow_spkd, student, teacher)


def test_by_hand() -> None:
    # Orthogonal samples have the rows (1, 0) and (0, 1), equal ones (1, 1) / sqrt(2).
    orthogonal = torch.tensor([[[3.0, 0.0]], [[0.0, 5.0]]], dtype=torch.float64)
    equal = torch.tensor([[[0.1, 0.2, -0.4]]], dtype=torch.float64).repeat(2, 1, 1)
    assert SimilarityPreservingLoss()(orthogonal, equal).item() == pytest.approx((2 - math.sqrt(2)) / 2, abs=1e-12)


def test_scale_and_arrangement_of_the_features_do_not_matter() -> None:
    torch.manual_seed(0)
    loss = SimilarityPreservingLoss()
    student, teacher = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    expected = loss(student, teacher).item()
    for same in (-student, 1e-3 * student, student.flip(1, 2, 3), student.transpose(2, 3), student.repeat(1, 1, 2, 1)):
        assert loss(same, teacher).item() == pytest.approx(expected, abs=1e-12)
        assert loss(same, student).item() == pytest.approx(0, abs=1e-12)
    assert loss(student.flip(0), teacher.flip(0)).item() == pytest.approx(expected, abs=1e-12)
    assert loss(student.flip(0), teacher).item() != pytest.approx(expected, abs=1e-6)


def test_a_batch_of_one_costs_nothing() -> None:
    student = torch.randn(1, 2, 4, 4, requires_grad=True)
    value = SimilarityPreservingLoss()(student, torch.randn(1, 5, 4, 4))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_a_sample_of_zeros_is_a_row_of_zeros(agree: Callable[..., None]) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 2, 2, 3, dtype=torch.float64), torch.randn(3, 2, 2, 3, dtype=torch.float64)
    student[1] = 0
    agree(SimilarityPreservingLoss(), slow_spkd, student, teacher)
    teacher[0] = 0
    agree(SimilarityPreservingLoss(), slow_spkd, student, teacher)
    # One of the teacher's three rows of length 1 is left against zeros.
    teacher[1] = 0
    assert SimilarityPreservingLoss()(torch.zeros_like(student), teacher).item() == pytest.approx(1 / 9, abs=1e-12)


@pytest.mark.parametrize(("dtype", "scale"), ((torch.float16, 1e4), (torch.float32, 1e12), (torch.float32, 1e-6)))
def test_extreme_scales_neither_overflow_nor_vanish(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    student, teacher = (scale * torch.randn(3, 64, 8, 8)).to(dtype), (scale * torch.randn(3, 64, 8, 8)).to(dtype)
    loss = SimilarityPreservingLoss()
    student[1] = (student[1] + student[0]) / 2
    expected = loss(student.double(), teacher.double()).item()
    assert expected > 0.05
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)


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
        SimilarityPreservingLoss()(torch.zeros(student), torch.zeros(teacher))
