"""Two networks on the same slices: Dice of their masks, difference of their logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medkd.data import DecathlonTask, Preprocessing, read_image
from medkd.engines import SavedModel
from medkd.errors import UserError
from medkd.export import compare

BINARY = {0: "background", 1: "block"}
THREE = {0: "background", 1: "block", 2: "rest"}


def model(labels: dict[int, str]) -> SavedModel:
    return SavedModel({"name": "unet_s1"}, Preprocessing(size=32, window=(0.0, 100.0)), labels)


def brighter_than(value: float):
    """One logit: above 0 where the slice itself is brighter."""
    return lambda slices: slices[:, 1:2] - value


def slices_of(task: DecathlonTask, count: int) -> np.ndarray:
    """Every slice of the first cases, straight from the pre-processing."""
    prepared = [model(BINARY).preprocessing.apply(read_image(case.image)).image for case in task.cases]
    return np.concatenate(prepared[:count], axis=2)


@pytest.mark.parametrize(("cases", "volumes"), [(2, 2), (5, 3)])
def test_dice_is_pooled_over_every_slice_of_three_cases_at_most(cases, volumes, tiny_task):
    task = DecathlonTask.load(tiny_task)
    agreement = compare(brighter_than(0.4), brighter_than(0.7), model(BINARY), task.cases[:cases])
    slices = slices_of(task, volumes)
    ours, theirs = slices > 0.4, slices > 0.7
    dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    assert 0.1 < dice < 0.999
    assert agreement.dice == {"block": pytest.approx(dice)} and agreement.lowest_dice == pytest.approx(dice)
    assert agreement.logit_difference == pytest.approx(0.3, abs=1e-6)
    assert (agreement.slices, agreement.volumes) == (6 * volumes, volumes)


def test_each_label_has_its_dice_and_one_that_neither_shows_is_told(tiny_task):
    def classes(value: float):
        def logits(slices: torch.Tensor) -> torch.Tensor:
            bright = (slices[:, 1:2] > value).float()
            return torch.cat([1 - bright, bright, torch.full_like(bright, -1.0)], dim=1)

        return logits

    task = DecathlonTask.load(tiny_task)
    agreement = compare(classes(0.4), classes(0.7), model(THREE), task.cases[:1])
    slices = slices_of(task, 1)
    ours, theirs = slices > 0.4, slices > 0.7
    dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    assert agreement.dice == {"block": pytest.approx(dice)} and agreement.unseen == ("rest",)
    assert agreement.lowest_dice == pytest.approx(dice)
    assert str(agreement).startswith(f"Dice of the masks block {dice:.4f}, rest not seen, largest")


def test_a_mask_where_there_should_be_none_is_no_agreement(tiny_task):
    agreement = compare(brighter_than(2.0), brighter_than(0.5), model(BINARY), DecathlonTask.load(tiny_task).cases[:1])
    assert agreement.dice == {"block": 0.0}


# Slices are from 0 to 1.
@pytest.mark.parametrize(("reference", "exported"), [(2.0, 2.0), (-1.0, -1.0), (-1.0, 0.5)])
def test_nothing_or_nothing_else_on_any_slice_proves_nothing(reference, exported, tiny_task):
    cases = DecathlonTask.load(tiny_task).cases[:1]
    with pytest.raises(UserError, match=r"finds none of block on 6 slices, or nothing else.*--data"):
        compare(brighter_than(reference), brighter_than(exported), model(BINARY), cases)


def test_a_label_that_is_everywhere_on_some_slices_alone_is_seen(tiny_task):
    def full_at_first() -> Callable[[torch.Tensor], torch.Tensor]:
        calls = iter([1.0, -1.0])
        return lambda slices: torch.full_like(slices[:, 1:2], next(calls))

    cases = DecathlonTask.load(tiny_task).cases[:2]
    assert compare(full_at_first(), full_at_first(), model(BINARY), cases).dice == {"block": 1.0}


def test_a_logit_that_is_no_number_is_not_lost(tiny_task):
    def broken(slices: torch.Tensor) -> torch.Tensor:
        logits = slices[:, 1:2] - 0.5
        logits[0, 0, 0, 0] = float("nan")
        return logits

    agreement = compare(brighter_than(0.5), broken, model(BINARY), DecathlonTask.load(tiny_task).cases[:2])
    assert np.isnan(agreement.logit_difference)
