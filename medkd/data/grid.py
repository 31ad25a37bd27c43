"""Between the voxels of a scan and the square slices of a network, slice by slice, so that little memory is held.

MONAI's Orientation, Resize and SpatialPad, with their inverses, do the same to whole volumes in float32 (the tests
compare the two). Here a slice is resampled along one axis after the other by a small matrix, and logits are brought
back only where they can become a label, which takes a tenth of the time and of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation


@dataclass(frozen=True)
class SliceGrid:
    """How the axial slices of a scan lie in the square that a network sees.

    The scan is taken in RAS order, to the nearest axes where it is oblique. The longer side of what is seen in mm is
    resized to the side of the square, the shorter one in proportion and padded on both sides.

    Attributes:
        shape: ``(X, Y, Z)`` of the scan as stored.
        affine: of the scan, 4x4.
        size: side of the square.
        box: the part of the plane that is seen, along the RAS axes x and y; all of it by default.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    size: int
    box: tuple[slice, slice] = (slice(None), slice(None))

    @cached_property
    def _axes(self) -> tuple[list[int], list[int]]:
        """The stored axis of each RAS axis, and the direction in which it is stored."""
        orientation = io_orientation(self.affine)
        axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
        return axes, [int(orientation[axis, 1]) for axis in axes]

    def to_ras(self, array: np.ndarray) -> np.ndarray:
        """A view of a stored array ``(X, Y, Z)`` in RAS order; writing to it writes to the array."""
        axes, directions = self._axes
        return array.transpose(axes)[tuple(slice(None, None, direction) for direction in directions)]

    def seen(self, array: np.ndarray) -> np.ndarray:
        """A view of the part of a stored array ``(X, Y, Z)`` that is seen, in RAS order."""
        return self.to_ras(array)[self.box]

    @property
    def count(self) -> int:
        """How many axial slices there are."""
        return self.shape[self._axes[0][2]]

    @cached_property
    def _sides(self) -> tuple[int, int]:
        """The matrix of a slice, of what is seen."""
        x, y = (len(range(self.shape[axis])[part]) for axis, part in zip(self._axes[0], self.box, strict=False))
        return x, y

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the RAS axes."""
        x, y, z = (float(size) for size in voxel_sizes(self.affine)[self._axes[0]])
        return x, y, z

    @cached_property
    def inside(self) -> tuple[int, int]:
        """The matrix that holds a slice inside the square, from its extent in millimetres."""
        width, height = (n * mm for n, mm in zip(self._sides, self.spacing[:2], strict=True))
        x, y = (max(1, round(self.size * side / max(width, height))) for side in (width, height))
        return x, y

    @cached_property
    def _inside_box(self) -> tuple[slice, slice, slice]:
        """Where the slices ``(B, X, Y)`` lie in their squares."""
        x, y = (slice((self.size - side) // 2, (self.size - side) // 2 + side) for side in self.inside)
        return slice(None), x, y

    @cached_property
    def _into(self) -> tuple[np.ndarray, np.ndarray]:
        sides = list(zip(self._sides, self.inside, strict=True))
        # Cells are averaged where slices shrink, so that nothing is missed.
        weights = _area if all(target <= source for source, target in sides) else _linear
        x, y = (weights(source, target) for source, target in sides)
        return x, y

    @cached_property
    def _back(self) -> tuple[np.ndarray, np.ndarray]:
        x, y = (_linear(side, n) for side, n in zip(self.inside, self._sides, strict=True))
        return x, y

    def to_square(self, slices: np.ndarray) -> np.ndarray:
        """Resize slices ``(B, X, Y)`` float32 of the scan in RAS order and pad them to ``(B, size, size)``."""
        square = np.zeros((len(slices), self.size, self.size), np.float32)
        square[self._inside_box] = _resample(slices, *self._into)
        return square

    def nearest_to_square(self, slices: np.ndarray) -> np.ndarray:
        """The same for label maps, by nearest neighbour; of their own type."""
        square = np.zeros((len(slices), self.size, self.size), slices.dtype)
        x, y = (
            np.minimum(((np.arange(side) + 0.5) * n / side).astype(int), n - 1)
            for side, n in zip(self.inside, self._sides, strict=True)
        )
        square[self._inside_box] = slices[:, x[:, None], y]
        return square

    def to_scan(self, maps: np.ndarray) -> np.ndarray:
        """Bring maps ``(C, size, size, Z)`` to the stored grid, ``(C, X, Y, Z)`` float32, linearly in the slice.

        What is not seen is 0.
        """
        result = np.zeros((len(maps), *self.shape), np.float32)
        for channel, part in zip(result, maps, strict=True):
            for index, plane in enumerate(np.moveaxis(part, 2, 0)):
                self.seen(channel)[:, :, index] = _resample(plane[None][self._inside_box], *self._back)[0]
        return result

    def label_slices(self, mask: np.ndarray, which: slice, logits: np.ndarray) -> None:
        """Write the labels that logits stand for to some slices of a mask.

        Logits are interpolated, not labels. Linear interpolation never makes a label where no pixel around has one, so
        only the box around those is looked at.

        Args:
            mask: ``(X, Y, Z)`` uint8 as the scan is stored, 0 on those slices.
            which: the slices in RAS order.
            logits: ``(B, C, size, size)``; one channel says foreground above 0, more are classes, background first.
        """
        _, inside_x, inside_y = self._inside_box
        target = self.seen(mask)[:, :, which]
        for index, part in enumerate(logits[:, :, inside_x, inside_y]):
            self._label_slice(target[:, :, index], part)

    def _label_slice(self, mask: np.ndarray, logits: np.ndarray) -> None:
        found = (logits[0] > 0) if len(logits) == 1 else (logits.argmax(axis=0) > 0)
        beside = (found.any(axis=1), found.any(axis=0))
        # Where the scan is coarser than the square, some pixels lie between its voxels and reach none.
        if any(not weights[:, there].any() for weights, there in zip(self._back, beside, strict=True)):
            return
        (rows, x, x_weights), (columns, y, y_weights) = map(_reach, self._back, beside)
        grown = _resample(logits[:, x, y], x_weights, y_weights)
        mask[rows, columns] = grown[0] > 0 if len(grown) == 1 else grown.argmax(axis=0)


def _resample(slices: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Apply the weights of both axes to slices ``(B, X, Y)``."""
    if not (_is_identity(x) and _is_identity(y)):
        slices = np.matmul(x, np.matmul(slices, y.T))
    return slices


