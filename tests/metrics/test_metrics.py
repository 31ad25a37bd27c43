"""Figures by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medkd.metrics import OverlapCounts, labels_from_logits, psnr


@pytest.mark.parametrize(
    ("counts", "dice", "iou", "precision", "recall"),
    [
        ((6, 2, 4), 12 / 18, 6 / 12, 6 / 8, 6 / 10),
        ((0, 0, 0), 1, 1, 1, 1),
        ((0, 3, 0), 0, 0, 0, 0),
        ((0, 0, 5), 0, 0, 0, 0),
    ],
)
def test_overlap(counts, dice, iou, precision, recall):
    figures = OverlapCounts(*counts).figures()
    assert figures == pytest.approx({"dice": dice, "iou": iou, "precision": precision, "recall": recall})


def test_counts_of_arrays_and_pooling():
    prediction = np.array([1, 1, 0, 0, 1], bool)
    truth = np.array([1, 0, 1, 0, 1], bool)
    counts = OverlapCounts.of(prediction, truth)
    assert counts == OverlapCounts(2, 1, 1)
    assert counts + OverlapCounts(1, 0, 3) == OverlapCounts(3, 1, 4)


@pytest.mark.parametrize(
    ("logits", "threshold", "expected"),
    [
        ([[-1.0, 0.0, 0.4, 0.6]], 0.0, [0, 0, 1, 1]),
        ([[-1.0, 0.0, 0.4, 0.6]], 0.5, [0, 0, 0, 1]),
        ([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]], 0.0, [0, 1, 2]),
    ],
)
def test_labels_from_logits(logits, threshold, expected):
    labels = labels_from_logits(torch.tensor(logits), threshold)
    assert labels.dtype == torch.uint8 and labels.tolist() == [expected]


def test_psnr():
    image = torch.zeros(10)
    assert psnr(image + 0.1, image) == pytest.approx(20.0, abs=1e-5)
    assert psnr(image + 0.1, image, maximum=10) == pytest.approx(40.0, abs=1e-5)
    assert psnr(image, image) == math.inf
