"""The pre-processing and its way back."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Resize, SpatialPad

from medkd.data.transforms import Preprocessing, stack_channels, stacked_slices
from medkd.data.volume import Volume
from medkd.errors import UserError

SHAPE, SPACING = (30, 22, 5), (2.0, 2.0, 4.0)
ORDERS = [
    "".join(letters[axis][side] for axis, side in zip(order, sides, strict=True))
    for letters in [("LR", "PA", "IS")]
    for order in permutations(range(3))
    for sides in product((0, 1), repeat=3)
]


def ras_volume(seed: int = 0) -> tuple[Volume, Volume]:
    random = np.random.default_rng(seed)
    image = random.uniform(-400, 500, SHAPE).astype(np.float32)
    label = (random.uniform(size=SHAPE) > 0.7).astype(np.uint8)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-30, 12, 100)
    header = nibabel.Nifti1Image(image, affine).header
    return Volume(image, affine, header, Path("image.nii")), Volume(label, affine, header, Path("label.nii"))


def reordered(volume: Volume, axcodes: str) -> Volume:
    """The same scan stored in another of the 48 axis orders, by nibabel."""
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(volume.affine), orientations.axcodes2ornt(axcodes))
    image = nibabel.Nifti1Image(volume.array, volume.affine).as_reoriented(turn)
    return Volume(np.asarray(image.dataobj), image.affine, image.header, volume.path)


def test_there_are_48_orders():
    assert len(set(ORDERS)) == 48


@pytest.mark.parametrize("axcodes", ORDERS)
def test_any_axis_order_gives_the_same_slices_and_the_way_back(axcodes):
    image, label = ras_volume()
    preprocessing = Preprocessing(size=16)
    expected = preprocessing.apply(image, label)
    turned = reordered(image, axcodes)
    assert "".join(nibabel.aff2axcodes(turned.affine)) == axcodes
    prepared = preprocessing.apply(turned, reordered(label, axcodes))
    np.testing.assert_allclose(prepared.image, expected.image, atol=1e-6)
    np.testing.assert_array_equal(prepared.label, expected.label)
    back = prepared.to_scan_grid(expected.image[None])
    same = reordered(Volume(expected.to_scan_grid(expected.image[None])[0], image.affine, None, image.path), axcodes)
    np.testing.assert_allclose(back[0], same.array, atol=1e-5)
    np.testing.assert_array_equal(prepared.labels(expected.image[None] - 0.5), same.array > 0.5)


def by_monai(volume: Volume, size: int, inside: tuple[int, int], mode: str) -> tuple[MetaTensor, list]:
    """Image or label on the network's grid by MONAI's own transforms, and the steps that lead back."""
    array = torch.from_numpy(volume.array.astype(np.float32))[None]
    steps = [
        Orientation("RAS", labels=None),
        Resize((*inside, SHAPE[2]), mode=mode),
        SpatialPad((size, size, SHAPE[2])),
    ]
    result = MetaTensor(array, affine=torch.from_numpy(volume.affine))
    for step in steps:
        result = step(result)
    return result, steps


@pytest.mark.parametrize("size", [16, 23, 30, 41, 64])
@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SAR"])
def test_it_is_what_monai_does(size, axcodes):
    image, label = (reordered(volume, axcodes) for volume in ras_volume())
    prepared = Preprocessing(size).apply(image, label)
    windowed = Volume(np.clip((image.array + 125) / 400, 0, 1), image.affine, None, image.path)
    inside = prepared.grid.inside
    assert inside == (size, round(size * 22 / 30))
    shrinks = inside[0] <= 30 and inside[1] <= 22
    expected, steps = by_monai(windowed, size, inside, "area" if shrinks else "trilinear")
    np.testing.assert_allclose(prepared.image, expected[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(prepared.label, by_monai(label, size, inside, "nearest-exact")[0][0].numpy())

    logits = np.random.default_rng(size).normal(-1, 1, (3, size, size, 5)).astype(np.float32)
    back = MetaTensor(torch.from_numpy(logits), affine=expected.affine)
    back.applied_operations = expected.applied_operations
    for record in back.applied_operations:
        if record["class"] == "Resize":
            record["extra_info"]["mode"] = "trilinear"
    for step in reversed(steps):
        back = step.inverse(back)
    np.testing.assert_allclose(prepared.to_scan_grid(logits), back.numpy(), atol=1e-4)
    np.testing.assert_array_equal(prepared.labels(logits), back.numpy().argmax(axis=0))
    np.testing.assert_array_equal(prepared.labels(logits[:1]), back.numpy()[0] > 0)


def test_labels_are_looked_for_around_what_was_found_only():
    """The same as everywhere, for a small spot in any corner and for none."""
    image, _ = ras_volume()
    prepared = Preprocessing(16).apply(reordered(image, "PSL"))
    for x, y, z in [(0, 2, 0), (15, 13, 4), (7, 8, 2)]:
        logits = np.full((1, 16, 16, 5), -1.0, np.float32)
        logits[0, x, y, z] = 3
        expected = prepared.to_scan_grid(logits)[0] > 0
        np.testing.assert_array_equal(prepared.labels(logits), expected)
        assert 0 < expected.sum() < 20
    assert prepared.labels(np.full((1, 16, 16, 5), -1.0, np.float32)).sum() == 0


def test_without_resizing_it_is_the_window_and_padding_by_hand():
    image, label = ras_volume()
    prepared = Preprocessing(size=30, window=(-100.0, 300.0)).apply(image, label)
    by_hand = np.zeros((30, 30, 5), np.float32)
    by_hand[:, 4:26] = np.clip((image.array + 100) / 400, 0, 1)
    np.testing.assert_allclose(prepared.image, by_hand, atol=1e-6)
    np.testing.assert_array_equal(prepared.label[:, 4:26], label.array)
    np.testing.assert_allclose(prepared.to_scan_grid(prepared.image[None])[0], by_hand[:, 4:26], atol=1e-6)


def test_proportions_are_kept_in_millimetres():
    # 20 x 40 voxels of 3 x 1 mm are 60 x 40 mm: the first axis is the longer one.
    array = np.random.default_rng(0).uniform(0, 100, (20, 40, 2)).astype(np.float32)
    volume = Volume(array, np.diag([3.0, 1.0, 5.0, 1.0]), None, Path("x.nii"))
    prepared = Preprocessing(size=30).apply(volume)
    inside = prepared.image > 0
    assert inside.any(axis=(1, 2)).sum() == 30
    assert inside.any(axis=(0, 2)).sum() == 20


def test_a_mask_survives_the_way_there_and_back():
    affine = np.diag([0.8, 0.8, 5.0, 1.0])
    x, y, _ = np.ogrid[:200, :180, :3]
    disc = ((x - 90) ** 2 + (y - 70) ** 2 < 40**2) * np.ones((1, 1, 3), bool)
    image = Volume(disc.astype(np.float32) * 100, affine, None, Path("x.nii"))
    prepared = Preprocessing(size=64).apply(image, Volume(disc.astype(np.uint8), affine, None, Path("y.nii")))
    back = prepared.labels(prepared.label[None] * 2.0 - 1) > 0
    dice = 2 * (back & disc).sum() / (back.sum() + disc.sum())
    centre = np.array(np.nonzero(back)).mean(axis=1)
    assert dice > 0.97
    np.testing.assert_allclose(centre[:2], (90, 70), atol=0.5)


def test_without_a_window_each_scan_has_its_own():
    """MRI: the same picture in other units gives the same slices, and one bright voxel does not darken the rest."""
    image, _ = ras_volume()
    preprocessing = Preprocessing(size=30, window=None)
    array = image.array.copy()
    array[0, 0, 0] = 1e6
    slices = preprocessing.apply(Volume(array, image.affine, image.header, image.path)).image
    low, high = np.percentile(array, (0.5, 99.5))
    expected = np.clip((array - low) / (high - low), 0, 1)
    np.testing.assert_allclose(slices[:, 4:26], expected, atol=1e-5)
    scaled = preprocessing.apply(Volume(array * 37 + 11, image.affine, image.header, image.path)).image
    np.testing.assert_allclose(scaled, slices, atol=1e-5)


def test_without_a_window_a_scan_that_is_nearly_empty_spans_all_of_it():
    image, _ = ras_volume()
    array = np.zeros_like(image.array)
    array[3, 3, 3] = 50
    prepared = Preprocessing(size=30, window=None).apply(Volume(array, image.affine, image.header, image.path))
    assert float(prepared.image.max()) == 1 and float(prepared.image.sum()) == 1


def test_values_far_below_air_do_not_bleed():
    array = np.full((64, 64, 2), 50.0, np.float32)
    array[:8] = -3024
    prepared = Preprocessing(size=32).apply(Volume(array, np.eye(4), None, Path("x.nii")))
    # 50 HU is 0.4375 in the window; pixels of the new grid hold either padding or body.
    assert sorted(set(prepared.image.ravel().tolist())) == [0.0, 0.4375]


@pytest.mark.parametrize(
    ("channels", "index", "rows"),
    [
        ("neighbours", 2, [1, 2, 3]),
        ("neighbours", 0, [0, 0, 1]),
        ("neighbours", 4, [3, 4, 4]),
        ("replicated", 2, [2, 2, 2]),
        ("single", 2, [2]),
    ],
)
def test_channels(channels, index, rows):
    slices = np.arange(5, dtype=np.float16)[:, None, None] * np.ones((1, 2, 2), np.float16)
    assert stack_channels(slices, index, channels)[:, 0, 0].tolist() == rows
    for size in (1, 2, 3, 5):  # The same where they come some at a time.
        parts = [(slice(start, start + size), slices[start : start + size]) for start in range(0, 5, size)]
        stacked = np.concatenate([part for _, part in stacked_slices(parts, channels)])
        assert stacked[index, :, 0, 0].tolist() == rows
    assert Preprocessing(channels=channels).in_channels == len(rows)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"size": 4}, "too small"),
        ({"window": (100, 100)}, "range of HU"),
        ({"window": "wide"}, "two values in HU, or percentiles"),
        ({"channels": "two"}, "neighbours, replicated, single"),
        ({"sise": 4}, "cannot be read"),
    ],
)
def test_values_without_sense_are_told(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Preprocessing.from_dict(arguments)


def test_round_trip_as_plain_values():
    preprocessing = Preprocessing(size=128, window=(-160, 240), channels="replicated")
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


def test_key_changes_with_what_is_stored_only():
    assert Preprocessing(size=128).key() != Preprocessing(size=64).key()
    assert Preprocessing(window=(-160, 240)).key() != Preprocessing().key()
    assert Preprocessing(channels="replicated").key() == Preprocessing().key()


@pytest.mark.parametrize("word", ["percentiles", "null", None])
def test_a_window_that_each_scan_gives_itself(word):
    assert Preprocessing(window=word) == Preprocessing(window=None)
