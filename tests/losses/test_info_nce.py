from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses import InfoNCELoss


def slow_info_nce(student: Tensor, teacher: Tensor, temperature: float, labels: list[int]) -> Tensor:
    """Labels all different: the unsupervised loss."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / sum(x * x for x in a).sqrt() / sum(y * y for y in b).sqrt()

    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(student):
        scores = [(cosine(row, other) / temperature).exp() for other in teacher]
        positives = [j for j in range(len(labels)) if labels[j] == labels[i]]
        total = total + sum(-(scores[j] / sum(scores)).log() for j in positives) / len(positives)
    return total / len(student)


@pytest.mark.parametrize("temperature", (0.07, 0.4, 2.0))
@pytest.mark.parametrize("labels", (None, [0, 1, 0, 2, 2, 0], [3, 3, 3, 3, 3, 3]))
def test_equals_slow_loops(agree: Callable[..., None], temperature: float, labels: list[int] | None) -> None:
    torch.manual_seed(0)
    student, teacher = (3 * torch.randn(6, 4, dtype=torch.float64) for _ in range(2))
    classes = None if labels is None else torch.tensor(labels)
    agree(
        lambda s, t: InfoNCELoss(temperature)(s, t, classes),
        lambda s, t: slow_info_nce(s, t, temperature, labels or list(range(6))),
        student,
        teacher,
    )


@pytest.mark.parametrize("rows", (1, 5, 20))
@pytest.mark.parametrize("supervised", (False, True))
def test_identical_embeddings_cost_log_n(rows: int, supervised: bool) -> None:
    embeddings = torch.randn(1, 8, dtype=torch.float64).expand(rows, -1)
    value = InfoNCELoss()(embeddings, embeddings, torch.arange(rows) % 2 if supervised else None)
    assert value.item() == pytest.approx(math.log(rows), abs=1e-9)


def test_orthogonal_embeddings_by_hand() -> None:
    embeddings = torch.diag(torch.tensor([2.0, 5.0], dtype=torch.float64))
    value = InfoNCELoss(temperature=0.5)(embeddings, embeddings)
    assert value.item() == pytest.approx(-math.log(math.e**2 / (math.e**2 + 1)), abs=1e-12)


def test_classes_of_one_row_each_are_the_unsupervised_loss() -> None:
    student, teacher = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    alone = InfoNCELoss()(student, teacher, torch.tensor([4, 0, 7, 1, 2]))
    assert alone.item() == pytest.approx(InfoNCELoss()(student, teacher).item(), abs=1e-12)


def test_gradient_reaches_both_sides_since_both_are_projected() -> None:
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    InfoNCELoss()(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() > 0
    assert teacher.grad is not None and teacher.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_zero_and_huge_embeddings_are_finite(dtype: torch.dtype) -> None:
    student = torch.tensor([[0.0, 0.0], [6e4, -6e4], [1.0, 1.0]]).to(dtype).requires_grad_()
    value = InfoNCELoss(temperature=0.01)(student, torch.eye(3, 2).to(dtype))
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None and torch.isfinite(student.grad).all()
    assert student.grad[0].abs().max() == 0


@pytest.mark.parametrize(
    ("student", "teacher", "labels", "words"),
    (
        ((4, 3), (5, 3), None, "same shape"),
        ((4, 3), (4, 2), None, "same shape"),
        ((4, 3, 2), (4, 3, 2), None, "same shape"),
        ((0, 3), (0, 3), None, "N > 0"),
        ((4, 3), (4, 3), 5, "one per embedding"),
    ),
)
def test_wrong_shapes_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], labels: int | None, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        InfoNCELoss()(torch.zeros(student), torch.zeros(teacher), None if labels is None else torch.zeros(labels))


def test_temperature_must_be_positive() -> None:
    with pytest.raises(UserError, match="temperature"):
        InfoNCELoss(0.0)
