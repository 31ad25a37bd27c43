from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses import ContrastiveFeatureLoss


def slow_projector(projector: nn.Sequential, vector: Tensor) -> list[Tensor]:
    first, last = ([p.detach() for p in projector[i].parameters()] for i in (0, 2))
    hidden = [b + sum(w * v for w, v in zip(ws, vector, strict=True)) for ws, b in zip(*first, strict=True)]
    hidden = [0 * h if h < 0 else h for h in hidden]
    output = [b + sum(w * h for w, h in zip(ws, hidden, strict=True)) for ws, b in zip(*last, strict=True)]
    length = sum(x * x for x in output).sqrt()
    return [x / length for x in output]


def slow_loss(
    loss: ContrastiveFeatureLoss, student: list[Tensor], teacher: list[Tensor], labels: list[int], tau: float
) -> Tensor:
    """Labels all different: unsupervised."""
    s = [slow_projector(loss.student_projector, vector) for vector in student]
    t = [slow_projector(loss.teacher_projector, vector) for vector in teacher]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(s)):
        scores = [(sum(a * b for a, b in zip(s[i], other, strict=True)) / tau).exp() for other in t]
        positives = [j for j in range(len(t)) if labels[j] == labels[i]]
        of_all = sum(scores)
        total = total - sum((scores[j] / of_all).log() for j in positives) / len(positives)
    return total / len(s)


