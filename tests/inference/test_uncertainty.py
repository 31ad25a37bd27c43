"""The entropy of what a network found: by hand, and against scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from medkd.inference.uncertainty import Uncertainty

ONE = {0: "background", 1: "spleen"}
THREE = {0: "background", 1: "spleen", 2: "liver", 3: "kidney"}


def measure(labels: dict[int, str], *parts: np.ndarray) -> dict[str, float | None]:
    uncertainty = Uncertainty(labels)
    for part in parts:
        uncertainty.add(part.astype(np.float32))
    return uncertainty.figures()


def bits(probability: float) -> float:
    return float(-probability * np.log2(probability) - (1 - probability) * np.log2(1 - probability))


@pytest.mark.parametrize("probability", [0.5001, 0.6, 0.75, 0.9, 0.999])
def test_of_one_pixel_by_hand(probability):
    logits = np.full((1, 1, 4, 4), -3.0)
    logits[0, 0, 1, 2] = np.log(probability / (1 - probability))
    assert measure(ONE, logits) == {"spleen": pytest.approx(bits(probability), abs=6e-5)}


def test_only_what_was_found_counts_each_pixel_alike():
    """Two pixels at 0.75 in one slice and one at 0.9 in another; those below one half belong to nothing."""
    first, second = np.full((2, 1, 4, 4), -0.1), np.full((1, 1, 4, 4), -0.2)
    first[0, 0, 0, 0] = first[1, 0, 3, 3] = np.log(3)
    second[0, 0, 2, 2] = np.log(9)
    assert measure(ONE, first, second)["spleen"] == pytest.approx((2 * bits(0.75) + bits(0.9)) / 3, abs=6e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 200.0])
def test_of_several_classes_against_scipy(scale):
    parts = np.random.default_rng(0).normal(0, scale, (3, 5, 4, 6, 6))
    found = measure(THREE, *parts)
    logits = np.moveaxis(parts.astype(np.float32).astype(float), 2, 0).reshape(4, -1)
    unsure = entropy(softmax(logits, axis=0), base=4, axis=0)
    for value in (1, 2, 3):
        assert found[THREE[value]] == pytest.approx(unsure[logits.argmax(axis=0) == value].mean(), abs=6e-5)


def test_two_classes_are_one_logit():
    """Softmax over 0 and x is the sigmoid of x."""
    logits = np.random.default_rng(1).normal(0, 3, (4, 1, 8, 8))
    both = np.concatenate([np.zeros_like(logits), logits], axis=1)
    assert measure(ONE, logits) == pytest.approx(measure(ONE, both))


def test_it_is_one_where_all_classes_are_alike_and_zero_where_one_is_certain():
    alike, certain = np.zeros((1, 4, 2, 2)), np.full((1, 4, 2, 2), -1000.0)
    alike[:, 2] += 1e-6
    certain[:, 1] = 1000
    found = measure(THREE, alike, certain)
    assert found == {"spleen": 0.0, "liver": 1.0, "kidney": None}


@pytest.mark.parametrize("labels", [ONE, THREE])
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_nothing_found_is_none(labels, parts):
    channels = 1 if labels is ONE else 4
    logits = np.full((2, channels, 4, 4), -1.0)
    logits[:, 0] = -1 if channels == 1 else 1
    assert measure(labels, *[logits] * parts) == dict.fromkeys(list(labels.values())[1:])


@pytest.mark.parametrize("labels", [ONE, THREE])
def test_the_figures_are_plain_values(labels):
    logits = np.random.default_rng(0).normal(0, 4, (2, 1 if labels is ONE else 4, 8, 8))
    found = measure(labels, logits)
    assert {type(value) for value in found.values()} == {float}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_logits_are_left_as_they_are():
    logits = np.random.default_rng(0).normal(0, 4, (2, 4, 8, 8)).astype(np.float32)
    before = logits.copy()
    Uncertainty(THREE).add(logits)
    np.testing.assert_array_equal(logits, before)
