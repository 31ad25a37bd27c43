"""One scan or label map with its place in space, from whatever file it came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header

from medkd.errors import UserError


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D image or label with its place in space.

    Attributes:
        array: voxels `(X, Y, Z)` as stored, not reoriented: of an image in HU, in the integer type of the file where
            that needs no scaling, else in float32; of a label in uint8 or int64.
        affine: 4x4, voxel index to patient position in mm (RAS+).
        header: the NIfTI header, for writing a result on the same grid.
        path: the file it was read from, or the folder of a DICOM series.
        files: of a DICOM series, the file of each slice along the last axis.
        modality: of a DICOM series, such as `CT`; other formats do not say it.
    """

    array: np.ndarray
    affine: np.ndarray
    header: Nifti1Header
    path: Path
    files: tuple[Path, ...] = ()
    modality: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the three array axes."""
        x, y, z = (float(size) for size in voxel_sizes(self.affine))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml, exact for oblique and sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def orientation(self) -> str:
        """Patient direction in which each array axis grows, to the nearest axis, such as `LAS`."""
        return "".join(nibabel.aff2axcodes(self.affine))


def volume_from_array(array: np.ndarray, affine: np.ndarray, name: str = "array") -> Volume:
    """A volume of voxels in memory.

    Args:
        array: voxels `(X, Y, Z)`, numbers, HU for CT.
        affine: 4x4, voxel index to patient position in mm (RAS+).
        name: what sentences about it call it.

    Raises:
        UserError: it is no 3-D volume of finite numbers, or the affine cannot be inverted.
    """
    array, affine, path = np.asarray(array), np.asarray(affine, np.float64), Path(name)
    check_shape(array.shape, path)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} holds {array.dtype} voxels: give one number per voxel.")
    if affine.shape != (4, 4):
        raise UserError(f"{name} has an affine of {format_shape(affine.shape)}: give 4x4.")
    check_affine(affine, path)
    if array.dtype.kind == "f" or array.dtype.itemsize > 4:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return checked_image(array, affine, nifti_header(array.shape, affine), path)


def checked_image(
    array: np.ndarray,
    affine: np.ndarray,
    header: Nifti1Header,
    path: Path,
    files: tuple[Path, ...] = (),
    modality: str = "",
) -> Volume:
    """The volume of an image whose voxels can be worked with.

    Raises:
        UserError: it holds NaN or infinite values, or one value only.
    """
    low, high = array.min(), array.max()  # NaN spreads through both, so two passes find everything
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(array.size - np.isfinite(array).sum())
        raise UserError(f"{path} holds {bad} NaN or infinite values: replace them, by the value of air for CT.")
    if low == high:
        raise UserError(f"{path} holds the single value {low:g} everywhere: export the image again from its source.")
    return Volume(array, affine, header, path, files, modality)


def check_shape(shape: tuple[int, ...], path: Path) -> None:
    """Make sure that a shape is that of a volume.

    Raises:
        UserError: it has not three axes, or an empty one.
    """
    if len(shape) != 3:
        raise UserError(f"{path} is {len(shape)}-D ({format_shape(shape)}): give one 3-D volume.")
    if min(shape) < 1:
        raise UserError(f"{path} has an empty axis ({format_shape(shape)}): give one 3-D volume with voxels.")


def check_affine(affine: np.ndarray | None, path: Path) -> None:
    """Make sure that an affine gives every voxel a place of its own.

    Raises:
        UserError: it is missing, not finite or singular.
    """
    if affine is None or not _invertible(affine):
        raise UserError(f"{path} has an affine that cannot be inverted: correct its directions or voxel sizes.")


def nifti_header(shape: tuple[int, ...], affine: np.ndarray) -> Nifti1Header:
    """The header of a scan that came in another format: qform and sform say scanner coordinates, units are mm."""
    header = nibabel.Nifti1Image(np.broadcast_to(np.uint8(0), shape), affine).header
    header.set_qform(affine, code="scanner", strip_shears=True)
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("mm", "sec")
    return header


def format_shape(shape: tuple[int, ...]) -> str:
    """Such as `512x512x100`."""
    return "x".join(map(str, shape))


def _invertible(affine: np.ndarray) -> bool:
    # Relative to the voxel sizes, so that small voxels do not look singular.
    with np.errstate(over="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(sizes).all() or not np.isfinite(affine).all() or (sizes == 0).any():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-6)
