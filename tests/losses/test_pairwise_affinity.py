from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.maps import resize_to_grid
from medkd.losses.pairwise_affinity import PairwiseAffinityLoss


def slow_nodes(sample: Tensor, pool_scale: float) -> list[list[Tensor]]:
    windows = [max(1, int(length * pool_scale)) for length in sample.shape[1:]]
    counts = [-(-length // window) for length, window in zip(sample.shape[1:], windows, strict=True)]
    nodes = []
    for node in np.ndindex(*counts):
        inside = [
            position
            for position in np.ndindex(*sample.shape[1:])
            if all(p // window == n for p, window, n in zip(position, windows, node, strict=True))
        ]
        vector = [max((sample[(c, *position)] for position in inside), key=Tensor.item) for c in range(len(sample))]
        length = sum(value * value for value in vector) ** 0.5
        nodes.append([value / length if length > 0 else torch.zeros_like(value) for value in vector])
    return nodes


def slow_pa(student: Tensor, teacher: Tensor, pool_scale: float = 0.5) -> Tensor:
    student = resize_to_grid(student, teacher.shape[2:])
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(student)):
        of_student, of_teacher = slow_nodes(student[b], pool_scale), slow_nodes(teacher[b], pool_scale)
        for i in range(len(of_student)):
            for j in range(len(of_student)):
                affinity_s = sum(x * y for x, y in zip(of_student[i], of_student[j], strict=True))
                affinity_t = sum(x * y for x, y in zip(of_teacher[i], of_teacher[j], strict=True))
                total = total + (affinity_t - affinity_s) ** 2 / len(of_student) ** 2
    return total / len(student)


@pytest.mark.parametrize(
    ("of_student", "of_teacher"),
    (
        ((2, 3, 6), (2, 3, 6)),
        ((2, 3, 4, 6), (2, 5, 4, 6)),
        ((1, 3, 5, 3), (1, 2, 5, 3)),
        ((2, 3, 6, 3), (2, 4, 3, 5)),
        ((1, 2, 2, 3, 4), (1, 3, 2, 3, 4)),
        ((1, 2, 4, 1, 2), (1, 3, 2, 2, 4)),
    ),
)
@pytest.mark.parametrize("pool_scale", (0.5, 0.7))
def test_equals_slow_loops(
    agree: Callable[..., None], of_student: tuple[int, ...], of_teacher: tuple[int, ...], pool_scale: float
) -> None:
    torch.manual_seed(0)
    student = torch.randn(of_student, dtype=torch.float64)
    teacher = torch.randn(of_teacher, dtype=torch.float64)
    agree(PairwiseAffinityLoss(pool_scale), lambda s, t: slow_pa(s, t, pool_scale), student, teacher)


@pytest.mark.parametrize("pool_scale", (0.01, 0.3))
def test_nodes_may_be_as_small_as_a_position(agree: Callable[..., None], pool_scale: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 3, 3, 4, dtype=torch.float64), torch.randn(1, 2, 3, 4, dtype=torch.float64)
    agree(PairwiseAffinityLoss(pool_scale), lambda s, t: slow_pa(s, t, pool_scale), student, teacher)


def test_by_hand() -> None:
    # The student's two nodes are (2, 0) and (0, 5), with affinities 1 and 0; the teacher's are (1, 1) and (3, 3).
    student = torch.tensor([[[-1.0, 2.0, 0.0, -3.0], [0.0, -1.0, 4.0, 5.0]]])
    teacher = torch.tensor([[[1.0, 0.0, -1.0, 3.0], [-9.0, 1.0, 3.0, 2.0]]])
    assert PairwiseAffinityLoss()(student, teacher).item() == pytest.approx(0.5)
    # Opposite nodes have affinity -1: two of four affinities differ by 2.
    assert PairwiseAffinityLoss()(torch.tensor([[[1.0, -1.0]]]), torch.ones(1, 3, 2)).item() == pytest.approx(2)


def test_only_the_largest_value_of_a_window_counts() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 6, 4, dtype=torch.float64), torch.randn(2, 3, 6, 4, dtype=torch.float64)
    expected = PairwiseAffinityLoss()(student, teacher).item()
    windows = student.unflatten(3, (2, 2)).unflatten(2, (2, 3))
    largest = windows == windows.amax(dim=(3, 5), keepdim=True)
    lowered = torch.where(largest, windows, windows - 10).flatten(4, 5).flatten(2, 3)
    assert PairwiseAffinityLoss()(lowered, teacher).item() == pytest.approx(expected, abs=1e-12)


def test_length_of_the_nodes_and_rotation_of_the_channels_do_not_matter() -> None:
    torch.manual_seed(0)
    loss = PairwiseAffinityLoss(0.25)
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 5, 4, 4, dtype=torch.float64)
    expected = loss(student, teacher).item()
    lengths = torch.rand(2, 1, 4, 4, dtype=torch.float64) + 0.01
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    for same in (1e-3 * student, lengths * student, torch.einsum("oc,bcij->boij", rotation, student)):
        assert loss(same, teacher).item() == pytest.approx(expected, abs=1e-12)
        assert loss(same, student).item() == pytest.approx(0, abs=1e-12)


def test_gradient_has_no_part_along_a_node() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    PairwiseAffinityLoss()(student, torch.randn(2, 5, 4, 6, dtype=torch.float64)).backward()
    assert student.grad is not None
    products = (student.detach() * student.grad).unflatten(3, (2, 3)).unflatten(2, (2, 2))
    assert products.abs().amax() > 1e-3
    assert products.sum(dim=(1, 3, 5)).abs().max() < 1e-14


def test_a_node_of_zeros_has_no_affinity_and_gets_no_gradient(agree: Callable[..., None]) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    student[:, :, :2, 2:] = 0
    teacher[1, :, 2:, :2] = 0
    agree(PairwiseAffinityLoss(), slow_pa, student, teacher)
    nothing = torch.zeros(1, 3, 4, 4, requires_grad=True)
    value = PairwiseAffinityLoss()(nothing, torch.ones(1, 2, 4, 4))
    value.backward()
    assert value.item() == pytest.approx(1)
    assert nothing.grad is not None and nothing.grad.abs().max() == 0


def test_a_single_node_costs_nothing() -> None:
    value = PairwiseAffinityLoss(1.0)(torch.randn(2, 3, 5, 4), torch.randn(2, 5, 5, 4))
    assert value.item() == pytest.approx(0, abs=1e-12)


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
        PairwiseAffinityLoss()(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize("pool_scale", (0.0, -0.5, 1.5, float("nan")))
def test_windows_that_do_not_fit_the_map_are_refused(pool_scale: float) -> None:
    with pytest.raises(UserError, match="pool_scale"):
        PairwiseAffinityLoss(pool_scale)
