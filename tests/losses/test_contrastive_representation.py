from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.contrastive_representation import ContrastiveRepresentationLoss
from medkd.losses.memory_bank import MemoryBank

SLOTS = 8
TEMPERATURE = 0.3


def build(**options: object) -> ContrastiveRepresentationLoss:
    torch.manual_seed(1)
    defaults = {"num_negatives": 5, "bank_slots": SLOTS, "embedding_channels": 4, "temperature": TEMPERATURE}
    return ContrastiveRepresentationLoss(3, 2, **{**defaults, **options}).double()  # type: ignore[arg-type]


def maps(student: tuple[int, ...] = (3, 3, 4, 2), teacher: tuple[int, ...] = (3, 2, 3, 3)) -> tuple[Tensor, Tensor]:
    return torch.randn(student, dtype=torch.float64), torch.randn(teacher, dtype=torch.float64)


def slow_unit(vector: list[Tensor]) -> list[Tensor]:
    length = sum(x * x for x in vector) ** 0.5
    return [x / length for x in vector]


def slow_means(maps: Tensor) -> list[list[Tensor]]:
    places = list(np.ndindex(*maps.shape[2:]))
    return [
        slow_unit([sum(maps[(b, c, *place)] for place in places) / len(places) for c in range(maps.shape[1])])
        for b in range(len(maps))
    ]


def slow_project(projector: nn.Linear, vector: list[Tensor]) -> list[Tensor]:
    outputs = []
    for o in range(projector.out_features):
        outputs.append(projector.bias[o] + sum(projector.weight[o, c] * x for c, x in enumerate(vector)))
    return slow_unit(outputs)


def slow_direction(
    anchors: list[list[Tensor]],
    counterparts: list[list[Tensor]],
    negatives: list[list[list[Tensor]]],
    normaliser: Tensor | None,
) -> Tensor:
    """``normaliser`` is None in the first batch that has negatives."""
    scores = []
    for anchor, own, others in zip(anchors, counterparts, negatives, strict=True):
        candidates = [[x.detach() for x in vector] for vector in (own, *others)]
        scores.append([torch.exp(sum(a * c for a, c in zip(anchor, x, strict=True)) / TEMPERATURE) for x in candidates])
    if normaliser is None:
        every = [score.detach() for row in scores for score in row]
        normaliser = SLOTS * sum(every) / len(every)
    noise = len(negatives[0]) / SLOTS
    total = torch.zeros((), dtype=torch.float64)
    for row in scores:
        for j, score in enumerate(row):
            h = score / normaliser
            total = total - torch.log((h if j == 0 else noise) / (h + noise))
    return total / len(scores)


@pytest.mark.parametrize(
    ("of_student", "of_teacher"),
    (((3, 3, 6), (3, 2, 4)), ((3, 3, 4, 2), (3, 2, 3, 3)), ((2, 3, 2, 2, 3), (2, 2, 2, 1, 2))),
)
@pytest.mark.parametrize("later", (False, True))
def test_equals_slow_loops_on_given_draws(
    agree: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    of_student: tuple[int, ...],
    of_teacher: tuple[int, ...],
    later: bool,
) -> None:
    torch.manual_seed(0)
    student, teacher = maps(of_student, of_teacher)
    loss = build()
    sides = loss.against_teacher, loss.against_student
    negatives = {
        side.bank: nn.functional.normalize(torch.randn(len(student), 5, channels, dtype=torch.float64), dim=2)
        for side, channels in zip(sides, (2, 3), strict=True)
    }

    def fixed_draw(bank: MemoryBank, classes: Tensor, count: int, same: bool) -> tuple[Tensor, Tensor]:
        assert same and (len(classes), count) == negatives[bank].shape[:2]
        return negatives[bank], torch.ones(len(classes), dtype=torch.bool)

    monkeypatch.setattr(MemoryBank, "draw", fixed_draw)
    if later:
        loss(*maps(of_student, of_teacher))
    kept = [side.normaliser.clone() if later else None for side in sides]
    assert not later or all(value is not None and value > 0 for value in kept)

    def slow(student: Tensor, teacher: Tensor) -> Tensor:
        s = [slow_project(loss.student_projector, mean) for mean in slow_means(student)]
        t = [slow_project(loss.teacher_projector, mean) for mean in slow_means(teacher)]
        of_teacher, of_student = (
            [[slow_project(projector, [*vector]) for vector in row] for row in negatives[side.bank]]
            for projector, side in zip((loss.teacher_projector, loss.student_projector), sides, strict=True)
        )
        return slow_direction(s, t, of_teacher, kept[0]) + slow_direction(t, s, of_student, kept[1])

    agree(loss, slow, student, teacher)
    parameters = list(loss.parameters())
    fast = torch.autograd.grad(loss(student, teacher), parameters)
    expected = torch.autograd.grad(slow(student, teacher), parameters)
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-9)
    assert len(parameters) == 4 and all(gradient.abs().max() > 1e-6 for gradient in expected)


