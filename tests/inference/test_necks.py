"""Bodies that necks join: by hand, and against the deepest way between two balls, found by thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medkd.inference.necks import HALF, NECK, cut_necks

MM = (1.0, 1.0, 1.0)
# Deepest 5 and 4 voxels; between them there is room for a way of any width.
LARGE = (slice(2, 11), slice(2, 11), slice(2, 11))
SMALL = (slice(17, 24), slice(3, 10), slice(3, 10))


def joined(width: int) -> np.ndarray:
    """Two cubes, of 9 and of 7 voxels, with a way between them that is ``width`` wide and high."""
    mask = np.zeros((26, 13, 13), bool)
    mask[LARGE] = mask[SMALL] = True
    way = slice(6 - width // 2, 6 - width // 2 + width)
    mask[8:20, way, way] = True
    return mask


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    offsets = ((index - middle) * size for index, middle, size in zip(np.indices(shape), centre, spacing, strict=True))
    return sum(offset**2 for offset in offsets) <= radius**2


@pytest.mark.parametrize(("width", "is_neck"), [(1, True), (2, True), (3, True), (5, False), (7, False)])
def test_a_way_is_a_neck_by_its_width(width, is_neck):
    """The smaller cube is 4 deep, of which 0.6 are 2.4: ways of depth 1 and 2 are necks, one of 3 is not."""
    mask = joined(width)
    before = mask.copy()
    kept = cut_necks(mask, MM)
    np.testing.assert_array_equal(mask, before)
    assert kept[LARGE].all()
    assert kept[SMALL].any() != is_neck
    assert is_neck or (kept == mask).all()


def test_the_way_is_divided_where_it_is_as_far_to_the_one_as_to_the_other():
    kept = cut_necks(joined(1), MM)
    # The cores are the middle of the one cube and of the other, where they are deeper than the first level.
    middle = np.flatnonzero(kept[:, 6, 6]).max()
    assert 12 <= middle <= 15


@pytest.mark.parametrize(("neck", "is_neck"), [(0.2, False), (0.3, True), (0.9, True)])
def test_how_narrow_a_neck_has_to_be(neck, is_neck):
    """One voxel is a quarter of the smaller cube's depth."""
    assert cut_necks(joined(1), MM, neck)[SMALL].any() != is_neck


def test_the_larger_of_two_is_kept_wherever_it_lies():
    for axis in range(3):
        mask = np.moveaxis(joined(1), 0, axis)
        for turned in (mask, np.flip(mask)):
            kept = cut_necks(turned, MM)
            assert 9**3 <= kept.sum() <= 9**3 + 5
            assert (kept <= turned).all()


def test_one_body_of_three_is_left():
    mask = np.zeros((40, 13, 13), bool)
    mask[2:9, 3:10, 3:10] = mask[13:22, 2:11, 2:11] = mask[27:34, 3:10, 3:10] = True
    mask[5:30, 6, 6] = True
    kept = cut_necks(mask, MM)
    assert kept[13:22, 2:11, 2:11].all() and not kept[2:9].any() and not kept[29:36].any()


@pytest.mark.parametrize(
    "shape",
    [(30, 3, 3), (1, 1, 1), (1, 12, 12), (9, 9, 9)],
    ids=["rod", "voxel", "slice", "cube"],
)
def test_what_is_one_body_stays(shape):
    mask = np.ones(shape, bool)
    assert cut_necks(mask, (1.3, 0.7, 5.0)).all()


@pytest.mark.parametrize(("length", "is_cut"), [(4, True), (8, False), (12, False)])
def test_two_that_are_nearly_as_large_stay_both(length, is_cut):
    """The other half of an organ whose middle the network missed, as likely as another organ."""
    mask = joined(1)
    mask[SMALL] = False
    mask[17 : 17 + length, 2:11, 2:11] = True
    assert (length * 81 > HALF * 729) != is_cut
    kept = cut_necks(mask, MM)
    assert (kept != mask).any() == is_cut
    assert not is_cut or not kept[17:].any()


def test_holes_are_no_edges():
    """Two rows of holes nearly divide a cube, which is one body all the same, and they stay what they are."""
    mask = np.zeros((24, 15, 15), bool)
    mask[2:22, 2:13, 2:13] = True
    mask[15, 3:12:2, 3:12:2] = False
    np.testing.assert_array_equal(cut_necks(mask, MM), mask)


def test_a_thin_tip_is_no_body():
    mask = joined(1)
    mask[SMALL] = False
    mask[8:25, 6, 6] = True
    np.testing.assert_array_equal(cut_necks(mask, MM), mask)


def test_depth_is_measured_in_mm():
    """A wall one voxel thick between the cubes: in slices that are thin it is as deep as they are, so no neck."""
    mask = joined(0)
    mask[8:20, 6, 3:10] = True
    assert not cut_necks(mask, MM)[SMALL].any()
    np.testing.assert_array_equal(cut_necks(mask, (4.0, 4.0, 0.5)), mask)


def test_a_scan_cut_through_the_organ():
    """What the edge of the scan cuts off is not known to go on: a body has its depth from there too."""
    mask = joined(1)[:, 6:, :]
    assert not cut_necks(mask, MM)[SMALL[0], :4].any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("apart", "is_neck"), [(12.0, False), (14.0, False), (21.5, True), (22.0, True)])
def test_as_the_deepest_way_between_two_balls_says(apart, is_neck, seed):
    """Balls of 13 and 9.5 mm whose centres are ``apart`` mm from each other, on voxels of any form."""
    shape, spacing = (66, 36, 36), tuple(np.random.default_rng(seed).uniform(0.8, 1.6, 3))
    centres = (18.0, 18.0, 18.0), (18.0 + apart / spacing[0], 18.0, 18.0)
    mask = ball(shape, centres[0], 13, spacing) | ball(shape, centres[1], 9.5, spacing)
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    inner = [ball(shape, centre, 3.5, spacing) for centre in centres]
    # The deepest way: the highest threshold above which the two are together.
    levels = np.linspace(0, depth.max(), 400)
    pieces = [ndimage.label(depth > level)[0] for level in levels]
    together = [set(labels[inner[0]]) & set(labels[inner[1]]) - {0} != set() for labels in pieces]
    deepest_way = levels[np.flatnonzero(together).max()]
    assert (deepest_way < NECK * min(depth[ball].max() for ball in inner)) == is_neck
    kept = cut_necks(mask, spacing)
    if is_neck:
        assert kept[inner[0]].all() and not kept[inner[1]].any()
    else:
        np.testing.assert_array_equal(kept, mask)