def cell(i: int, length: int, cells: int) -> slice:
    return slice(i * length // cells, -(-(i + 1) * length // cells))


def slow_cells(maps: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    height, width = maps.shape[2:]
    return [
        maps[b, :, cell(i, height, grid[0]), cell(j, width, grid[1])].mean(dim=(1, 2))
        for b in range(len(maps))
        for i in range(grid[0])
        for j in range(grid[1])
    ]


def slow_majority(label: Tensor, grid: tuple[int, int]) -> list[int]:
    one_hot = torch.cat([label == c for c in range(int(label.max()) + 1)], dim=1).double()
    return [int(fractions.argmax()) for fractions in slow_cells(one_hot, grid)]


def slow_regions(maps: Tensor, label: Tensor) -> list[Tensor]:
    """Mean of every class of every sample, each cell counted by the class's share of it; in order of sample, class."""
    height, width = maps.shape[2:]
    means = []
    for b in range(len(maps)):
        for c in sorted(set(label[b].flatten().tolist())):
            total, weight = torch.zeros(maps.shape[1], dtype=torch.float64), 0.0
            for i, j in np.ndindex(height, width):
                inside = label[b, 0, cell(i, label.shape[2], height), cell(j, label.shape[3], width)] == c
                share = inside.double().mean()
                total, weight = total + share * maps[b, :, i, j], weight + share
            means.append(total / weight)
    return means


def double_maps(student: tuple[int, int] = (6, 9), teacher: tuple[int, int] = (8, 5)) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    label = torch.randint(0, 3, (3, 1, 12, 18))
    label[1][label[1] == 2] = 0
    return (
        torch.randn(3, 4, *student, dtype=torch.float64),
        torch.randn(3, 5, *teacher, dtype=torch.float64),
        label,
    )


def build(granularity: str, **options: object) -> ContrastiveFeatureLoss:
    torch.manual_seed(1)
    return ContrastiveFeatureLoss(4, 5, granularity, embedding_channels=6, **options).double()  # type: ignore[arg-type]


def test_image_equals_slow_loops(agree: Callable[..., None]) -> None:
    student, teacher, _ = double_maps()
    loss = build("image", temperature=0.3)

    def slow(s: Tensor, t: Tensor) -> Tensor:
        return slow_loss(loss, list(s.mean(dim=(2, 3))), list(t.mean(dim=(2, 3))), [0, 1, 2], 0.3)

    agree(loss, slow, student, teacher)


@pytest.mark.parametrize("supervised", (False, True))
@pytest.mark.parametrize(("grid", "cells"), ((2, (2, 2)), (4, (4, 4)), (8, (6, 5))))
def test_patch_equals_slow_loops(
    agree: Callable[..., None], supervised: bool, grid: int, cells: tuple[int, int]
) -> None:
    student, teacher, label = double_maps()
    loss = build("patch", supervised=supervised, grid=grid)
    labels = slow_majority(label, cells) if supervised else list(range(3 * cells[0] * cells[1]))
    agree(
        lambda s, t: loss(s, t, label),
        lambda s, t: slow_loss(loss, slow_cells(s, cells), slow_cells(t, cells), labels, 0.4),
        student,
        teacher,
    )


@pytest.mark.parametrize("supervised", (False, True))
def test_pixel_equals_slow_loops_when_every_position_is_drawn(agree: Callable[..., None], supervised: bool) -> None:
    student, teacher, label = double_maps()
    loss = build("pixel", supervised=supervised, samples=3 * 6 * 5)
    labels = slow_majority(label, (6, 5)) if supervised else list(range(3 * 6 * 5))
    agree(
        lambda s, t: loss(s, t, label),
        lambda s, t: slow_loss(loss, slow_cells(s, (6, 5)), slow_cells(t, (6, 5)), labels, 0.4),
        student,
        teacher,
    )


@pytest.mark.parametrize("supervised", (False, True))
def test_region_equals_slow_loops_and_skips_absent_classes(agree: Callable[..., None], supervised: bool) -> None:
    student, teacher, label = double_maps((6, 9), (4, 3))
    loss = build("region", supervised=supervised)
    present = [c for b in range(3) for c in sorted(set(label[b].flatten().tolist()))]
    assert present == [0, 1, 2, 0, 1, 0, 1, 2]
    labels = present if supervised else list(range(8))
    agree(
        lambda s, t: loss(s, t, label),
        lambda s, t: slow_loss(loss, slow_regions(s, label), slow_regions(t, label), labels, 0.4),
        student,
        teacher,
    )


def test_region_sees_an_object_smaller_than_a_cell() -> None:
    student = torch.zeros(1, 1, 4, 4)
    student[0, 0, 2, 1] = 7.0
    label = torch.zeros(1, 1, 32, 32, dtype=torch.long)
    label[0, 0, 18, 9] = 1
    vectors = projected(ContrastiveFeatureLoss(1, 1, "region"), student, label)
    torch.testing.assert_close(vectors[1], torch.tensor([7.0]))


@pytest.mark.parametrize("granularity", ("image", "patch", "pixel"))
def test_flat_maps_cost_log_n(granularity: str) -> None:
    loss = ContrastiveFeatureLoss(4, 5, granularity, grid=2, samples=12)
    rows = {"image": 3, "patch": 3 * 2 * 2, "pixel": 12}[granularity]
    assert loss(torch.ones(3, 4, 6, 6), torch.ones(3, 5, 6, 6)).item() == pytest.approx(math.log(rows), abs=1e-5)


def projected(loss: ContrastiveFeatureLoss, maps: Tensor, label: Tensor | None) -> Tensor:
    """What reaches the student's projector, after checking that the teacher's is given the same positions."""
    seen: list[Tensor] = []
    for projector in (loss.student_projector, loss.teacher_projector):
        projector.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    loss(maps, maps, label)
    torch.testing.assert_close(seen[0], seen[1])
    return seen[0]


@pytest.mark.parametrize(
    ("sizes", "samples", "drawn"),
    (
        ((1000, 1000, 48), 90, (30, 30, 30)),
        ((1900, 140, 8), 90, (41, 41, 8)),
        ((2040, 4, 4), 100, (92, 4, 4)),
        ((2048,), 64, (64,)),
        ((1000, 1000, 48), 2, (0, 1, 1)),
    ),
)
def test_pixels_are_drawn_equally_from_the_classes(
    sizes: tuple[int, ...], samples: int, drawn: tuple[int, ...]
) -> None:
    classes = torch.cat([torch.full((size,), float(c)) for c, size in enumerate(sizes)])
    label = classes[torch.randperm(2048)].reshape(2, 1, 32, 32)
    which = projected(ContrastiveFeatureLoss(1, 1, "pixel", samples=samples), label, label).flatten()
    counts = [int((which == c).sum()) for c in range(len(sizes))]
    assert sum(counts) == samples
    if samples > len(sizes):
        assert tuple(counts) == drawn
    else:
        assert counts[-1] == 1


def test_pixels_are_drawn_anew_without_repetition_from_the_global_generator() -> None:
    numbers = torch.arange(512.0).reshape(2, 1, 16, 16)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(7)
        loss = ContrastiveFeatureLoss(1, 1, "pixel", samples=100)
        torch.manual_seed(seed)
        draws.append(projected(loss, numbers, None).flatten().tolist())
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 100
    assert min(draws[0]) < 256 <= max(draws[0])


@pytest.mark.parametrize(
    ("granularity", "supervised"),
    (("image", False), *((name, choice) for name in ("patch", "pixel", "region") for choice in (False, True))),
)
def test_trained_projectors_tell_a_good_student_from_a_random_one(granularity: str, supervised: bool) -> None:
    torch.manual_seed(0)
    loss = ContrastiveFeatureLoss(8, 8, granularity, supervised=supervised, embedding_channels=32, grid=4, samples=64)
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)

    def batch() -> tuple[Tensor, Tensor]:
        label = torch.randint(0, 3, (16, 1, 4, 4))
        maps = torch.randn(16, 8, 4, 4) + 2 * torch.randn(16, 8, 1, 1)
        return maps + 4 * torch.eye(8)[label[:, 0]].movedim(-1, 1), label

    for _ in range(60):
        maps, label = batch()
        optimizer.zero_grad()
        loss(maps, maps, label).backward()
        optimizer.step()
    teacher, label = batch()
    good, random = loss(teacher, teacher, label).item(), loss(batch()[0], teacher, label).item()
    assert good < random - 0.3


def test_small_channels_last_map_from_inference_mode_reaches_the_projector() -> None:
    # Nothing between the tap and the projector copies this map.
    with torch.inference_mode():
        teacher = torch.randn(2, 5, 4, 4).to(memory_format=torch.channels_last)
    loss = ContrastiveFeatureLoss(4, 5)
    loss(torch.randn(2, 4, 4, 4), teacher).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in loss.parameters())


