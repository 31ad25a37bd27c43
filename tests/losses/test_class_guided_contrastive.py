from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.class_guided_contrastive import ClassGuidedContrastiveLoss, class_guided_contrastive
from medkd.losses.memory_bank import MemoryBank


def slow_formula(scores: list[list[Tensor]], num_positives: int, num_samples: int) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in scores:
        noise = (len(row) - num_positives) / num_samples
        for i, h in enumerate(row):
            if i < num_positives:
                total = total - torch.log(h / (h + noise)) / num_positives
            else:
                total = total - torch.log(noise / (h + noise))
    return total / len(scores)


@pytest.mark.parametrize(("rows", "positives", "negatives"), ((1, 1, 1), (4, 1, 5), (3, 4, 2), (2, 3, 7)))
@pytest.mark.parametrize("num_samples", (6, 1024))
def test_formula_equals_slow_loops(
    agree: Callable[..., None], rows: int, positives: int, negatives: int, num_samples: int
) -> None:
    torch.manual_seed(0)
    scores = torch.exp(2 * torch.randn(rows, positives + negatives, dtype=torch.float64)) / num_samples
    agree(
        lambda h: class_guided_contrastive(h, positives, num_samples),
        lambda h: slow_formula([[h[b, i] for i in range(h.shape[1])] for b in range(rows)], positives, num_samples),
        scores,
    )


def test_formula_by_hand() -> None:
    # At h = K/M every decision is a coin toss: one for the positives, one for each negative.
    assert class_guided_contrastive(torch.full((3, 5), 0.03), 2, 100).item() == pytest.approx(4 * math.log(2), rel=1e-6)
    # K/M = 1: the positive at 3 has probability 3/4, the negative at 1/4 is noise with 4/5.
    value = class_guided_contrastive(torch.tensor([[3.0, 0.25]]), 1, 1).item()
    assert value == pytest.approx(math.log(4 / 3) + math.log(5 / 4), rel=1e-6)


EXTREMES = (0.0, 1e-45, 1e-38, 1e-20, 1.0, 1e20, 3e38, math.inf)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("num_samples", (1, 10**6))
def test_formula_is_finite_at_extremes(dtype: torch.dtype, num_samples: int) -> None:
    for positive, negative in itertools.product(EXTREMES, EXTREMES):
        row = [positive, positive, negative, negative, negative]
        scores = torch.tensor([row], dtype=dtype, requires_grad=True)
        value = class_guided_contrastive(scores, 2, num_samples)
        value.backward()
        assert torch.isfinite(value) and value >= 0, row
        assert scores.grad is not None and torch.isfinite(scores.grad).all(), row
        if positive >= 1e20 and negative <= 1e-20:
            assert value < 1e-6, row


@pytest.mark.parametrize("num_positives", (0, 5, 6))
def test_formula_needs_a_positive_and_a_negative(num_positives: int) -> None:
    with pytest.raises(UserError, match=f"num_positives={num_positives}"):
        class_guided_contrastive(torch.ones(2, 5), num_positives, 10)


# --- the loss


