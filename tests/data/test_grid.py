"""Between a scan and the slices of a network: views, boxes, and labels where they belong; slowly by hand."""

from __future__ import annotations

from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from medkd.data.grid import SliceGrid

ORDERS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
# Shape of the scan, its spacing in mm, side of the square: smaller, larger, not square, of one slice or one column.
SIZES = {
    "larger scan": ((40, 40, 5), (1.0, 1.0, 3.0), 16),
    "smaller scan": ((12, 12, 4), (1.0, 1.0, 3.0), 64),
    "the same size": ((32, 32, 3), (1.0, 1.0, 1.0), 32),
    "nearly the same size": ((33, 31, 6), (1.0, 1.0, 1.0), 32),
    "wide": ((60, 20, 4), (1.0, 1.0, 2.0), 32),
    "high": ((20, 60, 4), (1.0, 1.0, 2.0), 32),
    "more in one axis, less in the other": ((20, 50, 3), (2.5, 1.0, 2.0), 32),
    "uneven pixels": ((30, 30, 3), (2.0, 0.5, 2.0), 24),
    "one slice": ((30, 24, 1), (1.0, 1.0, 8.0), 16),
    "one column": ((1, 30, 4), (1.0, 1.0, 2.0), 16),
    "one voxel": ((1, 1, 1), (1.0, 1.0, 1.0), 16),
}
EVERY_SIZE = pytest.mark.parametrize(("shape", "spacing", "size"), SIZES.values(), ids=SIZES)


def ras(shape, spacing, size) -> SliceGrid:
    return SliceGrid(shape, np.diag([*spacing, 1.0]), size)


def turned(grid: SliceGrid, order, flips) -> tuple[SliceGrid, np.ndarray]:
    """The grid of the same scan stored in another order, and how it was turned."""
    turn = np.array([[axis, flip] for axis, flip in zip(order, flips, strict=True)], float)
    image = nibabel.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine).as_reoriented(turn)
    return SliceGrid(image.shape, image.affine, grid.size), turn


def linear(values: np.ndarray, target: int) -> np.ndarray:
    """Linear interpolation of the first axis between the centres of cells, by numpy."""
    places = (np.arange(target) + 0.5) * len(values) / target - 0.5
    flat = values.reshape(len(values), -1)
    columns = [np.interp(places, np.arange(len(values)), column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(target, *values.shape[1:])


def slow_labels(grid: SliceGrid, logits: np.ndarray) -> np.ndarray:
    """Label map of a scan in RAS order for all its slices: all logits brought back, then the largest."""
    x, y = grid.inside
    left, low = (grid.size - x) // 2, (grid.size - y) // 2
    inside = logits[:, :, left : left + x, low : low + y].astype(float)
    back = linear(np.moveaxis(inside, 2, 0), grid.shape[0])
    back = linear(np.moveaxis(back, 3, 0), grid.shape[1])
    back = np.moveaxis(back, (0, 1), (3, 2))
    labels = back[:, 0] > 0 if logits.shape[1] == 1 else back.argmax(axis=1)
    return np.moveaxis(labels, 0, 2).astype(np.uint8)


@pytest.mark.parametrize(("order", "flips"), ORDERS)
def test_ras_order_is_a_view_that_writes_through(order, flips):
    grid, turn = turned(ras((5, 6, 7), (1.0, 2.0, 3.0), 16), order, flips)
    values = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    stored = nibabel.orientations.apply_orientation(values, turn)
    seen = grid.to_ras(stored)
    assert np.shares_memory(seen, stored) and grid.count == 7
    np.testing.assert_array_equal(seen, values)
    seen[1, 2, 3] = -1
    values[1, 2, 3] = -1
    np.testing.assert_array_equal(stored, nibabel.orientations.apply_orientation(values, turn))


@pytest.mark.parametrize("degrees", [-40, 10, 44])
def test_an_oblique_scan_is_taken_to_the_nearest_axes(degrees):
    angle = np.deg2rad(degrees)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1:3, 1:3] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1.0, 2.0])
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(SliceGrid(array.shape, affine, 16).to_ras(array), array)


@EVERY_SIZE
def test_the_longer_side_fills_the_square(shape, spacing, size):
    grid = ras(shape, spacing, size)
    width, height = shape[0] * spacing[0], shape[1] * spacing[1]
    x, y = grid.inside
    assert max(x, y) == size
    assert min(x, y) == max(1, round(size * min(width, height) / max(width, height)))
    slices = grid.to_square(np.ones((2, *shape[:2]), np.float32))
    assert slices.shape == (2, size, size) and slices.dtype == np.float32
    # The scan in the middle, nothing around it.
    np.testing.assert_allclose(slices[0].max(axis=1) > 0.5, centred(size, x))
    np.testing.assert_allclose(slices[0].max(axis=0) > 0.5, centred(size, y))
    assert slices.sum() == pytest.approx(2 * x * y, rel=1e-5)