def test_state_holds_both_projectors() -> None:
    names = {name.split(".")[0] for name in ContrastiveFeatureLoss(4, 5).state_dict()}
    assert names == {"student_projector", "teacher_projector"}


def test_batch_of_one_image_is_reported() -> None:
    with pytest.warns(UserWarning, match="larger batch"):
        value = ContrastiveFeatureLoss(4, 5, "image")(torch.randn(1, 4, 6, 6), torch.randn(1, 5, 6, 6))
    assert value.item() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"granularity": "voxel"}, "choose one of image, patch, pixel, region"),
        ({"granularity": "image", "supervised": True}, "choose patch, pixel or region"),
        ({"temperature": 0.0}, "temperature"),
        ({"grid": 0}, "grid=0"),
        ({"samples": 0}, "samples=0"),
    ),
)
def test_meaningless_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ContrastiveFeatureLoss(4, 5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("granularity", "supervised"), (("patch", True), ("pixel", True), ("region", False), ("region", True))
)
def test_missing_label_is_refused(granularity: str, supervised: bool) -> None:
    student, teacher, _ = double_maps()
    with pytest.raises(UserError, match="needs the label"):
        build(granularity, supervised=supervised)(student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher", "label", "words"),
    (
        ((2, 3, 6, 6), (2, 5, 6, 6), (2, 1, 6, 6), "student_channels=3"),
        ((2, 4, 6, 6), (2, 4, 6, 6), (2, 1, 6, 6), "teacher_channels=4"),
        ((2, 4, 6, 6), (3, 5, 6, 6), (2, 1, 6, 6), "same batch"),
        ((2, 4, 6, 6), (2, 5, 6, 6, 6), (2, 1, 6, 6), "spatial axes"),
        ((2, 4, 6, 6), (2, 5, 6, 6), (3, 1, 6, 6), "class indices"),
        ((2, 4, 6, 6), (2, 5, 6, 6), (2, 2, 6, 6), "class indices"),
        ((2, 4, 6, 6), (2, 5, 6, 6), (2, 6, 6), "class indices"),
    ),
)
def test_maps_that_do_not_fit_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], label: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        ContrastiveFeatureLoss(4, 5)(torch.zeros(student), torch.zeros(teacher), torch.zeros(label))
