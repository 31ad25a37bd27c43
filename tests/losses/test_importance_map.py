from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.importance_map import ImportanceMapLoss, importance_map
from medkd.losses.maps import resize_to_grid

SIZES = (
    ((2, 3, 6), (2, 3, 6)),
    ((2, 3, 3, 4), (2, 5, 3, 4)),
    ((2, 3, 6, 2), (2, 1, 3, 4)),
    ((2, 2, 2, 3, 2), (2, 3, 2, 3, 2)),
    ((2, 2, 4, 1, 2), (2, 3, 2, 3, 2)),
)


def slow_importance(sample: Tensor, exponent: int) -> list[Tensor]:
    importance = []
    for position in np.ndindex(*sample.shape[1:]):
        importance.append(sum(abs(sample[(c, *position)]) ** exponent for c in range(len(sample))))
    length = sum(value * value for value in importance) ** 0.5
    return [value / length for value in importance]


def slow_imd(student: Tensor, teacher: Tensor, exponent: int, norm: str) -> Tensor:
    student = resize_to_grid(student, teacher.shape[2:])
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(student)):
        pairs = zip(slow_importance(student[b], exponent), slow_importance(teacher[b], exponent), strict=True)
        for of_student, of_teacher in pairs:
            difference = of_student - of_teacher
            total = total + (abs(difference) if norm == "l1" else difference * difference)
    return total / len(student)


@pytest.mark.parametrize(("of_student", "of_teacher"), SIZES)
@pytest.mark.parametrize("exponent", (1, 2, 3, 4))
@pytest.mark.parametrize("norm", ("l1", "mse"))
def test_equals_slow_loops(
    agree: Callable[..., None], of_student: tuple[int, ...], of_teacher: tuple[int, ...], exponent: int, norm: str
) -> None:
    torch.manual_seed(0)
    student = torch.randn(of_student, dtype=torch.float64)
    teacher = torch.randn(of_teacher, dtype=torch.float64)
    agree(ImportanceMapLoss(exponent, norm), lambda s, t: slow_imd(s, t, exponent, norm), student, teacher)


@pytest.mark.parametrize(
    ("exponent", "strong"),
    # The powers of the channels are 3 at the first position and 4 at the second: 3/5 and 4/5 of the length.
    (
        (1, [[1.0, 4.0], [-2.0, 0.0]]),
        (2, [[1.0, 2.0], [-1.0, 0.0], [1.0, 0.0]]),
        (4, [[1.0, math.sqrt(2)], [-1.0, 0.0], [1.0, 0.0]]),
    ),
)
@pytest.mark.parametrize(("norm", "expected"), (("l1", 0.4), ("mse", 0.08)))
def test_by_hand(exponent: int, strong: list[list[float]], norm: str, expected: float) -> None:
    student = torch.tensor([strong], dtype=torch.float64)
    value = ImportanceMapLoss(exponent, norm)(student, student.flip(2))
    assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("norm", ("l1", "mse"))
def test_maps_that_share_no_important_position_cost_two_per_sample(norm: str) -> None:
    student, teacher = torch.zeros(3, 2, 4, 4), torch.zeros(3, 5, 4, 4)
    student[:, 1, 0, 2], teacher[:, 3, 2, 1] = -7.0, 0.5
    assert ImportanceMapLoss(norm=norm)(student, teacher).item() == pytest.approx(2)


def test_paper_and_public_code_are_the_two_forms_of_emkd() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    assert ImportanceMapLoss()(student, teacher) == ImportanceMapLoss(2, "l1")(student, teacher)
    published = [m.pow(4).mean(dim=1).flatten(1) for m in (student, teacher)]
    published = [m / m.norm(dim=1, keepdim=True) for m in published]
    expected = (published[0] - published[1]).pow(2).sum() / 2
    assert ImportanceMapLoss(4, "mse")(student, teacher).item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("exponent", (1, 2, 4))
@pytest.mark.parametrize("norm", ("l1", "mse"))
def test_scale_sign_and_number_of_channels_do_not_matter(exponent: int, norm: str) -> None:
    torch.manual_seed(0)
    loss = ImportanceMapLoss(exponent, norm)
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = loss(student, teacher).item()
    scales = torch.tensor([1e-3, 40.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    for same in (-student, scales * student, student[:, [2, 0, 1]], student.repeat(1, 4, 1, 1)):
        assert loss(same, teacher).item() == pytest.approx(expected, abs=1e-12)
        assert loss(teacher, same).item() == pytest.approx(expected, abs=1e-12)
        assert loss(same, student).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("exponent", (1, 2, 3, 4))
def test_positions_of_zeros_leave_the_gradient_finite(agree: Callable[..., None], exponent: int) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 3, 4, dtype=torch.float64), torch.randn(2, 3, 3, 4, dtype=torch.float64)
    student = student.relu()
    student[:, :, 1, 2] = 0
    agree(ImportanceMapLoss(exponent), lambda s, t: slow_imd(s, t, exponent, "l1"), student, teacher)


@pytest.mark.parametrize("exponent", (1, 2, 3, 4))
@pytest.mark.parametrize("level", (0.0, 1e-12))
def test_a_sample_of_zeros_has_no_importance_and_gets_no_gradient(exponent: int, level: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    student[0] = level
    student.requires_grad_()
    assert importance_map(student, exponent)[0].abs().max() == 0
    assert importance_map(student, exponent)[1].norm().item() == pytest.approx(1, abs=1e-6)
    value = ImportanceMapLoss(exponent)(student, teacher)
    value.backward()
    alone = ImportanceMapLoss(exponent)(student[1:], teacher[1:]) + importance_map(teacher[:1], exponent).sum()
    assert value.item() == pytest.approx(alone.item() / 2, rel=1e-5)
    assert student.grad is not None and student.grad[0].abs().max() == 0 < student.grad[1].abs().max()


@pytest.mark.parametrize(("dtype", "scale"), ((torch.float16, 1e4), (torch.float32, 1e4), (torch.float32, 1e-4)))
@pytest.mark.parametrize("exponent", (2, 4))
def test_extreme_scales_neither_overflow_nor_vanish(dtype: torch.dtype, scale: float, exponent: int) -> None:
    torch.manual_seed(0)
    student, teacher = (scale * torch.randn(2, 64, 4, 4)).to(dtype), (scale * torch.randn(2, 64, 4, 4)).to(dtype)
    loss = ImportanceMapLoss(exponent)
    expected = loss(student.double(), teacher.double()).item()
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
        ImportanceMapLoss()(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize(
    ("exponent", "norm", "words"),
    ((0, "l1", "exponent is 0"), (-2, "mse", "exponent is -2"), (2, "l2", "norm is 'l2'.*l1, mse")),
)
def test_arguments_without_a_meaning_are_refused(exponent: int, norm: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        ImportanceMapLoss(exponent, norm)
