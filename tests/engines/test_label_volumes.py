"""Labels that a teacher gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medkd.data import SliceVolume
from medkd.engines import label_volumes


class Threshold(nn.Module):
    """Says foreground where the slice above is brighter than a half; two classes instead of one logit if asked."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise AssertionError("the statistics of the batch would decide")
        logit = image[:, 2:] - 0.5
        return logit if self.classes == 1 else torch.cat([-logit, logit], dim=1)


@pytest.mark.parametrize("classes", (1, 2))
@pytest.mark.parametrize("count", (1, 8, 19))
def test_each_slice_has_the_label_that_the_teacher_gives_it(classes, count):
    image = np.random.default_rng(0).random((count, 4, 4)).astype(np.float16)
    wrong = np.full(image.shape, 7, np.uint8)
    (volume,) = label_volumes([SliceVolume("v", image, wrong)], Threshold(classes), "neighbours", "cpu")
    above = image[[*range(1, count), count - 1]]
    np.testing.assert_array_equal(volume.label, above > 0.5)
    assert volume.label.dtype == np.uint8
    assert volume.name == "v"
    assert volume.image is image
    assert (wrong == 7).all()


def test_the_teacher_stays_where_it_is_and_nothing_is_nothing():
    teacher = Threshold(1).train()
    assert label_volumes([], teacher, "neighbours", "meta") == []
    assert teacher.training and next(teacher.parameters()).device.type == "cpu"
    label_volumes([SliceVolume("v", np.zeros((1, 4, 4), np.float16), None)], teacher, "neighbours", "cpu")
    assert next(teacher.parameters()).device.type == "cpu"
