from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.region_affinity import RegionAffinityLoss

KINDS = tuple((norm, reduction) for norm in ("l1", "mse") for reduction in ("mean", "vector"))


def slow_regions(feature_map: Tensor, label: Tensor, b: int) -> dict[int, list[Tensor]]:
    regions: dict[int, list[list[Tensor]]] = {}
    for position in np.ndindex(*feature_map.shape[2:]):
        sizes = zip(position, label.shape[2:], feature_map.shape[2:], strict=True)
        nearest = tuple(index * of_label // of_map for index, of_label, of_map in sizes)
        vector = [feature_map[(b, c, *position)] for c in range(feature_map.shape[1])]
        regions.setdefault(int(label[(b, 0, *nearest)]), []).append(vector)
    return {
        index: [sum(values) / len(values) for values in zip(*vectors, strict=True)]
        for index, vectors in regions.items()
    }


def slow_cosine(one: list[Tensor], other: list[Tensor]) -> Tensor:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (sum(a * a for a in one) ** 0.5 * sum(b * b for b in other) ** 0.5)


def slow_rad(student: Tensor, teacher: Tensor, label: Tensor, norm: str, reduction: str) -> Tensor:
    total, samples = torch.zeros((), dtype=torch.float64), 0
    for b in range(len(student)):
        of_student, of_teacher = slow_regions(student, label, b), slow_regions(teacher, label, b)
        differences = [
            slow_cosine(of_student[i], of_student[j]) - slow_cosine(of_teacher[i], of_teacher[j])
            for i, j in combinations(sorted(set(of_student) & set(of_teacher)), 2)
        ]
        if not differences:
            continue
        if reduction == "mean":
            differences = [sum(differences) / len(differences)]
        total = total + sum(abs(d) if norm == "l1" else d * d for d in differences)
        samples += 1
    return total / samples


@pytest.mark.parametrize(("norm", "reduction"), KINDS)
@pytest.mark.parametrize(
    ("of_student", "of_teacher", "of_label", "classes"),
    (
        ((3, 4, 3, 4), (3, 4, 3, 4), (3, 4), 2),
        ((3, 2, 4, 6), (3, 5, 2, 3), (8, 6), 4),
        ((2, 3, 3, 2), (2, 2, 5, 4), (5, 4), 3),
        ((2, 3, 2, 3, 2), (2, 4, 4, 3, 1), (4, 3, 2), 5),
    ),
)
def test_equals_slow_loops(
    agree: Callable[..., None],
    of_student: tuple[int, ...],
    of_teacher: tuple[int, ...],
    of_label: tuple[int, ...],
    classes: int,
    norm: str,
    reduction: str,
) -> None:
    torch.manual_seed(0)
    student = torch.randn(of_student, dtype=torch.float64)
    teacher = torch.randn(of_teacher, dtype=torch.float64)
    label = torch.randint(0, classes, (of_student[0], 1, *of_label))
    agree(
        RegionAffinityLoss(norm, reduction),
        lambda s, t, y: slow_rad(s, t, y, norm, reduction),
        student,
        teacher,
        label,
    )


def regions(*vectors: tuple[float, ...]) -> Tensor:
    """A sample with one position, and one class, for every vector."""
    return torch.tensor(vectors, dtype=torch.float64).T[None]


LABEL = torch.arange(3).reshape(1, 1, 3)


@pytest.mark.parametrize(
    ("norm", "reduction", "expected"),
    (("l1", "mean", 1 / 3), ("l1", "vector", 5 / 3), ("mse", "mean", 1 / 9), ("mse", "vector", 1.0 + 2 / 9)),
)
def test_by_hand(norm: str, reduction: str, expected: float) -> None:
    # Cosines of the student 1, 0, 0 and of the teacher 0, 1/3, -1/3, which has other channels.
    student = regions((1, 0), (2, 0), (0, 3))
    third = (1 / 3, -1 / 3, 7**0.5 / 3)
    value = RegionAffinityLoss(norm, reduction)(student, regions((1, 0, 0), (0, 4, 0), third), LABEL)
    assert value.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("norm", "reduction"), KINDS)
