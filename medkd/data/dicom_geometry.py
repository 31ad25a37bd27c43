"""The grid that the slices of a DICOM series make up, or why they make up none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medkd.data.dicom_header import SliceHeader
from medkd.data.lps import check_grid, ras_affine
from medkd.errors import UserError

SAME_PLACE = 0.01  # mm
SAME_DIRECTION = 1e-3  # of direction cosines; 0.3 mm at the far side of a slice
SAME_SPACING = 1e-3  # relative
UNEVEN = 0.01  # of the spacing
LEAST_UNEVEN = 0.05  # mm, since positions are often rounded
GAP = 1.5  # times the spacing


def arrange(slices: Sequence[SliceHeader], where: str, folder: Path) -> tuple[list[SliceHeader], np.ndarray]:
    """Put the slices of a series in order along their normal.

    Args:
        slices: in any order; copies of a slice are taken once.
        where: what messages call the series.
        folder: that holds it.

    Returns:
        The slices, and the affine (4x4, RAS+ in mm) of the array `(columns, rows, slices)`. It is exact for oblique
        slices, and for those of a tilted gantry, which are shifted against each other.

    Raises:
        UserError: the slices are not a stack of equal and evenly spaced grey images.
    """
    _check_kind(slices, where)
    unique = list({(one.instance or one.path, one.position): one for one in reversed(slices)}.values())
    right, down = np.array(unique[0].orientation).reshape(2, 3)
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    positions = np.array([one.position for one in unique])
    order = np.argsort(positions @ normal)
    ordered, positions = [unique[index] for index in order], positions[order]
    step = _step(ordered, positions, normal, where)
    between_rows, between_columns = np.array(unique[0].spacing)
    affine = ras_affine(np.column_stack([right * between_columns, down * between_rows, step]), positions[0])
    check_grid((unique[0].columns, unique[0].rows, len(unique)), affine, folder)
    return ordered, affine


def _check_kind(slices: Sequence[SliceHeader], where: str) -> None:
    """Every slice is a grey image with a place in space, and all are alike."""

    def refuse(wrong: Iterable[bool], what: str, todo: str) -> None:
        for one, is_wrong in zip(slices, wrong, strict=True):
            if is_wrong:
                raise UserError(f"{where} cannot be read as a volume ({one.path.name} {what}): {todo}.")

    refuse((one.multi_frame for one in slices), "is a multi-frame file", "convert it to .nii.gz by dcm2niix")
    refuse((one.colour for one in slices), "is a colour image", "choose the series of grey images")
    again = "export the series again with it"
    refuse((not _finite(one.position) for one in slices), "has no valid ImagePositionPatient", again)
    refuse((not _perpendicular(one.orientation) for one in slices), "has no valid ImageOrientationPatient", again)
    refuse((not _positive(one.spacing) for one in slices), "has no valid PixelSpacing", again)

    name, alike = slices[0].path.name, "keep slices of one kind in the series"
    sizes = np.array([(one.rows, one.columns) for one in slices])
    orientations = np.array([one.orientation for one in slices])
    spacings = np.array([one.spacing for one in slices])
    refuse((sizes != sizes[0]).any(axis=1), f"has another size than {name}", alike)
    turned = np.abs(orientations - orientations[0]).max(axis=1) > SAME_DIRECTION
    refuse(turned, f"has another orientation than {name}", alike)
    scaled = np.abs(spacings / spacings[0] - 1).max(axis=1) > SAME_SPACING
    refuse(scaled, f"has another PixelSpacing than {name}", alike)


def _step(ordered: list[SliceHeader], positions: np.ndarray, normal: np.ndarray, where: str) -> np.ndarray:
    """From each slice to the next, in mm (LPS)."""
    names = [one.path.name for one in ordered]
    if len(ordered) == 1:
        if not ordered[0].thickness or not np.isfinite(ordered[0].thickness):
            raise UserError(
                f"{where} holds the single slice {names[0]} of unknown thickness: give the folder of all slices."
            )
        return normal * ordered[0].thickness
    distances = np.diff(positions @ normal)
    # The lower median, so that of two distances the one with a slice missing does not count.
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    closest, widest = int(distances.argmin()), int(distances.argmax())
    if distances[closest] < SAME_PLACE:
        raise UserError(
            f"{where} holds different slices at one position ({names[closest]} and {names[closest + 1]}): keep one "
            "phase or time point in the series."
        )
    if distances[widest] > GAP * usual:
        raise UserError(
            f"{where} lacks slices between {names[widest]} and {names[widest + 1]} ({distances[widest]:.4g} mm apart, "
            f"others {usual:.4g} mm): copy or export the whole series again."
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    deviations = np.linalg.norm(np.diff(positions, axis=0) - step, axis=1)
    worst = int(deviations.argmax())
    if deviations[worst] > max(UNEVEN * usual, LEAST_UNEVEN):
        raise UserError(
            f"{where} has unevenly spaced slices ({names[worst]} and {names[worst + 1]} are {deviations[worst]:.3g} mm "
            f"off the step of {np.linalg.norm(step):.4g} mm): resample it to an even spacing, by dcm2niix for instance."
        )
    return step


def _finite(values: tuple[float, ...] | None) -> bool:
    return values is not None and bool(np.isfinite(values).all())


def _positive(values: tuple[float, ...] | None) -> bool:
    return values is not None and _finite(values) and min(values) > 0


def _perpendicular(orientation: tuple[float, ...] | None) -> bool:
    """Two unit vectors at a right angle, as far as rounding goes."""
    if orientation is None or not _finite(orientation):
        return False
    pair = np.array(orientation).reshape(2, 3)
    return bool(np.allclose(pair @ pair.T, np.eye(2), atol=0.01))
