"""Grids of the formats that count positions towards the patient's left and back: DICOM, NRRD and MetaImage."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medkd.data.volume import check_affine, check_shape, format_shape
from medkd.errors import UserError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Results are NIfTI-1 files, whose header counts voxels in 16 bits.
LONGEST_AXIS = 32767


def ras_affine(axes: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """The affine of a grid given in LPS.

    Args:
        axes: `(3, 3)`, each column the step from a voxel to the next along one array axis, in mm.
        origin: `(3,)`, the centre of the first voxel, in mm.

    Returns:
        4x4, voxel index to patient position in mm (RAS+).
    """
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine + 0.0  # Adding 0 makes -0 to 0.


def check_grid(shape: tuple[int, ...], affine: np.ndarray, path: Path) -> None:
    """Make sure that a grid has three axes that a NIfTI header can hold, and gives every voxel a place of its own.

    Raises:
        UserError: it has not.
    """
    check_shape(shape, path)
    if max(shape) > LONGEST_AXIS:
        raise UserError(f"{path} is {format_shape(shape)}: crop it to at most {LONGEST_AXIS} voxels along each axis.")
    check_affine(affine, path)
