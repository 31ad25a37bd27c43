"""What is known of organs and not of networks: they are of one piece, without holes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cc3d
import numpy as np
from scipy import ndimage

from medkd.inference.necks import cut_necks
from medkd.inference.options import Options

# Voxels of a label that share a face, an edge or a corner belong together; a hole is left through faces only.
LABEL_NEIGHBOURS: Literal[26] = 26
HOLE_NEIGHBOURS: Literal[6] = 6


def postprocess(
    mask: np.ndarray, values: list[int], options: Options, spacing: Sequence[float], compact: Sequence[int] = ()
) -> dict[int, int]:
    """Clean the labels of a mask, in place.

    Args:
        mask: ``(X, Y, Z)`` uint8.
        values: of its labels.
        options: what is to be done.
        spacing: of the voxels in mm.
        compact: those of the labels whose largest piece ends at necks, see :func:`~medkd.inference.necks.cut_necks`.

    Returns:
        How many pieces each label had before.
    """
    boxes = {value: box for value, box in zip(values, label_boxes(mask, values), strict=True) if box}
    pieces = dict.fromkeys(values, 0)
    parts = {}
    for value, box in boxes.items():
        parts[value], pieces[value] = _pieces(mask[box], value, options.largest_component)
        if options.largest_component and value in compact:
            piece = parts[value] == value
            parts[value][piece & ~cut_necks(piece, spacing)] = 0
    if options.fill_holes:
        # A piece that was dropped may leave a hole in another label; and a label within another keeps its own holes,
        # so it comes first, and its box is the smaller one.
        for value, part in sorted(parts.items(), key=lambda item: item[1].size):
            _fill_holes(part, value)
    return pieces


def label_boxes(mask: np.ndarray, values: list[int]) -> list[tuple[slice, ...] | None]:
    """The smallest box around every label; None where there is none of it."""
    outer = _box_around(mask)
    if outer is None:
        return [None] * len(values)
    inner = ndimage.find_objects(mask[outer], max_label=max(values))
    return [_within(outer, inner[value - 1]) for value in values]


def _box_around(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Of all labels together; ten times as fast as looking for each of them everywhere."""
    sides = []
    for axis in reversed(range(3)):
        where = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(where):
            return None
        sides.append(slice(int(where[0]), int(where[-1]) + 1))
        mask = mask[(slice(None),) * axis + (sides[-1],)]
    return tuple(reversed(sides))


def _within(outer: tuple[slice, ...], inner: tuple[slice, ...] | None) -> tuple[slice, ...] | None:
    if inner is None:
        return None
    return tuple(slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))


def _pieces(part: np.ndarray, value: int, largest_only: bool) -> tuple[np.ndarray, int]:
    """Drop all but the largest piece, if told to; returns the box around what is left, and how many there were."""
    # Of bools it reserves too few labels where a piece is a line of single voxels, and fails; as fast with bytes.
    is_label = (part == value).view(np.uint8)
    components, count = cc3d.connected_components(is_label, connectivity=LABEL_NEIGHBOURS, return_N=True)
    if largest_only and count > 1:
        statistics = cc3d.statistics(components)
        largest = int(statistics["voxel_counts"][1:].argmax()) + 1
        part[(components != 0) & (components != largest)] = 0
        part = part[statistics["bounding_boxes"][largest]]
    return part, int(count)


def _fill_holes(part: np.ndarray, value: int) -> None:
    """Give a label all that it shuts off from the edge of its box; what another label holds is no hole."""
    outside, count = cc3d.connected_components(part != value, connectivity=HOLE_NEIGHBOURS, return_N=True)
    is_hole = np.ones(count + 1, bool)
    is_hole[0] = False
    for axis in range(3):
        for end in (0, -1):
            is_hole[np.take(outside, end, axis)] = False
    if is_hole.any():
        part[is_hole[outside] & (part == 0)] = value