def test_scale_and_repeated_channels_do_not_matter(norm: str, reduction: str) -> None:
    torch.manual_seed(0)
    loss = RegionAffinityLoss(norm, reduction)
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    label = torch.randint(0, 3, (2, 1, 4, 4))
    expected = loss(student, teacher, label).item()
    assert expected > 0.01
    for same in (1e-3 * student, -student, student.repeat(1, 2, 1, 1), student.repeat_interleave(2, 3)):
        assert loss(same, teacher, label).item() == pytest.approx(expected, abs=1e-12)
        assert loss(same, student, label).item() == pytest.approx(0, abs=1e-12)


def test_without_background_the_other_classes_are_compared() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    label = torch.randint(0, 2, (2, 1, 4, 4))
    expected = RegionAffinityLoss()(student, teacher, label).item()
    assert RegionAffinityLoss()(student, teacher, label + 6).item() == pytest.approx(expected, abs=1e-7)


def test_a_sample_of_one_class_does_not_count() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 3, 4, 4), torch.randn(3, 5, 4, 4)
    label = torch.randint(0, 2, (3, 1, 4, 4))
    label[1] = 1
    expected = RegionAffinityLoss()(student[[0, 2]], teacher[[0, 2]], label[[0, 2]]).item()
    assert RegionAffinityLoss()(student, teacher, label).item() == pytest.approx(expected, abs=1e-7)


def test_a_class_that_one_grid_lacks_contributes_nothing() -> None:
    torch.manual_seed(0)
    # The teacher's grid has the even columns, the third class only odd ones.
    label = torch.tensor([[[[0, 2, 1, 1], [0, 2, 1, 1]]]])
    student, teacher = torch.randn(1, 3, 2, 4, dtype=torch.float64), torch.randn(1, 5, 2, 2, dtype=torch.float64)
    for reduction in ("mean", "vector"):
        leaf = student.clone().requires_grad_()
        loss = RegionAffinityLoss(reduction=reduction)
        value = loss(leaf, teacher, label)
        (gradient,) = torch.autograd.grad(value, leaf)
        expected = loss(student[..., [0, 2, 3]], teacher, label[..., [0, 2, 3]])
        assert value.item() == pytest.approx(expected.item(), abs=1e-12)
        assert gradient[..., 1].abs().max() == 0
        assert gradient[..., [0, 2, 3]].abs().min() > 0


@pytest.mark.parametrize(("norm", "reduction"), KINDS)
@pytest.mark.parametrize("only", (0, 3))
def test_without_any_pair_the_loss_and_its_gradient_are_zero(norm: str, reduction: str, only: int) -> None:
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = RegionAffinityLoss(norm, reduction)(student, torch.randn(2, 5, 4, 4), torch.full((2, 1, 4, 4), only))
    value.backward()
    assert value.item() == 0
    assert student.grad is not None and student.grad.abs().max() == 0


@pytest.mark.parametrize("level", (0.0, 1e-7))
def test_the_cosine_with_a_zero_vector_is_zero_and_has_no_gradient(level: float) -> None:
    # Cosines of the student 0, 0, 3/5 and of the teacher 1, 0, 0.
    student = regions((level, level), (1, 0), (3, 4)).requires_grad_()
    value = RegionAffinityLoss("l1", "vector")(student, regions((1, 0), (1, 0), (0, 2)), LABEL)
    value.backward()
    assert value.item() == pytest.approx(1.6, abs=1e-12)
    assert student.grad is not None and student.grad[..., 0].abs().max() == 0
    assert student.grad[..., 2].abs().max() > 0.1


@pytest.mark.parametrize(
    ("student", "teacher", "label", "words"),
    (
        ((2, 4, 4, 4), (1, 5, 4, 4), (2, 1, 4, 4), "same batch"),
        ((2, 3, 4, 4), (2, 5, 4, 4, 4), (2, 1, 4, 4), "spatial axes"),
        ((2, 3, 4, 4), (2, 5, 4, 4), (2, 4, 4), "class indices"),
        ((2, 3, 4, 4), (2, 5, 4, 4), (2, 3, 4, 4), "class indices"),
    ),
)
def test_inputs_that_do_not_fit_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], label: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        RegionAffinityLoss()(torch.zeros(student), torch.zeros(teacher), torch.zeros(label))


@pytest.mark.parametrize("argument", ({"norm": "l2"}, {"reduction": "sum"}))
def test_arguments_without_a_meaning_are_refused(argument: dict[str, str]) -> None:
    with pytest.raises(UserError, match="choose one of"):
        RegionAffinityLoss(**argument)
