from __future__ import annotations

import pytest
import torch

from medkd.losses.regions import class_fractions, class_means, majority_label, nearest_label, present_classes


@pytest.mark.parametrize("dtype", (torch.long, torch.uint8, torch.float32))
def test_classes_of_cells(dtype: torch.dtype) -> None:
    label = torch.tensor([[[[0, 0, 2, 2], [0, 5, 2, 0], [5, 5, 0, 5], [5, 2, 5, 0]]]]).to(dtype)
    assert present_classes(label).tolist() == [0, 2, 5]
    fractions = class_fractions(label, torch.tensor([0, 2, 5, 7]), (2, 2))
    expected = [[[0.75, 0.25], [0, 0.5]], [[0, 0.75], [0.25, 0]], [[0.25, 0], [0.75, 0.5]], [[0, 0], [0, 0]]]
    torch.testing.assert_close(fractions[0], torch.tensor(expected))
    assert majority_label(label, (2, 2)).tolist() == [[[0, 2], [5, 0]]]
    assert majority_label(label, (4, 4)).tolist() == label[:, 0].tolist()


@pytest.mark.parametrize("dtype", (torch.long, torch.uint8, torch.float32))
def test_nearest_label_takes_the_first_voxel_of_a_cell(dtype: torch.dtype) -> None:
    label = torch.arange(16).reshape(1, 1, 4, 4).to(dtype)
    assert nearest_label(label, (2, 2)).tolist() == [[[0, 2], [8, 10]]]
    assert nearest_label(label, (4, 4)).tolist() == [label[0, 0].tolist()]
    assert nearest_label(label[..., None], (2, 2, 1)).tolist() == [[[[0], [2]], [[8], [10]]]]


def test_class_means_by_hand() -> None:
    vectors = torch.tensor([[[1.0, 3.0, 5.0], [0.0, 2.0, 4.0]]])
    members = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    assert class_means(vectors, members).tolist() == [[[2.0, 1.0], [5.0, 4.0], [0.0, 0.0]]]
