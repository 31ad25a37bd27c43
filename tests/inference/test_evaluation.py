"""Figures on some axial slices alone, by hand."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from medkd.data import Case, Preprocessing, read_label
from medkd.engines import SavedModel
from medkd.inference import Segmenter, evaluate, format_evaluation
from medkd.inference.backends import TorchBackend
from medkd.inference.options import Options
from medkd.networks import MultiTaskUNet

LABELS = {0: "background", 1: "block"}
SIZE, COUNT = 16, 5
VOXEL_ML = 2 * 2 * 5 / 1000
ORDERS = [
    "".join("LRPAIS"[2 * axis + side] for axis, side in zip(order, sides, strict=True))
    for order in permutations(range(3))
    for sides in product((0, 1), repeat=3)
]


class Bright(nn.Module):
    """Finds what is bright, with the logit 5, but slice 4, which is just above one half, with the logit 0.2."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) * 10


def write(folder: Path, name: str, axcodes: str, truth: dict[int, int]) -> Case:
    """A block of 4 x 5 voxels on every axial slice; ``truth`` says how many of its 4 rows are true on which slice."""
    image, label = np.zeros((2, SIZE, SIZE, COUNT), np.int16)
    image[2:6, 7:12] = 100
    image[2:6, 7:12, 4] = 52
    for row, lines in truth.items():
        label[2 : 2 + lines, 7:12, row] = 1
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(axcodes))
    files = [folder / part / f"{name}.nii.gz" for part in ("image", "label")]
    for file, array in zip(files, (image, label), strict=True):
        file.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine).as_reoriented(turn), file)
    return Case(name, *files)


def segmenter(network: nn.Module | None = None, channels: str = "single") -> Segmenter:
    model = SavedModel({}, Preprocessing(SIZE, (0.0, 100.0), channels), LABELS)
    return Segmenter(TorchBackend(network or Bright(), "cpu"), model)


def some_slices(name: str, count: int) -> np.ndarray:
    """Two that are two others in the reverse order."""
    assert count == COUNT
    return np.isin(np.arange(COUNT), {"a": [1, 4], "b": [0, 1]}[name])


def test_there_are_48_orders() -> None:
    assert len(set(ORDERS)) == 48


@pytest.mark.parametrize("axcodes", ORDERS)
def test_only_the_chosen_slices_count_in_whatever_order_the_scan_is_stored(axcodes: str, tmp_path: Path) -> None:
    # On slices 1 and 4: 10 voxels agree, 30 are found for nothing. On all: 70 agree, 30 are found for nothing.
    case = write(tmp_path, "a", axcodes, {0: 4, 1: 2, 2: 4, 3: 4, 4: 0})
    report = evaluate(segmenter(), [case], LABELS, some_slices)
    figures = report["cases"][0]["labels"]["block"]
    assert figures == {
        "dice": 2 * 10 / (40 + 10), "iou": 10 / 40, "precision": 10 / 40, "recall": 1.0,
        "volume_ml": pytest.approx(40 * VOXEL_ML), "true_volume_ml": pytest.approx(10 * VOXEL_ML),
    }  # fmt: skip
    # Pooled as in the thesis: the logit 0.2 of slice 4 is below one half.
    assert report["pooled_slices"]["block"] == {"dice": 2 * 10 / (20 + 10), "iou": 0.5, "precision": 0.5, "recall": 1.0}
    everything = evaluate(segmenter(), [case], LABELS)["cases"][0]["labels"]["block"]
    assert everything["precision"] == 70 / 100
    assert everything["volume_ml"] == pytest.approx(100 * VOXEL_ML)


def test_each_case_has_its_own_slices(tmp_path: Path) -> None:
    cases = [write(tmp_path, "a", "LAS", {1: 2}), write(tmp_path, "b", "RPI", {0: 4, 1: 4})]
    report = evaluate(segmenter(), cases, LABELS, some_slices)
    assert [case["labels"]["block"]["dice"] for case in report["cases"]] == [0.4, 1.0]
    assert report["mean"]["block"]["dice"] == pytest.approx(0.7)
    assert report["standard_deviation"]["block"]["dice"] == pytest.approx(0.6 / np.sqrt(2))
    # 10 of 20 of the one and 40 of 40 of the other.
    assert report["pooled_slices"]["block"]["precision"] == 50 / 60


def test_choosing_all_slices_is_choosing_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cases = [write(tmp_path, "a", "LAS", {1: 2, 3: 1}), write(tmp_path, "b", "SPL", {0: 4, 1: 4})]
    teacher = segmenter(MultiTaskUNet(channels=(4, 6), convs_per_block=1), "neighbours")
    expected = evaluate(teacher, cases, LABELS)
    assert evaluate(teacher, cases, LABELS, lambda name, count: np.ones(count, bool)) == expected


def test_postprocessed_masks_are_those_of_the_segmenter(tmp_path: Path) -> None:
    case = write(tmp_path, "a", "RAS", dict.fromkeys(range(COUNT), 4))
    image = nibabel.load(case.image)
    array = np.asarray(image.dataobj).copy()
    array[12:14, 1:3, 2] = 100  # a piece of 4 voxels elsewhere
    array[4, 9, 2] = 0  # a hole
    nibabel.save(nibabel.Nifti1Image(array, image.affine), case.image)
    found, cleaned = (
        evaluate(segmenter(), [case], LABELS, postprocessed=postprocessed) for postprocessed in (False, True)
    )
    assert found["cases"][0]["labels"]["block"]["precision"] == 99 / 103
    assert cleaned["cases"][0]["labels"]["block"]["dice"] == 1.0
    assert cleaned["pooled_slices"] == found["pooled_slices"]
    mask = segmenter()(case.image).mask
    np.testing.assert_array_equal(mask, read_label(case.label).array)
    kept = segmenter()
    kept.options = Options(largest_component=False, fill_holes=False)
    assert evaluate(kept, [case], LABELS, postprocessed=True) == {**found, "postprocessed": True}
    assert [", post-processed\n" in format_evaluation(report, "run") for report in (found, cleaned)] == [False, True]


class Reconstructor(Bright):
    """Gives the slice back, but for slice 3, which it gives 0.1 brighter; slices come in order, some at a time."""

    seen = 0

    def forward(self, x: torch.Tensor, reconstruct: bool = False) -> Any:
        picture = x.clone()
        picture[[(self.seen + place) % COUNT == 3 for place in range(len(x))]] += 0.1
        self.seen += len(x)
        return super().forward(x), picture


def test_the_reconstruction_is_judged_on_the_chosen_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medkd.inference.evaluation.reconstructs", lambda network: True)
    case = write(tmp_path, "a", "LPI", {1: 2})
    for chosen, expected in (([0, 3], 10 * np.log10(2 / 0.01)), ([3], 20.0), ([0, 1], np.inf)):
        report = evaluate(
            segmenter(Reconstructor()), [case], LABELS, lambda name, count, c=chosen: np.isin(np.arange(count), c)
        )
        assert report["psnr"] == pytest.approx(expected, abs=1e-4)