def test_first_batch_costs_nothing_and_has_gradients_of_zero() -> None:
    loss = build()
    student, teacher = maps()
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.item() == 0
    for tensor in (student, *loss.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().max() == 0
    assert loss.against_teacher.normaliser == 0
    assert loss(*maps()).item() > 0
    assert loss.against_teacher.normaliser > 0


def test_negatives_are_samples_of_earlier_batches_of_the_other_network(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    draw = MemoryBank.draw

    def spy(bank: MemoryBank, *arguments: object, **options: object) -> tuple[Tensor, Tensor]:
        result = draw(bank, *arguments, **options)  # type: ignore[arg-type]
        drawn.append(result[0].flatten(0, 1))
        return result

    monkeypatch.setattr(MemoryBank, "draw", spy)
    loss = build(num_negatives=40)
    earlier = maps()
    loss(*earlier)
    drawn.clear()
    loss(*maps())
    for negatives, feature_map in zip(drawn, (earlier[1], earlier[0]), strict=True):
        known = torch.stack([torch.stack(row) for row in slow_means(feature_map)])
        distances = torch.cdist(negatives, known)
        assert distances.min(dim=1).values.max() < 1e-6
        assert len(distances.argmin(dim=1).unique()) == 3


def test_evaluation_changes_nothing() -> None:
    loss = build()
    assert loss.eval()(*maps()).item() == 0
    for _ in range(2):
        loss.train()(*maps())
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    assert loss.eval()(*maps()).item() > 0
    assert all(torch.equal(before[name], after) for name, after in loss.state_dict().items())
    assert before["against_teacher.bank.written"].tolist() == [6]


def test_trained_projectors_tell_a_good_student_from_a_random_one() -> None:
    torch.manual_seed(0)
    loss = ContrastiveRepresentationLoss(8, 8, embedding_channels=16, bank_slots=64, num_negatives=16)
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)

    def batch() -> Tensor:
        return torch.randn(8, 8, 2, 2) + 2 * torch.randn(8, 8, 1, 1)

    for _ in range(100):
        teacher = batch()
        optimizer.zero_grad()
        loss(teacher, teacher).backward()
        optimizer.step()
    loss.eval()
    teacher = batch()
    assert loss(teacher, teacher).item() < 0.5 * loss(batch(), teacher).item()


def test_a_student_that_knows_nothing_of_its_teacher_stays_at_chance() -> None:
    """Nothing but what the maps show may tell a sample from those of earlier batches, such as the projectors' age."""
    torch.manual_seed(0)
    loss = ContrastiveRepresentationLoss(8, 8, embedding_channels=16, bank_slots=64, num_negatives=16)
    optimizer = torch.optim.RMSprop(loss.parameters(), 0.01)
    values = []
    for _ in range(120):
        optimizer.zero_grad()
        value = loss(torch.randn(16, 8, 2, 2), torch.randn(16, 8, 2, 2))
        value.backward()
        optimizer.step()
        values.append(value.item())
    noise = 16 / 64
    # All scores at their mean, h = 1 / M, in both directions.
    chance = 2 * (math.log(1 + 64 * noise) + 16 * math.log1p(1 / (64 * noise)))
    assert sum(values[-20:]) / 20 > 0.95 * chance


def test_a_resumed_loss_goes_on_bit_by_bit() -> None:
    loss, resumed = build(), build()
    for _ in range(4):
        loss(*maps())
    resumed.load_state_dict(loss.state_dict())
    batch = maps()
    values = []
    for each in (loss, resumed):
        torch.manual_seed(5)
        values.append(each(*batch))
    assert torch.equal(values[0], values[1])


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"num_negatives": 0}, "num_negatives"),
        ({"bank_slots": 0}, "0 slots"),
        ({"temperature": -0.1}, "temperature"),
    ),
)
def test_meaningless_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(**options)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    (
        ((2, 4, 6, 6), (2, 2, 6, 6), "student_channels=4"),
        ((2, 3, 6, 6), (2, 4, 6, 6), "teacher_channels=4"),
        ((2, 3, 6, 6), (3, 2, 6, 6), "same batch"),
        ((2, 3, 6, 6), (2, 2, 6, 6, 6), "spatial axes"),
    ),
)
def test_maps_that_do_not_fit_are_refused(student: tuple[int, ...], teacher: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build()(torch.zeros(student), torch.zeros(teacher))
