"""What a mask says of a scan, in the units of the clinic."""

from __future__ import annotations

from typing import Any

import numpy as np

from medkd.data.volume import Volume
from medkd.inference.postprocessing import label_boxes


def measure_labels(mask: np.ndarray, scan: Volume, labels: dict[int, str]) -> dict[str, dict[str, Any]]:
    """Measure every label of a mask.

    Args:
        mask: ``(X, Y, Z)`` uint8 on the grid of the scan.
        scan: what was segmented.
        labels: value to name, the background 0 with it.

    Returns:
        Label to its figures: ``volume_ml``; ``voxels``; ``length_mm``, from its lowest to its highest voxel along the
        patient's axis from feet to head, both included; ``mean_hu`` and ``sd_hu`` of the scan within it (in the scan's
        own unit where that is no CT; None without a voxel); ``touches_border``, whether it reaches the edge of the
        scan, so that part of it may not be on it.
    """
    values = [value for value in labels if value]
    return {
        labels[value]: _measure(mask, value, box, scan)
        for value, box in zip(values, label_boxes(mask, values), strict=True)
    }


def _measure(mask: np.ndarray, value: int, box: tuple[slice, ...] | None, scan: Volume) -> dict[str, Any]:
    if box is None:
        return {
            "volume_ml": 0.0, "voxels": 0, "length_mm": 0.0, "mean_hu": None, "sd_hu": None, "touches_border": False,
        }  # fmt: skip
    label = mask[box] == value
    # Whole numbers add up exactly, and so the figures depend on no order of axes.
    intensities = scan.array[box][label].astype(np.float64)
    count = int(np.count_nonzero(label))
    return {
        "volume_ml": round(count * scan.voxel_ml, 3),
        "voxels": count,
        "length_mm": round(_length(label, scan.affine), 2),
        "mean_hu": round(float(intensities.mean()), 2),
        "sd_hu": round(float(intensities.std()), 2),
        "touches_border": any(side.start == 0 or side.stop == n for side, n in zip(box, mask.shape, strict=True)),
    }


def _length(label: np.ndarray, affine: np.ndarray) -> float:
    """The extent along the patient's z axis: that of the voxels' centres, and the height of one voxel."""
    steps = affine[2, :3]
    # The highest and the lowest voxel of a column depend on the axis that rises most; the others are few.
    rising = int(np.abs(steps).argmax())
    columns = label.any(axis=rising)
    first = label.argmax(axis=rising)
    last = label.shape[rising] - 1 - np.flip(label, axis=rising).argmax(axis=rising)
    others = [axis for axis in range(3) if axis != rising]
    places = np.nonzero(columns)
    across = sum(places[index] * steps[axis] for index, axis in enumerate(others))
    heights = np.concatenate([across + end[columns] * steps[rising] for end in (first, last)])
    return float(heights.max() - heights.min() + np.abs(steps).sum())