def slow_regions(maps: Tensor, label: Tensor) -> list[list[Tensor]]:
    """Mean of each class of each sample, for a label whose lengths are multiples of the map's."""
    factor = [a // b for a, b in zip(label.shape[2:], maps.shape[2:], strict=True)]
    means = []
    for b in range(len(maps)):
        for c in sorted(set(label[b].flatten().tolist())):
            sums, weight = [torch.zeros((), dtype=maps.dtype) for _ in range(maps.shape[1])], 0
            for place in np.ndindex(*label.shape[2:]):
                if label[(b, 0, *place)] == c:
                    cell = tuple(p // f for p, f in zip(place, factor, strict=True))
                    sums = [total + maps[(b, i, *cell)] for i, total in enumerate(sums)]
                    weight += 1
            means.append([total / weight for total in sums])
    return means


def slow_embedding(projector: nn.Linear, vector: list[Tensor]) -> list[Tensor]:
    outputs = []
    for o in range(projector.out_features):
        outputs.append(projector.bias[o] + sum(projector.weight[o, i] * x for i, x in enumerate(vector)))
    length = sum(x * x for x in outputs) ** 0.5
    return [x / length for x in outputs]


def slow_scores(anchor: list[Tensor], candidates: list[list[Tensor]], temperature: float) -> list[Tensor]:
    return [torch.exp(sum(a * c for a, c in zip(anchor, x, strict=True)) / temperature) for x in candidates]


def slow_direction(
    anchors: list[list[Tensor]],
    positives: list[list[list[Tensor]]],
    negatives: list[list[list[Tensor]] | None],
    num_samples: int,
    temperature: float,
) -> Tensor:
    """The first batch of one direction; None where an anchor has no negatives."""
    rows = []
    for anchor, of_class, of_others in zip(anchors, positives, negatives, strict=True):
        if of_others is not None:
            rows.append(slow_scores(anchor, [*of_class, *of_others], temperature))
    every = [score.detach() for row in rows for score in row]
    normaliser = num_samples * sum(every) / len(every)
    return slow_formula([[score / normaliser for score in row] for row in rows], len(positives[0]), num_samples)


def unit_rows(*shape: int) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def detached(embedding: list[Tensor]) -> list[Tensor]:
    return [x.detach() for x in embedding]


def build(student: int = 3, teacher: int = 5, **options: object) -> ClassGuidedContrastiveLoss:
    torch.manual_seed(1)
    defaults = {"num_classes": 3, "num_positives": 3, "num_negatives": 4, "bank_slots": 6, "embedding_channels": 4}
    return ClassGuidedContrastiveLoss(student, teacher, **{**defaults, **options}).double()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of_student", "of_teacher", "of_label"),
    (
        ((3, 3, 4, 2), (3, 5, 4, 2), (3, 1, 4, 2)),
        ((3, 3, 2, 2), (3, 5, 4, 4), (3, 1, 4, 4)),
        ((2, 3, 2, 2, 3), (2, 5, 2, 1, 3), (2, 1, 2, 2, 3)),
    ),
)
@pytest.mark.parametrize("num_positives", (1, 3))
@pytest.mark.parametrize("training", (True, False))
def test_equals_slow_loops_on_given_draws(
    agree: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    of_student: tuple[int, ...],
    of_teacher: tuple[int, ...],
    of_label: tuple[int, ...],
    num_positives: int,
    training: bool,
) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(of_student, dtype=torch.float64), torch.randn(of_teacher, dtype=torch.float64)
    label = torch.randint(0, 3, of_label)
    label[1][label[1] == 2] = 0
    loss = build(num_positives=num_positives, temperature=0.2).train(training)
    rows = len(slow_regions(student, label))
    # Draws by bank and kind; every third anchor finds nothing, in each of the draws another.
    kinds = itertools.product((loss.against_teacher.bank, loss.against_student.bank), (True, False))
    draws = {
        (bank, same): (unit_rows(rows, num_positives - 1 if same else 4, 4), torch.arange(rows) % 3 != which % 3)
        for which, (bank, same) in enumerate(kinds)
    }

    def fixed_draw(bank: MemoryBank, classes: Tensor, count: int, same: bool) -> tuple[Tensor, Tensor]:
        vectors, found = draws[bank, same]
        assert vectors.shape[:2] == (len(classes), count)
        return vectors, found

    monkeypatch.setattr(MemoryBank, "draw", fixed_draw)

    def slow(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        of_student = [slow_embedding(loss.student_projector, v) for v in slow_regions(student, label)]
        of_teacher = [slow_embedding(loss.teacher_projector, v) for v in slow_regions(teacher, label)]
        total = torch.zeros((), dtype=torch.float64)
        for contrast, anchors, counterparts in (
            (loss.against_teacher, of_student, of_teacher),
            (loss.against_student, of_teacher, of_student),
        ):
            (drawn, any_positive), (others, any_negative) = draws[contrast.bank, True], draws[contrast.bank, False]
            positives, negatives = [], []
            for n, own in enumerate(map(detached, counterparts)):
                more = [[*vector] if any_positive[n] else own for vector in drawn[n]]
                positives.append([own, *more])
                negatives.append([[*vector] for vector in others[n]] if any_negative[n] else None)
            total = total + slow_direction(anchors, positives, negatives, 3 * 6, 0.2)
        return total

    agree(loss, slow, student, teacher, label)
    parameters = list(loss.parameters())
    fast = torch.autograd.grad(loss(student, teacher, label), parameters)
    expected = torch.autograd.grad(slow(student, teacher, label), parameters)
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-9)
    assert len(parameters) == 4 and all(gradient.abs().max() > 1e-6 for gradient in expected)


def maps_and_label(classes: tuple[int, ...] = (0, 1)) -> tuple[Tensor, Tensor, Tensor]:
    label = torch.tensor(classes)[torch.randint(0, len(classes), (4, 1, 8, 8))]
    return torch.randn(4, 3, 4, 4).double(), torch.randn(4, 5, 2, 2).double(), label


def state_of(loss: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in loss.state_dict().items()}


def test_first_batch_sets_the_normalisers_and_later_ones_keep_them() -> None:
    loss = build(num_classes=2)
    loss(*maps_and_label())
    first = state_of(loss)
    assert first["against_teacher.normaliser"] > 0 and first["against_student.normaliser"] > 0
    assert first["against_teacher.bank.written"].tolist() == [4, 4]
    loss(*maps_and_label())
    later = state_of(loss)
    assert all(torch.equal(first[name], later[name]) for name in first if name.endswith("normaliser"))
    assert later["against_student.bank.written"].tolist() == [8, 8]


def test_the_kept_normaliser_divides_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = build(num_classes=2, num_positives=1, num_negatives=2, temperature=0.5)
    negatives = unit_rows(8, 2, 4)
    monkeypatch.setattr(
        MemoryBank,
        "draw",
        lambda bank, classes, count, same: (negatives[: len(classes), :count], torch.ones(len(classes)) > 0),
    )
    loss(*maps_and_label())
    student, teacher, label = maps_and_label()
    expected = torch.zeros((), dtype=torch.float64)
    of_student = [slow_embedding(loss.student_projector, v) for v in slow_regions(student, label)]
    of_teacher = [slow_embedding(loss.teacher_projector, v) for v in slow_regions(teacher, label)]
    for contrast, anchors, counterparts in (
        (loss.against_teacher, of_student, of_teacher),
        (loss.against_student, of_teacher, of_student),
    ):
        rows = []
        for n, (anchor, own) in enumerate(zip(anchors, counterparts, strict=True)):
            scores = slow_scores(anchor, [own, *([*vector] for vector in negatives[n])], 0.5)
            rows.append([score / contrast.normaliser for score in scores])
        expected = expected + slow_formula(rows, 1, 12)
    torch.testing.assert_close(loss(student, teacher, label), expected, rtol=0, atol=1e-9)


def test_banks_hold_the_embeddings_of_the_other_network() -> None:
    loss = build(num_classes=2)
    student, teacher, label = maps_and_label()
    label[:, :, 0, :2] = torch.tensor([0, 1])
    loss(student, teacher, label)
    for contrast, projector, maps in (
        (loss.against_teacher, loss.teacher_projector, teacher),
        (loss.against_student, loss.student_projector, student),
    ):
        rows = [torch.stack(slow_embedding(projector, vector)) for vector in slow_regions(maps, label)]
        expected = torch.stack(rows).unflatten(0, (4, 2)).transpose(0, 1)
        torch.testing.assert_close(contrast.bank.embeddings[:, :4], expected.detach(), rtol=0, atol=1e-9)


def test_evaluation_changes_nothing_and_uses_the_batchs_own_normaliser() -> None:
    loss = build(num_classes=2)
    batch = maps_and_label()
    assert loss.eval()(*batch).item() == 0
    loss.train()(*maps_and_label())
    loss.against_teacher.normaliser.zero_()
    loss.against_student.normaliser.zero_()
    before = state_of(loss)
    torch.manual_seed(3)
    value = loss.eval()(*batch)
    assert all(torch.equal(before[name], after) for name, after in loss.state_dict().items())
    for contrast in (loss.against_teacher, loss.against_student):
        contrast.train()
    torch.manual_seed(3)
    assert torch.equal(loss(*batch), value)
    assert loss.against_teacher.normaliser > 0


def test_in_evaluation_the_counterpart_stands_in_for_positives_the_bank_does_not_know() -> None:
    values = []
    for num_positives in (1, 5):
        torch.manual_seed(0)
        loss = build(num_classes=2, num_positives=num_positives)
        student, teacher, label = maps_and_label((1,))
        loss(student, teacher, label)
        for contrast in (loss.against_teacher, loss.against_student):
            # All negatives alike, so that the draws do not matter.
            contrast.bank.embeddings[1] = contrast.bank.embeddings[1, :1].clone()
            contrast.normaliser.fill_(10.0)
        values.append(loss.eval()(student, teacher, 0 * label).item())
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert values[0] > 0


@pytest.mark.parametrize("training", (True, False))
def test_a_single_class_costs_nothing_and_has_gradients_of_zero(training: bool) -> None:
    loss = build(num_classes=2).train(training)
    student, teacher, label = maps_and_label((0,))
    student.requires_grad_()
    value = loss(student, teacher, label)
    value.backward()
    assert value.item() == 0
    for tensor in (student, *loss.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().max() == 0
    assert loss.against_teacher.normaliser == 0
    assert loss.against_teacher.bank.written.tolist() == [4 if training else 0, 0]


def test_the_bank_gives_negatives_to_a_batch_of_a_single_class() -> None:
    loss = build(num_classes=2)
    loss(*maps_and_label((1,)))
    student, teacher, label = maps_and_label((0,))
    student.requires_grad_()
    value = loss(student, teacher, label)
    value.backward()
    assert value > 0 and student.grad is not None and student.grad.abs().max() > 0


def test_trained_projectors_tell_a_good_student_from_a_random_one() -> None:
    torch.manual_seed(0)
    loss = ClassGuidedContrastiveLoss(8, 8, num_classes=3, embedding_channels=16, bank_slots=64, num_negatives=16)
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)

    def batch() -> tuple[Tensor, Tensor]:
        label = torch.randint(0, 3, (6, 1, 4, 4))
        return torch.randn(6, 8, 4, 4) + 3 * torch.eye(8)[label[:, 0]].movedim(-1, 1), label

    for _ in range(60):
        maps, label = batch()
        optimizer.zero_grad()
        loss(maps, maps, label).backward()
        optimizer.step()
    loss.eval()
    teacher, label = batch()
    wrong = batch()[0]
    assert loss(teacher, teacher, label).item() < 0.5 * loss(wrong, teacher, label).item()


def test_a_resumed_loss_goes_on_bit_by_bit() -> None:
    loss, resumed = build(num_classes=2), build(num_classes=2)
    for _ in range(3):
        loss(*maps_and_label())
    resumed.load_state_dict(loss.state_dict())
    batch = maps_and_label()
    values = []
    for each in (loss, resumed):
        torch.manual_seed(5)
        values.append(each(*batch))
    assert torch.equal(values[0], values[1])


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"num_classes": 1}, "num_classes=1"),
        ({"num_positives": 0}, "num_positives=0"),
        ({"num_negatives": 0}, "num_negatives=0"),
        ({"bank_slots": 0}, "0 slots"),
        ({"momentum": 1.5}, "momentum"),
        ({"temperature": 0.0}, "temperature"),
    ),
)
def test_meaningless_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(**options)


def test_classes_beyond_num_classes_are_refused() -> None:
    student, teacher, label = maps_and_label((0, 2))
    with pytest.raises(UserError, match="num_classes is 2"):
        build(num_classes=2)(student, teacher, label)


@pytest.mark.parametrize(
    ("student", "teacher", "label", "words"),
    (
        ((2, 4, 6, 6), (2, 5, 6, 6), (2, 1, 6, 6), "student_channels=4"),
        ((2, 3, 6, 6), (2, 4, 6, 6), (2, 1, 6, 6), "teacher_channels=4"),
        ((2, 3, 6, 6), (3, 5, 6, 6), (2, 1, 6, 6), "same batch"),
        ((2, 3, 6, 6), (2, 5, 6, 6, 6), (2, 1, 6, 6), "spatial axes"),
        ((2, 3, 6, 6), (2, 5, 6, 6), (2, 2, 6, 6), "class indices"),
    ),
)
def test_maps_that_do_not_fit_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], label: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        build()(torch.zeros(student), torch.zeros(teacher), torch.zeros(label))