def centred(size: int, side: int) -> np.ndarray:
    inside = np.zeros(size, bool)
    inside[(size - side) // 2 : (size - side) // 2 + side] = True
    return inside


def test_a_slice_that_shrinks_is_averaged_by_hand():
    grid = ras((4, 4, 1), (1.0, 1.0, 1.0), 2)
    slices = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    np.testing.assert_allclose(grid.to_square(slices)[0], [[2.5, 4.5], [10.5, 12.5]])


def test_a_slice_that_grows_is_interpolated_by_hand():
    grid = ras((2, 2, 1), (1.0, 1.0, 1.0), 4)
    slices = np.array([[[0, 0], [4, 4]]], np.float32)
    np.testing.assert_allclose(grid.to_square(slices)[0], np.repeat([[0.0], [1.0], [3.0], [4.0]], 4, axis=1))


@EVERY_SIZE
def test_labels_of_nearest_neighbour_keep_their_type_and_values(shape, spacing, size):
    labels = np.random.default_rng(0).integers(0, 5, (3, *shape[:2])).astype(np.int64)
    square = ras(shape, spacing, size).nearest_to_square(labels)
    assert square.dtype == np.int64 and square.shape == (3, size, size)
    assert set(np.unique(square)) <= {0, *np.unique(labels)}


def random_logits(grid: SliceGrid, classes: int, seed: int, share: float) -> np.ndarray:
    """Logits above the background in about that share of the pixels."""
    random = np.random.default_rng(seed)
    shape = (grid.shape[2], classes, grid.size, grid.size)
    logits = random.normal(0, 1, shape).astype(np.float32)
    lift = np.quantile(logits[:, 0] if classes == 1 else logits[:, 1:].max(axis=1) - logits[:, 0], 1 - share)
    logits[:, 0] += -lift if classes == 1 else lift
    return logits


@pytest.mark.parametrize("classes", [1, 2, 4])
@EVERY_SIZE
def test_labels_are_those_of_all_logits_brought_back(shape, spacing, size, classes):
    grid = ras(shape, spacing, size)
    found = 0
    for seed, share in enumerate((0.98, 0.5, 0.1, 0.02, 0.005, 0.001)):
        logits = random_logits(grid, classes, seed, share)
        mask = np.zeros(shape, np.uint8)
        grid.label_slices(mask, slice(0, shape[2]), logits)
        np.testing.assert_array_equal(mask, slow_labels(grid, logits))
        found += mask.any()
    assert found


@pytest.mark.parametrize("n", [30, 31, 33, 34, 60])
def test_a_small_label_lies_where_it_does_in_a_large_one(n):
    """Whether as many voxels as pixels are looked at or not, both are as far apart as they are."""
    grid = ras((n, n, 1), (1.0, 1.0, 1.0), 32)
    for start in range(0, 26):
        logits = np.full((1, 1, 32, 32), -1.0, np.float32)
        logits[0, 0, start : start + 3, 20:24] = 0.2137
        mask = np.zeros(grid.shape, np.uint8)
        grid.label_slices(mask, slice(0, 1), logits)
        np.testing.assert_array_equal(mask, slow_labels(grid, logits))


@pytest.mark.parametrize("classes", [1, 3])
def test_a_speck_between_the_voxels_of_a_coarser_scan_is_nothing(classes):
    """Of a scan of 40 pixels a network of 128 sees three pixels for one, of which linear interpolation uses two."""
    grid = ras((40, 40, 2), (1.0, 1.0, 1.0), 128)
    for place in range(128):
        logits = np.full((2, classes, 128, 128), -1.0, np.float32)
        logits[:, 0] = -1 if classes == 1 else 1
        logits[1, classes - 1, place, 127 - place] = 50
        mask = np.zeros((40, 40, 2), np.uint8)
        grid.label_slices(mask, slice(0, 2), logits)
        np.testing.assert_array_equal(mask, slow_labels(grid, logits))


@pytest.mark.parametrize(("order", "flips"), ORDERS)
def test_labels_are_written_to_the_slices_they_are_of(order, flips):
    """Whatever the order of the scan, and nothing else is touched."""
    plain = ras((30, 24, 9), (1.0, 1.0, 2.0), 32)
    grid, turn = turned(plain, order, flips)
    logits = random_logits(plain, 3, 1, 0.2)
    which = slice(3, 7)
    around = np.full(tuple(2 * n for n in grid.shape), 9, np.uint8)
    mask = around[::2, ::2, ::2]
    mask[...] = 0
    grid.label_slices(mask, which, logits[which])
    expected = np.zeros(plain.shape, np.uint8)
    expected[:, :, which] = slow_labels(plain, logits)[:, :, which]
    assert expected[:, :, which].any()
    np.testing.assert_array_equal(mask, nibabel.orientations.apply_orientation(expected, turn))
    mask[...] = 9
    assert (around == 9).all()


@pytest.mark.parametrize("classes", [1, 3])
def test_nothing_found_writes_nothing(classes):
    grid = ras((20, 20, 3), (1.0, 1.0, 1.0), 32)
    logits = np.full((3, classes, 32, 32), -1.0, np.float32)
    logits[:, 0] = -1 if classes == 1 else 1
    # Beyond the scan, where the square is padded, there is nothing to find.
    mask = np.full((20, 20, 3), 7, np.uint8)
    grid.label_slices(mask, slice(0, 3), logits)
    assert (mask == 7).all()


def test_what_is_found_in_the_padding_is_nothing():
    grid = ras((40, 10, 2), (1.0, 1.0, 1.0), 32)
    logits = np.full((2, 1, 32, 32), 5.0, np.float32)
    _, y = grid.inside
    logits[:, :, :, (32 - y) // 2 : (32 - y) // 2 + y] = -5
    mask = np.zeros((40, 10, 2), np.uint8)
    grid.label_slices(mask, slice(0, 2), logits)
    assert not mask.any()


@EVERY_SIZE
def test_logits_come_back_linearly(shape, spacing, size):
    grid = ras(shape, spacing, size)
    maps = np.random.default_rng(0).normal(0, 1, (2, size, size, shape[2])).astype(np.float32)
    x, y = grid.inside
    left, low = (size - x) // 2, (size - y) // 2
    inside = maps[:, left : left + x, low : low + y].astype(float)
    expected = linear(np.moveaxis(inside, 1, 0), shape[0])
    expected = linear(np.moveaxis(expected, 2, 0), shape[1])
    found = grid.to_scan(maps)
    assert found.shape == (2, *shape) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.moveaxis(expected, (0, 1), (2, 1)), atol=1e-5)
