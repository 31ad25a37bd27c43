from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.memory_bank import MemoryBank


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def slow_write(
    bank: list[list[list[float]]], written: list[int], embedding: list[float], of_class: int, momentum: float
) -> None:
    slots = len(bank[of_class])
    slot, new = written[of_class] % slots, unit(embedding)
    if written[of_class] >= slots:
        old = bank[of_class][slot]
        new = unit([momentum * a + (1 - momentum) * b for a, b in zip(old, new, strict=True)])
    bank[of_class][slot] = new
    written[of_class] += 1


@pytest.mark.parametrize("momentum", (0.0, 0.5, 0.9))
@pytest.mark.parametrize("slots", (1, 3, 8))
def test_writes_equal_one_slow_write_after_the_other(slots: int, momentum: float) -> None:
    torch.manual_seed(0)
    bank = MemoryBank(3, slots, 4, momentum).double()
    expected, written = [[[0.0] * 4 for _ in range(slots)] for _ in range(3)], [0, 0, 0]
    # One batch is larger than the bank, one has a single class, class 2 comes late.
    for rows, classes in ((1, 2), (7, 2), (25, 3), (4, 1), (0, 1), (6, 3)):
        embeddings = 5 * torch.randn(rows, 4, dtype=torch.float64)
        of_class = torch.randint(0, classes, (rows,))
        bank.write(embeddings, of_class)
        for row, index in zip(embeddings.tolist(), of_class.tolist(), strict=True):
            slow_write(expected, written, row, index, momentum)
        torch.testing.assert_close(bank.embeddings, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
        assert bank.written.tolist() == written
    assert min(written) > 0


def test_a_filled_slot_is_blended_by_hand() -> None:
    bank = MemoryBank(1, 1, 2, momentum=0.75)
    bank.write(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    assert bank.embeddings.tolist() == [[[1.0, 0.0]]]
    bank.write(torch.tensor([[0.0, 7.0]]), torch.tensor([0]))
    torch.testing.assert_close(bank.embeddings, torch.tensor([[[3.0, 1.0]]]) / math.sqrt(10))


def filled_bank() -> MemoryBank:
    """Class 0 fills 2 of 5 slots, class 1 none, class 2 all, class 3 one; slot s of class c is along axis 5c + s."""
    bank = MemoryBank(4, 5, 20)
    axes = torch.tensor([0, 1, 10, 11, 12, 13, 14, 15])
    bank.write(torch.eye(20)[axes], axes // 5)
    return bank


@pytest.mark.parametrize(
    ("anchor", "same", "expected"),
    (
        (0, True, (0, 1)),
        (1, True, ()),
        (2, True, (10, 11, 12, 13, 14)),
        (3, True, (15,)),
        (0, False, (10, 11, 12, 13, 14, 15)),
        (1, False, (0, 1, 10, 11, 12, 13, 14, 15)),
        (2, False, (0, 1, 15)),
        (3, False, (0, 1, 10, 11, 12, 13, 14)),
    ),
)
def test_every_filled_slot_that_may_be_drawn_is_equally_likely(
    anchor: int, same: bool, expected: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    drawn, found = filled_bank().draw(torch.tensor([2, anchor]), 4000, same)
    assert drawn.shape == (2, 4000, 20)
    assert found.tolist() == [True, bool(expected)]
    if expected:
        counts = torch.bincount(drawn[1].argmax(dim=1), minlength=20)
        assert counts.nonzero().flatten().tolist() == list(expected)
        # Five standard deviations of a binomial.
        mean = 4000 / len(expected)
        assert (counts[list(expected)] - mean).abs().max() <= 5 * math.sqrt(mean)


def test_anchors_draw_independently_and_the_seed_decides() -> None:
    bank, classes = filled_bank(), torch.tensor([2, 2, 2])
    draws: list[Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(bank.draw(classes, 50, same=False)[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0][0], draws[0][1])


@pytest.mark.parametrize("same", (False, True))
@pytest.mark.parametrize("count", (0, 6))
def test_nothing_can_be_drawn_from_an_empty_bank(count: int, same: bool) -> None:
    drawn, found = MemoryBank(3, 4, 5).draw(torch.tensor([0, 1, 2, 2]), count, same)
    assert drawn.shape == (4, count, 5)
    assert found.tolist() == [False] * 4


@pytest.mark.parametrize(("of_class", "same"), ((2, False), (0, True), (1, True)))
def test_a_bank_full_of_one_class_has_nothing_else(of_class: int, same: bool) -> None:
    bank = MemoryBank(3, 4, 5)
    bank.write(torch.randn(9, 5), torch.full((9,), 2))
    assert not bank.draw(torch.tensor([of_class]), 3, same)[1].item()
    assert bank.draw(torch.tensor([of_class]), 3, not same)[1].item()


def test_no_gradient_passes_the_bank() -> None:
    bank = MemoryBank(1, 4, 5)
    embeddings = torch.randn(3, 5, requires_grad=True)
    bank.write(2 * embeddings, torch.zeros(3, dtype=torch.long))
    assert not bank.embeddings.requires_grad
    assert not bank.draw(torch.tensor([0]), 2, same=True)[0].requires_grad


def test_later_writes_do_not_change_what_was_drawn() -> None:
    bank = filled_bank()
    drawn, _ = bank.draw(torch.tensor([2]), 5, same=True)
    before = drawn.clone()
    bank.write(torch.randn(20, 20), torch.full((20,), 2))
    assert torch.equal(drawn, before)


def test_a_resumed_bank_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    bank, resumed = MemoryBank(2, 3, 4), MemoryBank(2, 3, 4)
    bank.write(torch.randn(5, 4), torch.tensor([0, 1, 0, 0, 0]))
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    more, classes = torch.randn(4, 4), torch.tensor([1, 0, 1, 0])
    for each in (bank, resumed):
        each.write(more, classes)
    assert torch.equal(bank.embeddings, resumed.embeddings)
    assert resumed.written.tolist() == [6, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"num_classes": 0}, "0 classes"),
        ({"slots": 0}, "0 slots"),
        ({"channels": 0}, "0 channels"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"momentum": -0.1}, "momentum is -0.1"),
    ),
)
def test_meaningless_arguments_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        MemoryBank(**{"num_classes": 2, "slots": 3, "channels": 4, **options})  # type: ignore[arg-type]
