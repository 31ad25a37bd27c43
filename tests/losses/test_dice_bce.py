from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medkd.errors import UserError
from medkd.losses import DiceBCELoss


def slow_binary(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    overlap = predicted = true = entropy = torch.zeros((), dtype=torch.float64)
    for z, y in zip(logits.flatten(), label.flatten(), strict=True):
        p = 1 / (1 + (-z).exp())
        overlap, predicted, true = overlap + p * y, predicted + p, true + y
        entropy = entropy - (y * p.log() + (1 - y) * (1 - p).log())
    return 1 - (2 * overlap + 1) / (predicted + true + 1), entropy / label.numel()


def slow_multiclass(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    classes = logits.shape[1]
    zero = torch.zeros((), dtype=torch.float64)
    overlap, predicted, true, entropy = [zero] * classes, [zero] * classes, [0.0] * classes, zero
    for b in range(logits.shape[0]):
        for position in np.ndindex(*logits.shape[2:]):
            weights = [logits[(b, c, *position)].exp() for c in range(classes)]
            y = int(label[(b, 0, *position)])
            for c in range(classes):
                p = weights[c] / sum(weights)
                overlap[c] = overlap[c] + p * (c == y)
                predicted[c] = predicted[c] + p
                true[c] += c == y
            entropy = entropy - (weights[y] / sum(weights)).log()
    dice = [1 - (2 * overlap[c] + 1) / (predicted[c] + true[c] + 1) for c in range(classes)]
    return sum(dice) / classes, entropy / label.numel()


@pytest.mark.parametrize("classes", (1, 2, 4))
@pytest.mark.parametrize("weights", ((1, 1), (1, 0), (0, 1), (0.3, 2.5)))
@pytest.mark.parametrize("size", ((5, 4), (3, 2, 4)))
def test_equals_slow_loops(
    agree: Callable[..., None], classes: int, weights: tuple[float, float], size: tuple[int, ...]
) -> None:
    torch.manual_seed(classes)
    logits = 2 * torch.randn(3, classes, *size, dtype=torch.float64)
    label = torch.randint(0, max(classes, 2), (3, 1, *size))
    label[0] = 0

    def slow(logits: Tensor, label: Tensor) -> Tensor:
        dice, entropy = (slow_binary if classes == 1 else slow_multiclass)(logits, label)
        return weights[0] * dice + weights[1] * entropy

    agree(DiceBCELoss(*weights), slow, logits, label)


def test_by_hand() -> None:
    logits = torch.zeros(1, 1, 2, 2)
    label = torch.tensor([[[[1, 0], [0, 0]]]])
    # p = 0.5 everywhere: 2 sum(p y) = 1, sum(p) = 2, sum(y) = 1.
    assert DiceBCELoss(bce_weight=0)(logits, label).item() == pytest.approx(1 - (1 + 1) / (2 + 1 + 1))
    assert DiceBCELoss(dice_weight=0)(logits, label).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("classes", (1, 2, 3))
def test_right_prediction_costs_nothing_even_without_foreground(classes: int) -> None:
    for label in (torch.zeros(2, 1, 4, 4, dtype=torch.long), torch.randint(0, max(classes, 2), (2, 1, 4, 4))):
        logits = 200.0 * label - 100 if classes == 1 else 100 * torch.eye(classes)[label[:, 0]].movedim(-1, 1)
        assert DiceBCELoss()(logits, label).item() == pytest.approx(0, abs=1e-6)


def test_false_positives_of_an_empty_slice_weigh_as_much_as_others() -> None:
    logits = torch.zeros(2, 1, 16, 16, requires_grad=True)
    label = torch.zeros(2, 1, 16, 16)
    label[0, 0, :8] = 1
    DiceBCELoss(bce_weight=0)(logits, label).backward()
    assert logits.grad is not None
    beside_the_organ, in_the_empty_slice = logits.grad[0, 0, 12, 3], logits.grad[1, 0, 12, 3]
    assert in_the_empty_slice > 0
    assert in_the_empty_slice == beside_the_organ


def test_batch_without_the_organ_still_pushes_the_last_false_positives_down() -> None:
    logits = torch.full((2, 1, 8, 8), -10.0)
    logits[0, 0, 0, :3] = 2.0
    logits.requires_grad_()
    DiceBCELoss(bce_weight=0)(logits, torch.zeros(2, 1, 8, 8)).backward()
    assert logits.grad is not None and logits.grad[0, 0, 0, :3].min() > 1e-3


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32))
def test_extreme_logits_and_many_voxels_are_finite(dtype: torch.dtype) -> None:
    # 2 * 512 * 512 foreground voxels do not fit a float16 sum (65504).
    logits = torch.full((2, 1, 512, 512), 1e4).to(dtype).requires_grad_()
    value = DiceBCELoss()(logits, torch.ones(2, 1, 512, 512))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("classes", "label", "words"),
    (
        (1, torch.zeros(2, 4, 4), "shape"),
        (1, torch.zeros(2, 1, 4, 5), "shape"),
        (3, torch.zeros(2, 3, 4, 4), "shape"),
        (1, torch.full((2, 1, 4, 4), 2), "merge the classes"),
        (3, torch.full((2, 1, 4, 4), 3), "merge the classes"),
        (3, torch.full((2, 1, 4, 4), -1), "merge the classes"),
    ),
)
def test_wrong_labels_are_refused(classes: int, label: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        DiceBCELoss()(torch.zeros(2, classes, 4, 4), label)


@pytest.mark.parametrize("weights", ((0, 0), (-1, 2)))
def test_meaningless_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="dice_weight"):
        DiceBCELoss(*weights)
