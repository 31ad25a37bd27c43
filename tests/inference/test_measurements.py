"""What is measured of a mask: by hand, and against all corners of all voxels."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkd.data.volume import Volume, nifti_header
from medkd.inference.measurements import measure_labels

LABELS = {0: "background", 1: "spleen"}
TWO = {0: "background", 1: "spleen", 2: "liver"}


def volume(array: np.ndarray, affine: np.ndarray) -> Volume:
    return Volume(array, affine, nifti_header(array.shape, affine), Path("scan.nii.gz"))


def rotation(degrees: float, first: int, second: int) -> np.ndarray:
    angle, turn = np.deg2rad(degrees), np.eye(4)
    turn[np.ix_([first, second], [first, second])] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


def sheared() -> np.ndarray:
    """A gantry tilt: each slice lies further to the front than the one below."""
    affine = np.diag([0.8, 0.8, 5.0, 1.0])
    affine[1, 2], affine[2, 1], affine[:3, 3] = 1.7, 0.1, (-100, 50, -700)
    return affine


AFFINES = {
    "axis-aligned": np.diag([1.0, 1.0, 1.0, 1.0]),
    "anisotropic": np.diag([-0.7, 0.7, 5.0, 1.0]),
    "head first": np.diag([1.5, 1.5, -2.0, 1.0]),
    "sagittal": np.array([[0, 0, 3.0, 9], [-1.0, 0, 0, 0], [0, -1.2, 0, 4], [0, 0, 0, 1]]),
    "oblique": rotation(12, 1, 2) @ rotation(-20, 0, 2) @ np.diag([0.9, 0.8, 3.0, 1.0]),
    "half way": rotation(45, 1, 2) @ np.diag([1.0, 1.0, 1.0, 1.0]),
    "far turned": rotation(70, 0, 2) @ rotation(33, 0, 1) @ np.diag([-0.9, 0.8, 3.0, 1.0]),
    "sheared": sheared(),
}
EVERY_AFFINE = pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)


def test_by_hand():
    """A box of 4 x 5 x 3 voxels of 0.8 x 0.8 x 5 mm, half of it at 100 HU and half at 40."""
    affine = np.diag([-0.8, 0.8, 5.0, 1.0])
    array = np.full((10, 10, 8), -1000, np.int16)
    mask = np.zeros(array.shape, np.uint8)
    mask[3:7, 2:7, 2:5] = 1
    array[3:5, 2:7, 2:5], array[5:7, 2:7, 2:5] = 100, 40
    assert measure_labels(mask, volume(array, affine), LABELS) == {
        "spleen": {
            "volume_ml": 0.192, "voxels": 60, "length_mm": 15.0,
            "mean_hu": 70.0, "sd_hu": 30.0, "touches_border": False,
        }
    }  # fmt: skip


def blob(seed: int, shape: tuple[int, ...] = (9, 8, 7)) -> np.ndarray:
    """Voxels here and there in two labels, so that no corner of their box need be filled."""
    random = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    mask[1:-1, 1:-1, 1:-1] = random.choice([0, 1, 2], [n - 2 for n in shape], p=[0.9, 0.05, 0.05])
    mask[4, 4, 3], mask[2, 3, 3] = 1, 2
    return mask


@EVERY_AFFINE
def test_volume_and_length_against_every_corner_of_every_voxel(affine):
    corners = np.array(list(product((-0.5, 0.5), repeat=3)))
    for seed in range(20):
        mask = blob(seed)
        figures = measure_labels(mask, volume(np.zeros(mask.shape, np.int16), affine), TWO)
        for value, name in ((1, "spleen"), (2, "liver")):
            voxels = np.argwhere(mask == value)
            heights = nibabel.affines.apply_affine(affine, (voxels[:, None] + corners).reshape(-1, 3))[:, 2]
            assert figures[name]["length_mm"] == pytest.approx(heights.max() - heights.min(), abs=0.0051)
            assert figures[name]["voxels"] == len(voxels)
            # The volume of a voxel is the triple product of its edges.
            edges = affine[:3, :3].T
            each = abs(np.dot(edges[0], np.cross(edges[1], edges[2])))
            assert figures[name]["volume_ml"] == pytest.approx(len(voxels) * each / 1000, abs=0.00051)


@pytest.mark.parametrize(
    ("degrees", "length"), [(0, 10.0), (90, 4.0), (30, 10 * np.cos(np.pi / 6) + 4 * np.sin(np.pi / 6))]
)
def test_the_length_of_a_turned_box_by_hand(degrees, length):
    """A bar of 10 mm along its own axis and 4 mm thick, turned about the left to right axis."""
    mask = np.zeros((6, 8, 14), np.uint8)
    mask[2:4, 2:6, 2:12] = 1
    found = measure_labels(mask, volume(np.zeros(mask.shape, np.int16), rotation(degrees, 1, 2)), LABELS)
    assert found["spleen"]["length_mm"] == pytest.approx(length, abs=0.0051)


@pytest.mark.parametrize("kind", [np.int16, np.float32])
@EVERY_AFFINE
def test_the_figures_are_the_same_in_all_48_orders(affine, kind):
    mask = blob(3)
    array = np.random.default_rng(5).normal(40, 300, mask.shape).astype(kind)
    expected = measure_labels(mask, volume(array, affine), TWO)
    assert expected["liver"]["voxels"] > 5
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.array([[axis, flip] for axis, flip in zip(order, flips, strict=True)], float)
        image = nibabel.Nifti1Image(mask, affine).as_reoriented(turn)
        turned = nibabel.orientations.apply_orientation(array, turn)
        assert measure_labels(np.asarray(image.dataobj), volume(turned, image.affine), TWO) == expected


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.float32, ">i2"])
def test_intensities_in_any_type(kind):
    random = np.random.default_rng(0)
    array = random.integers(0, 250, (20, 20, 20)).astype(kind)
    mask = (random.random(array.shape) < 0.3).astype(np.uint8)
    figures = measure_labels(mask, volume(array, np.eye(4)), LABELS)["spleen"]
    inside = [float(value) for value, is_label in zip(array.flat, mask.flat, strict=True) if is_label]
    mean = sum(inside) / len(inside)
    assert figures["mean_hu"] == pytest.approx(mean, abs=0.0051)
    variance = sum((value - mean) ** 2 for value in inside) / len(inside)
    assert figures["sd_hu"] == pytest.approx(variance**0.5, abs=0.0051)


def test_many_large_values_do_not_overflow():
    array = np.full((60, 60, 60), 32000, np.int16)
    figures = measure_labels(np.ones(array.shape, np.uint8), volume(array, np.eye(4)), LABELS)["spleen"]
    assert (figures["mean_hu"], figures["sd_hu"]) == (32000.0, 0.0)


@pytest.mark.parametrize("side", [None, *product(range(3), (0, -1))])
def test_each_of_the_six_sides_is_a_border(side):
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[3, 3, 3] = mask[1:-1, 1:-1, 1:-1][2, 2, 2] = 1
    mask[1, 1, 1] = mask[-2, -2, -2] = 1
    if side is not None:
        axis, end = side
        np.moveaxis(mask, axis, 0)[end, 2, 2] = 1
    figures = measure_labels(mask, volume(np.zeros(mask.shape, np.int16), np.eye(4)), LABELS)["spleen"]
    assert figures["touches_border"] is (side is not None)


def test_labels_are_measured_each_for_itself():
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[0, 0, 0:2], mask[3:5, 3:5, 3] = 2, 1
    array = np.where(mask == 2, 7, np.where(mask == 1, 90, 0)).astype(np.int16)
    figures = measure_labels(mask, volume(array, np.diag([2.0, 2.0, 2.0, 1.0])), TWO)
    assert list(figures) == ["spleen", "liver"]
    assert [figures[name]["mean_hu"] for name in figures] == [90.0, 7.0]
    assert [figures[name]["touches_border"] for name in figures] == [False, True]
    assert [figures[name]["length_mm"] for name in figures] == [2.0, 4.0]


def test_nothing_found_has_no_intensity():
    mask = np.zeros((5, 5, 5), np.uint8)
    mask[2, 2, 2] = 2
    figures = measure_labels(mask, volume(np.zeros(mask.shape, np.int16), np.eye(4)), TWO)
    assert figures["spleen"] == {
        "volume_ml": 0.0, "voxels": 0, "length_mm": 0.0, "mean_hu": None, "sd_hu": None, "touches_border": False,
    }  # fmt: skip
    assert figures["liver"]["voxels"] == 1
    assert list(figures["spleen"]) == list(figures["liver"])


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_the_figures_are_plain_values(kind):
    mask = blob(0)
    figures = measure_labels(mask, volume(np.zeros(mask.shape, kind), AFFINES["oblique"]), {**TWO, 3: "kidney"})
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    for row in figures.values():
        assert {type(value) for value in row.values()} <= {int, float, bool, type(None)}


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_may_lie_in_any_order(order):
    mask, array = blob(1), np.random.default_rng(0).integers(-99, 99, (9, 8, 7)).astype(np.int16)
    expected = measure_labels(mask, volume(array, AFFINES["sheared"]), TWO)
    around = np.zeros((18, 16, 14), np.uint8, order=order)
    view = around[::-2, ::2, ::-2]
    view[...] = mask
    assert measure_labels(view, volume(np.asarray(array, order=order), AFFINES["sheared"]), TWO) == expected
    np.testing.assert_array_equal(view, mask)
