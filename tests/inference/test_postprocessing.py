"""The largest piece of every label, its holes filled: by hand, and against slow scipy on random masks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from medkd.inference import Options
from medkd.inference.postprocessing import label_boxes, postprocess

NOTHING = Options(largest_component=False, fill_holes=False)
LARGEST = Options(fill_holes=False)
HOLES = Options(largest_component=False)
BOTH = Options()
MM = (1.0, 1.0, 1.0)


def boxes(*places: tuple[int, tuple[slice, ...]], shape: tuple[int, ...] = (14, 13, 12)) -> np.ndarray:
    """A mask of boxes, drawn one over the other."""
    mask = np.zeros(shape, np.uint8)
    for value, place in places:
        mask[place] = value
    return mask


def cube(start: int, stop: int) -> tuple[slice, ...]:
    return (slice(start, stop),) * 3


def slow(mask: np.ndarray, values: list[int], options: Options) -> tuple[np.ndarray, dict[int, int]]:
    """The same with scipy over the whole array; no two pieces may be the largest."""
    mask, pieces = mask.copy(), {}
    for value in values:
        labels, pieces[value] = ndimage.label(mask == value, np.ones((3, 3, 3)))
        if options.largest_component and pieces[value]:
            sizes = ndimage.sum_labels(labels > 0, labels, np.arange(1, pieces[value] + 1))
            mask[(labels > 0) & (labels != sizes.argmax() + 1)] = 0
    if options.fill_holes:
        filled = {value: ndimage.binary_fill_holes(mask == value) for value in values}
        empty = mask == 0
        # What several labels enclose belongs to the innermost, so that comes last.
        for value in sorted(values, key=lambda value: -filled[value].sum()):
            mask[filled[value] & empty] = value
    return mask, pieces


def has_tie(mask: np.ndarray, values: list[int]) -> bool:
    for value in values:
        labels, count = ndimage.label(mask == value, np.ones((3, 3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        if count > 1 and (sizes == sizes.max()).sum() > 1:
            return True
    return False


def random_masks(labels: int, count: int) -> list[np.ndarray]:
    """Dense and sparse, smooth and noisy masks without ties, many with holes and many that touch the border."""
    random, masks = np.random.default_rng(labels), []
    while len(masks) < count:
        noise = random.random((labels + 1, *random.integers(3, 13, 3)))
        noise[0] += random.uniform(-0.4, 0.4)
        for channel in noise:
            channel[:] = ndimage.gaussian_filter(channel, random.choice([0, 0.6, 1.0]))
        mask = noise.argmax(axis=0).astype(np.uint8)
        if not has_tie(mask, list(range(1, labels + 1))):
            masks.append(mask)
    return masks


@pytest.mark.parametrize("options", [NOTHING, LARGEST, HOLES, BOTH], ids=["nothing", "largest", "holes", "both"])
@pytest.mark.parametrize("labels", [1, 2, 4])
def test_it_does_what_scipy_does(labels, options):
    values = list(range(1, labels + 1))
    changed = 0
    for mask in random_masks(labels, 120):
        expected, pieces = slow(mask, values, options)
        found = mask.copy()
        assert postprocess(found, values, options, MM) == pieces
        if options == HOLES:
            # Of labels in many pieces none need be the innermost one.
            inside = np.sum([ndimage.binary_fill_holes(mask == value) for value in values], axis=0)
            contested = (mask == 0) & (inside > 1)
            assert (found[contested] > 0).all()
            found[contested] = expected[contested]
        np.testing.assert_array_equal(found, expected)
        changed += (found != mask).any()
    assert changed == 0 if options == NOTHING else changed > 0


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("step", [1, -1, 2, -2])
def test_memory_may_lie_in_any_order(order, turned, step):
    for mask in random_masks(2, 15):
        expected, pieces = slow(mask, [1, 2], BOTH)
        around = np.full([abs(step) * n for n in mask.shape], 7, np.uint8, order=order)
        view = around[::step, ::step, ::step]
        view[...] = mask
        before = around.copy()
        given = view.transpose(2, 0, 1) if turned else view
        assert postprocess(given, [1, 2], BOTH, MM) == pieces
        np.testing.assert_array_equal(view, expected)
        # What lies between the voxels of the view is as it was.
        view[...] = mask
        np.testing.assert_array_equal(around, before)


def test_the_largest_piece_by_hand():
    mask = boxes((1, cube(1, 4)), (1, (slice(6, 12), slice(1, 4), slice(1, 3))), (1, cube(10, 11)))
    assert postprocess(mask, [1], LARGEST, MM) == {1: 3}
    np.testing.assert_array_equal(mask, boxes((1, (slice(6, 12), slice(1, 4), slice(1, 3)))))


@pytest.mark.parametrize(
    ("second", "pieces"),
    [((3, 2, 2), 1), ((3, 3, 2), 1), ((3, 3, 3), 1), ((4, 2, 2), 2), ((3, 4, 3), 2)],
    ids=["face", "edge", "corner", "one apart", "one apart, aside"],
)
def test_voxels_that_share_a_corner_belong_together(second, pieces):
    mask = boxes()
    mask[2, 2, 2] = mask[second] = 1
    assert postprocess(mask, [1], LARGEST, MM) == {1: pieces}
    assert mask.sum() == (2 if pieces == 1 else 1)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("line", ["101", "10101", "1011101", "110010111010"])
def test_specks_in_a_line(axis, line):
    mask = boxes(shape=(20, 20, 20))
    mask[tuple(slice(3, 3 + len(line)) if along == axis else 5 for along in range(3))] = [int(voxel) for voxel in line]
    longest = max(map(len, line.split("0")))
    assert postprocess(mask, [1], BOTH, MM) == {1: len([piece for piece in line.split("0") if piece])}
    assert mask.sum() == longest


def test_of_two_that_are_equal_one_is_kept_whole():
    mask = boxes((1, cube(1, 4)), (1, cube(6, 9)))
    either = [boxes((1, cube(1, 4))), boxes((1, cube(6, 9)))]
    assert postprocess(mask, [1], LARGEST, MM) == {1: 2}
    assert any((mask == one).all() for one in either)


def test_a_hole_is_filled_and_a_tunnel_is_not():
    block = boxes((1, cube(2, 9)))
    hole, tunnel = block.copy(), block.copy()
    hole[4:6, 4:6, 4:6] = 0
    tunnel[4:6, 4:6, 4:] = 0
    assert postprocess(hole, [1], BOTH, MM) == {1: 1}
    np.testing.assert_array_equal(hole, block)
    expected = tunnel.copy()
    assert postprocess(tunnel, [1], BOTH, MM) == {1: 1}
    np.testing.assert_array_equal(tunnel, expected)


def test_a_leak_through_a_corner_is_none():
    """The background is joined through faces only, so a hole whose wall lacks an edge or a corner is a hole."""
    mask = boxes((1, cube(2, 5)))
    mask[3, 3, 3] = mask[2, 2, 3] = mask[4, 4, 4] = 0
    postprocess(mask, [1], BOTH, MM)
    assert mask[3, 3, 3] == 1 and mask[2, 2, 3] == 0 and mask[4, 4, 4] == 0


@pytest.mark.parametrize(("axis", "end"), list(product(range(3), (0, -1))))
def test_what_is_open_to_the_border_of_the_scan_is_no_hole(axis, end):
    """A bowl whose mouth is at the border may go on outside."""
    mask = np.ones((7, 7, 7), np.uint8)
    np.moveaxis(mask, axis, 0)[end, 3, 3] = 0
    np.moveaxis(mask, axis, 0)[1:6, 3, 3] = 0
    expected = mask.copy()
    postprocess(mask, [1], BOTH, MM)
    np.testing.assert_array_equal(mask, expected)


def test_the_border_of_the_scan_belongs_to_a_label():
    mask = boxes((1, cube(0, 3)), (1, cube(7, 9)), shape=(9, 9, 9))
    mask[1, 1, 1] = 0
    assert postprocess(mask, [1], BOTH, MM) == {1: 2}
    np.testing.assert_array_equal(mask, boxes((1, cube(0, 3)), shape=(9, 9, 9)))


def test_another_label_in_a_hole_stays():
    mask = boxes((1, cube(1, 10)), (0, cube(2, 9)), (2, cube(4, 7)))
    assert postprocess(mask, [1, 2], BOTH, MM) == {1: 1, 2: 1}
    np.testing.assert_array_equal(mask, boxes((1, cube(1, 10)), (2, cube(4, 7))))


@pytest.mark.parametrize(("outer", "inner"), [(1, 2), (2, 1)])
def test_the_values_of_the_labels_do_not_matter(outer, inner):
    """A tumour in an organ: its specks become the organ, and its own hole the tumour, whichever has the lower value."""
    mask = boxes((outer, cube(1, 11)), (inner, cube(2, 7)), (inner, cube(8, 9)), (0, cube(4, 5)))
    assert postprocess(mask, [1, 2], BOTH, MM) == {outer: 1, inner: 2}
    np.testing.assert_array_equal(mask, boxes((outer, cube(1, 11)), (inner, cube(2, 7))))


def test_each_option_alone():
    mask = boxes((1, cube(1, 6)), (0, cube(3, 4)), (1, cube(8, 11)), (0, cube(9, 10)))
    for options, hole, second, second_hole in (
        (NOTHING, 0, 1, 0), (LARGEST, 0, 0, 0), (HOLES, 1, 1, 1), (BOTH, 1, 0, 0),
    ):  # fmt: skip
        found = mask.copy()
        assert postprocess(found, [1], options, MM) == {1: 2}
        assert [found[3, 3, 3], found[8, 8, 8], found[9, 9, 9]] == [hole, second, second_hole]
        assert found[1, 1, 1] == 1


@pytest.mark.parametrize("values", [[1], [1, 2], [2, 1], [3]])
def test_nothing_found(values):
    mask = boxes()
    assert postprocess(mask, values, BOTH, MM) == dict.fromkeys(values, 0)
    assert not mask.any()
    assert label_boxes(mask, values) == [None] * len(values)


def test_one_of_several_labels_is_not_found():
    mask = boxes((1, cube(1, 3)), (3, cube(5, 9)))
    assert postprocess(mask, [1, 2, 3], BOTH, MM) == {1: 1, 2: 0, 3: 1}
    assert label_boxes(mask, [1, 2, 3]) == [cube(1, 3), None, cube(5, 9)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 9), (9, 9, 1), (9, 1, 9)])
def test_scans_of_one_slice(shape):
    """In one slice every ring is open to both sides."""
    mask = np.ones(shape, np.uint8)
    mask[tuple(n // 2 for n in shape)] = 0
    expected = mask.copy()
    assert postprocess(mask, [1], BOTH, MM) == {1: int(mask.size > 1)}
    np.testing.assert_array_equal(mask, expected)


def test_boxes_are_those_of_scipy():
    for mask in random_masks(4, 60):
        expected = ndimage.find_objects(mask, 4)
        assert label_boxes(mask, [1, 2, 3, 4]) == expected
        assert label_boxes(mask, [4, 2]) == [expected[3], expected[1]]


@pytest.mark.parametrize(
    ("options", "compact", "is_cut"),
    [(BOTH, [1], True), (BOTH, [1, 2], True), (BOTH, [2], False), (BOTH, [], False), (HOLES, [1, 2], False)],
)
def test_compact_labels_end_at_necks(options, compact, is_cut):
    mask = boxes((1, cube(1, 8)), (1, (slice(8, 12), slice(4, 5), slice(4, 5))), (1, (slice(12, 17), *cube(2, 7)[:2])),
                 (2, cube(9, 10)), shape=(20, 10, 10))  # fmt: skip
    assert postprocess(mask, [1, 2], options, MM, compact) == {1: 1, 2: 1}
    assert (mask[1:8, 1:8, 1:8] == 1).all() and mask[9, 9, 9] == 2
    assert mask[14, 4, 4] == (0 if is_cut else 1)
