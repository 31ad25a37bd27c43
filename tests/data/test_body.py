"""The box around the body, on scans drawn so that it is known."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkd.data import Preprocessing, Volume
from medkd.data.body import body_box
from medkd.errors import UserError

AIR, FAT, TABLE = -1000.0, -95.0, 300.0


def drawn(shape=(120, 100, 12), spacing=(3.0, 3.0, 5.0), centre=(60, 50), radii=(35, 20), hu=FAT) -> np.ndarray:
    """An ellipse of fat in air; lengths in voxels."""
    x, y = np.ogrid[: shape[0], : shape[1]]
    inside = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1
    return np.where(inside[..., None], hu, AIR) * np.ones(shape)


def table(scan):
    scan[10:110, 8:10] = TABLE


def arms(scan):
    scan[4:16, 40:60] = 50
    scan[104:116, 40:60] = 50


def hand_on_one_slice(scan):
    scan[90:118, 45:55, 6] = 50


def lungs(scan):
    scan[35:85, 40:60, 6:] = -850


def fat_at_low_kilovoltage(scan):
    scan[scan == FAT] = -125


def air_cut_off(scan):
    np.clip(scan, -125, 275, out=scan)


def noise(scan):
    scan += np.random.default_rng(0).normal(0, 15, scan.shape)


def nothing(scan):
    pass


CHANGES = [nothing, table, arms, hand_on_one_slice, lungs, fat_at_low_kilovoltage, air_cut_off, noise]


@pytest.mark.parametrize("also", CHANGES)
@pytest.mark.parametrize("spacing", [(3.0, 3.0, 5.0), (0.8, 0.8, 1.0), (5.0, 2.0, 40.0)])
def test_the_body_and_nothing_else(also, spacing):
    scan = drawn()
    also(scan)
    x, y = body_box(scan, spacing)
    steps = [max(1, round(4.0 / mm)) for mm in spacing[:2]]
    for found, (first, last), step in zip((x, y), ((25, 95), (30, 70)), steps, strict=True):
        # To the coarse pixel, and what is round loses its outermost tip.
        assert first - step < found.start <= first + 3 * step, also.__name__
        assert last - 3 * step < found.stop <= last + 1 + step, also.__name__


def test_where_the_patient_is_wide_the_box_is_wide():
    scan = drawn(shape=(150, 150, 100), centre=(75, 75), radii=(25, 25))
    scan[20:130, 20:130, 60:66] = FAT  # 48 mm of 800
    assert body_box(scan, (3.0, 3.0, 8.0)) == (slice(20, 130), slice(20, 130))
    scan[:, :, 63:66] = AIR
    assert body_box(scan, (3.0, 3.0, 8.0))[0].start > 45


def test_a_body_that_lies_obliquely():
    scan = np.full((240, 60, 40), AIR)
    for row in range(40):
        scan[5 * row : 5 * row + 30, 15:45, row] = FAT
    x, y = body_box(scan, (3.0, 3.0, 8.0))
    assert (x.start <= 25, x.stop >= 200, y) == (True, True, slice(15, 45))
    for row in range(40):  # Steeper, so that no row of pixels is reached for 40 mm.
        scan[:, :, row] = AIR
        scan[5 * row : 5 * row + 12, 15:45, row] = FAT
    assert body_box(scan, (3.0, 3.0, 8.0))[0] == slice(0, 240)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_slices_are_enough(count):
    assert body_box(drawn(shape=(120, 100, count)), (3.0, 3.0, 5.0)) == body_box(drawn(), (3.0, 3.0, 5.0))


def test_a_body_that_fills_the_plane_and_one_that_is_not_there():
    whole = (slice(0, 121), slice(0, 99))
    assert body_box(np.full((121, 99, 4), FAT), (3.0, 3.0, 5.0)) == whole
    assert body_box(np.full((121, 99, 4), AIR), (3.0, 3.0, 5.0)) == whole
    # Fat is no darker than what air was cut off to.
    assert body_box(np.clip(drawn(hu=-105.0), -100, 240), (3.0, 3.0, 5.0)) == (slice(0, 120), slice(0, 100))
    assert body_box(np.full((1, 99, 4), AIR), (3.0, 3.0, 5.0)) == (slice(0, 1), slice(0, 99))


def volume(scan: np.ndarray, axcodes: str = "RAS") -> Volume:
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(axcodes))
    image = nibabel.Nifti1Image(scan, affine).as_reoriented(turn)
    return Volume(np.asarray(image.dataobj), image.affine, image.header, Path("scan.nii"))


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SAL", "IRP"])
def test_a_patient_looks_the_same_in_any_field_of_view(axcodes):
    preprocessing = Preprocessing(size=48, field_of_view="body")
    narrow = drawn() + np.random.default_rng(0).uniform(0, 200, (120, 100, 12)) * (drawn() > AIR)
    organ = (narrow > 40) & (np.arange(12) > 3)
    pads = ((40, 0), (0, 64), (0, 0))
    wide, wide_organ = np.pad(narrow, pads, constant_values=AIR), np.pad(organ, pads)
    expected = preprocessing.apply(volume(narrow), volume(organ.astype(np.uint8)))
    found = preprocessing.apply(volume(wide, axcodes), volume(wide_organ.astype(np.uint8), axcodes))
    np.testing.assert_allclose(found.image, expected.image, atol=1e-6)
    np.testing.assert_array_equal(found.label, expected.label)
    assert (expected.image > 0).mean() > 1.5 * (Preprocessing(size=48).apply(volume(narrow)).image > 0).mean()
    # And back: what is seen in the square is at its place in the wide scan, and nothing elsewhere.
    logits = found.image[None] - 0.4
    mask = nibabel.Nifti1Image(found.labels(logits), volume(wide, axcodes).affine)
    back = nibabel.as_closest_canonical(mask).get_fdata() > 0
    np.testing.assert_array_equal(back[40:, :100], expected.labels(logits) > 0)
    assert back.sum() == back[40:, :100].sum() > 1000


def test_what_is_kept_of_slices_tells_the_fields_of_view_apart():
    assert Preprocessing(field_of_view="body").key() != Preprocessing().key()
    # Slices that were kept before there was a choice are still found.
    assert Preprocessing().key() == "924a458e4794"
    assert Preprocessing.from_dict(Preprocessing(field_of_view="body").to_dict()).field_of_view == "body"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"field_of_view": "head"}, "field_of_view 'head' is not known: choose scan, body"),
        ({"field_of_view": "body", "window": "percentiles"}, "field_of_view body tells air from body by HU"),
    ],
)
def test_fields_of_view_that_there_are_not(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Preprocessing(**arguments)
