"""A task folder as PNG slices, for tools that read pictures only.

The PNG conversion published with MTMS-KD computes a scale and never applies it: only 0..255 HU survives, so that fat,
lung and all other tissue below 0 HU come out black and nothing above 255 HU is told apart. Here the window is scaled to
the whole grey range, slices are turned the same way whatever the orientation of the file, and what was done is written
beside them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from PIL import Image
from skimage.transform import resize
from tqdm import tqdm

from medkd.data.decathlon import DecathlonTask
from medkd.data.nifti import check_pair, read_image, read_label
from medkd.data.volume import Volume
from medkd.errors import UserError
from medkd.files import unwritable, write_json

# Radiological display: columns run to the patient's left, rows to the back, slices to the head. This is the RAS+ grid
# with its first two axes reversed, which puts the patient's right at the left edge and the front on top.
DISPLAY = ("L", "P", "S")


def export_slices(
    folder: str | Path,
    out: str | Path,
    window: tuple[float, float] = (-125.0, 275.0),
    size: int | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Write every axial slice of the labelled cases as 8-bit grey PNG, with its mask.

    Slices go to `images/image_<case>_<slice>.png`; the mask, 255 for any foreground label and 0 elsewhere, to
    `masks/image_<case>_<slice>.png`. A task with several foreground labels gets a `masks_<label>/` for each as well.
    Row 0 is anterior, column 0 the patient's right, slice 000 the nearest to the feet; an oblique grid is taken along
    its nearest axes, without interpolation. `conversion.json` tells the window, the orientation and the grid of each
    case. Either all cases are written or, when one is bad, none.

    Args:
        folder: the task folder, as for `DecathlonTask.load`.
        out: the output folder, without the slices of an earlier export.
        window: HU that become grey 0 and 255; linear between them, cut outside.
        size: side of square pictures to resize to (linear for images, nearest for masks); None keeps the matrix.
        progress: show a bar on stderr.

    Returns:
        The counts `cases`, `slices` and `foreground_slices` (slices whose mask is not empty).

    Raises:
        UserError: a case cannot be read, `out` holds slices already, or an option is out of range.

    Reference:
        Biswas 2024, arXiv 2406.03173, for the format; its published code has the fault told above.
    """
    low, high = window
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UserError(f"the window is {low:g} to {high:g} HU: give two numbers, the lower one first.")
    if size is not None and size < 1:
        raise UserError(f"the size is {size} pixels: choose at least 1.")
    task = DecathlonTask.load(folder)
    masks = _mask_folders(task)
    out = Path(out)
    if any((out / name).exists() for name in ("images", "masks", "conversion.json")):
        raise UserError(f"{out} holds exported slices already: choose another folder or empty this one.")

    is_new = not out.exists()
    staging: Path | None = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=out))
        for name in ("images", *masks):
            (staging / name).mkdir()
        records = []
        bar = tqdm(task.cases, desc="writing slices", unit="volume", leave=False, disable=not progress)
        for case in bar:
            # Loading the task made sure that every case names a label.
            image, label = read_image(case.image), read_label(str(case.label))
            check_pair(image, label, task.labels)
            records.append({"name": case.name, **_export_case(case.name, image, label, staging, masks, window, size)})
        write_json(
            staging / "conversion.json",
            {
                "task": task.name,
                "window_hu": [float(low), float(high)],
                "grey": "round(255 * (HU - low) / (high - low)), cut to 0..255",
                "orientation": "".join(DISPLAY),
                "columns": "patient's right to left",
                "rows": "anterior to posterior",
                "slices": "feet to head",
                "size": size,
                "mask_folders": masks,
                "cases": records,
            },
        )
        for name in ("images", *masks, "conversion.json"):
            (staging / name).replace(out / name)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return {
        "cases": len(records),
        "slices": sum(record["slices"] for record in records),
        "foreground_slices": sum(record["foreground_slices"] for record in records),
    }


def _mask_folders(task: DecathlonTask) -> dict[str, list[int]]:
    """Name the mask folders, with the label values that are white in each."""
    folders = {"masks": list(task.foreground)}
    if len(task.foreground) > 1:
        for value, name in task.foreground.items():
            folder = "masks_" + re.sub(r"[^\w-]+", "_", name)
            if folder.lower() in {existing.lower() for existing in folders}:
                raise UserError(f"the label {name} of {task.folder} gives a mask folder twice: rename it.")
            folders[folder] = [value]
    return folders


def _export_case(
    name: str,
    image: Volume,
    label: Volume,
    folder: Path,
    masks: dict[str, list[int]],
    window: tuple[float, float],
    size: int | None,
) -> dict[str, Any]:
    """Write the slices of one case; return its entry in `conversion.json`."""
    low, high = window
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(DISPLAY))
    spacing = [image.spacing[list(turn[:, 0]).index(axis)] for axis in range(3)]
    grey = apply_orientation((np.clip(image.array, low, high) - low) * (255.0 / (high - low)), turn)
    values = apply_orientation(label.array, turn)
    columns, rows, slices = grey.shape
    digits = max(3, len(str(slices - 1)))
    height, width = (rows, columns) if size is None else (size, size)
    foreground_slices = 0
    for index in range(slices):
        file = f"image_{name}_{index:0{digits}d}.png"
        _write(folder / "images" / file, _resized(grey[:, :, index].T, size, order=1))
        for mask_folder, white in masks.items():
            mask = np.where(np.isin(values[:, :, index].T, white), 255.0, 0.0)
            foreground_slices += int(mask_folder == "masks" and mask.any())
            _write(folder / mask_folder / file, _resized(mask, size, order=0))
    return {
        "slices": slices,
        "foreground_slices": foreground_slices,
        "png_rows_columns": [height, width],
        "png_spacing_mm": [spacing[1] * rows / height, spacing[0] * columns / width],
        "slice_spacing_mm": spacing[2],
        "nifti_shape": list(image.array.shape),
        "nifti_orientation": image.orientation,
        "nifti_affine": image.affine.tolist(),
    }


def _resized(picture: np.ndarray, size: int | None, order: int) -> np.ndarray:
    if size is None:
        return picture
    return np.asarray(resize(picture, (size, size), order=order, preserve_range=True, anti_aliasing=order > 0))


def _write(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(np.rint(picture).astype(np.uint8)).save(path)
