"""The errors of the public code: what cannot be learnt behind projectors that nobody trains or keeps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses import (
    ContrastiveFeatureLoss,
    FixedProjectorsLoss,
    OneChannelPredictionMapLoss,
    PredictionMapLoss,
    RedrawnProjectorsLoss,
)

BATCH, CHANNELS, TAU, DRAWS = 20, 32, 0.4, 200


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def maps(batch: int = BATCH) -> Tensor:
    return torch.randn(batch, CHANNELS, 2, 2)


def build(kind: type[ContrastiveFeatureLoss]) -> ContrastiveFeatureLoss:
    """As published: whole images, tau 0.4."""
    return kind(CHANNELS, CHANNELS, "image", TAU)


def expected(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> float:
    with torch.no_grad():
        return sum(loss(student, teacher).item() for _ in range(DRAWS)) / DRAWS


def trained_student(loss: ContrastiveFeatureLoss, teacher: Tensor, steps: int = 100) -> Tensor:
    """The best that features can do: moved freely down the gradient of the loss."""
    student = maps().requires_grad_()
    optimizer = torch.optim.Adam([student], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    return student.detach()


def test_redrawn_projectors_cost_log_b_whatever_the_student_does() -> None:
    teacher = maps()
    loss = build(RedrawnProjectorsLoss)
    students = {"perfect": teacher, "random": maps(), "trained": trained_student(loss, teacher)}
    values = {name: expected(loss, student, teacher) for name, student in students.items()}
    # The standard error of 200 draws is 0.003.
    assert all(math.log(BATCH) - 0.01 < value < math.log(BATCH) + 0.06 for value in values.values()), values


def test_a_student_can_learn_to_suit_fixed_projectors() -> None:
    teacher = maps()
    loss = build(FixedProjectorsLoss)
    assert loss(trained_student(loss, teacher), teacher).item() < math.log(BATCH) - 0.6
    assert loss(teacher, teacher).item() == pytest.approx(math.log(BATCH), abs=0.2), "what is like the teacher does not"


def test_one_fixed_projector_for_both_sides_tells_a_perfect_student_from_a_random_one() -> None:
    teacher, random = maps(), maps()
    loss = build(FixedProjectorsLoss)
    loss.teacher_projector.load_state_dict(loss.student_projector.state_dict())
    assert loss(teacher, teacher).item() < math.log(BATCH) - 0.9 < loss(random, teacher).item() - 0.7


@pytest.mark.parametrize("kind", [FixedProjectorsLoss, RedrawnProjectorsLoss])
def test_projectors_are_kept_but_not_trained(kind: type[ContrastiveFeatureLoss]) -> None:
    loss = build(kind)
    assert set(loss.state_dict()) == set(build(ContrastiveFeatureLoss).state_dict())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    student, teacher = maps().requires_grad_(), maps().requires_grad_()
    loss(student, teacher).backward()
    assert student.grad is not None and student.grad.abs().max() > 0
    assert teacher.grad is None and all(parameter.grad is None for parameter in loss.parameters())


def test_fixed_projectors_come_back_from_the_state() -> None:
    student, teacher = maps(), maps()
    first, other = build(FixedProjectorsLoss), build(FixedProjectorsLoss)
    assert first(student, teacher) == first(student, teacher) != other(student, teacher)
    other.load_state_dict(first.state_dict())
    assert first(student, teacher) == other(student, teacher)


def test_redrawn_projectors_follow_the_global_generator() -> None:
    student, teacher = maps(), maps()
    loss, values = build(RedrawnProjectorsLoss), []
    for seed in (3, None, 3, None):
        if seed is not None:
            torch.manual_seed(seed)
        values.append(loss(student, teacher).item())
    assert values[:2] == values[2:] and values[0] != values[1]


def test_redrawn_projectors_are_those_of_a_new_loss() -> None:
    student, teacher = maps(), maps()
    loss = build(RedrawnProjectorsLoss)
    torch.manual_seed(5)
    value = loss(student, teacher)
    torch.manual_seed(5)
    assert value == build(ContrastiveFeatureLoss)(student, teacher)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("teacher_size", [(8, 8), (4, 5), (16, 12)])
def test_one_channel_is_zero_without_gradient_but_on_the_graph(
    dtype: torch.dtype, teacher_size: tuple[int, int]
) -> None:
    student = (10 * torch.randn(3, 1, 8, 8)).to(dtype).requires_grad_()
    teacher = (10 * torch.randn(3, 1, *teacher_size)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        value = OneChannelPredictionMapLoss()(student, teacher)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    value.backward()
    assert value.shape == () and value.item() == 0
    assert student.grad is not None and not student.grad.any()
    assert teacher.grad is None
    assert PredictionMapLoss()(student, teacher).item() > 0.1, "these maps are different"


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ((2, 2, 4, 4), (2, 2, 4, 4), "use PredictionMapLoss"),
        ((2, 1, 4, 4), (2, 2, 4, 4), "use PredictionMapLoss"),
        ((2, 1, 4, 4), (3, 1, 4, 4), "same batch"),
    ],
)
def test_maps_without_this_error_are_refused(student: tuple[int, ...], teacher: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        OneChannelPredictionMapLoss()(torch.zeros(student), torch.zeros(teacher))