def _reach(weights: np.ndarray, found: np.ndarray) -> tuple[slice, slice, np.ndarray]:
    """The targets that sources found can reach, all sources of those targets, and the weights between the two."""
    targets = _span(weights[:, found].sum(axis=1))
    sources = _span(weights[targets].sum(axis=0))
    return targets, sources, weights[targets, sources]


def _span(values: np.ndarray) -> slice:
    """From the first to the last that is not 0."""
    where = np.flatnonzero(values)
    return slice(int(where[0]), int(where[-1]) + 1)


def _area(source: int, target: int) -> np.ndarray:
    """Each target is the mean of all sources that its cell touches, ``(target, source)``."""
    weights = np.zeros((target, source), np.float32)
    for index in range(target):
        first, last = index * source // target, -(-(index + 1) * source // target)
        weights[index, first:last] = 1 / (last - first)
    return weights


def _linear(source: int, target: int) -> np.ndarray:
    """Linear interpolation between the centres of cells, the outermost repeated beyond, ``(target, source)``."""
    place = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    below = place.astype(int)
    above = np.minimum(below + 1, source - 1)
    weights = np.zeros((target, source), np.float32)
    np.add.at(weights, (np.arange(target), below), 1 - (place - below))
    np.add.at(weights, (np.arange(target), above), place - below)
    return weights


def _is_identity(weights: np.ndarray) -> bool:
    return weights.shape[0] == weights.shape[1] and np.array_equal(weights, np.eye(len(weights)))
