"""Where the body lies in a scan, so that its slices look alike whatever the field of view."""

from __future__ import annotations

import cc3d
import numpy as np

# Between air and lungs on one side and fat on the other, far from both; in HU.
BODY_HU = -300.0
# Above the lowest value of a scan whose air was cut off, as a window of other software does; one that is cut off higher
# has fat and air alike.
CUT_OFF, HIGHEST_HU = 8.0, -110.0
# Looked for on a coarse grid: fine enough for a box within a pixel of it, coarse enough to lose the table.
PIXEL_MM, SLICE_MM = 4.0, 8.0
# So much of the patient's length must reach as far, or half of a short scan, so that a hand on a slice does not count.
LENGTH_MM = 40.0


def body_box(scan: np.ndarray, spacing: tuple[float, float, float]) -> tuple[slice, slice]:
    """The box around the body in the axial plane, the same for all slices.

    The body is the largest piece that is brighter than air and lungs, without what is thinner than about 10 mm, such as
    the table and clothes, or reaches as far for less than 40 mm of the patient. An arm that touches the body belongs to
    it.

    Args:
        scan: ``(X, Y, Z)`` in RAS order, in HU.
        spacing: voxel size in mm.

    Returns:
        Its range along x and y; all of the plane where nothing is found, or air is not darker than fat.
    """
    steps = [max(1, round(PIXEL_MM / spacing[0])), max(1, round(PIXEL_MM / spacing[1]))]
    apart = max(1, round(SLICE_MM / spacing[2]))
    level = max(BODY_HU, float(scan.min()) + CUT_OFF)
    if level > HIGHEST_HU:
        return slice(0, scan.shape[0]), slice(0, scan.shape[1])
    body = _opened(_coarse(scan[:, :, ::apart], steps) > level)
    body = cc3d.largest_k(body, k=1, connectivity=6) > 0
    half = (int(body.any(axis=(0, 1)).sum()) + 1) // 2
    needed = max(1, min(half, max(2, round(LENGTH_MM / (apart * spacing[2])))))
    x, y = (
        _range(body.any(axis=1 - axis).sum(axis=1) >= needed, step, scan.shape[axis]) for axis, step in enumerate(steps)
    )
    return x, y


def _coarse(scan: np.ndarray, steps: list[int]) -> np.ndarray:
    """Means over rectangles of pixels, those at the far ends narrower."""
    total: np.ndarray = scan.astype(np.float32)
    for axis, step in enumerate(steps):
        starts = np.arange(0, total.shape[axis], step)
        counts = np.diff(np.append(starts, total.shape[axis])).astype(np.float32)
        shape = [1, 1, 1]
        shape[axis] = len(counts)
        total = np.add.reduceat(total, starts, axis=axis) / counts.reshape(shape)
    return total


def _opened(mask: np.ndarray) -> np.ndarray:
    """Without what is narrower than three pixels in the plane; beyond its edges everything goes on."""
    return ~_eroded(~_eroded(mask))


def _eroded(mask: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        width = [(1, 1) if axis == other else (0, 0) for other in range(3)]
        padded = np.pad(mask, width, mode="edge")
        parts = [padded.take(range(start, start + mask.shape[axis]), axis=axis) for start in range(3)]
        mask = parts[0] & parts[1] & parts[2]
    return mask


def _range(found: np.ndarray, step: int, count: int) -> slice:
    """The range of pixels of the coarse ones found, or all."""
    where = np.flatnonzero(found)
    if not len(where):
        return slice(0, count)
    return slice(int(where[0]) * step, min((int(where[-1]) + 1) * step, count))
