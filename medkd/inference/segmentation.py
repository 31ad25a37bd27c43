"""The mask of a scan, as it is kept and written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import igzip

from medkd.data.volume import Volume
from medkd.files import atomic_write

COMPRESSION = 2  # of 0 to 3; a mask is small at any


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The mask of one scan.

    Attributes:
        mask: ``(X, Y, Z)`` uint8 label map on the grid of the scan.
        affine: of the scan, 4x4.
        scan: the volume that was segmented.
        measurements: ``labels`` (for each its figures, see :func:`~medkd.inference.measurements.measure_labels`, with
            ``components``, the pieces the network found before post-processing, and ``uncertainty`` if asked for),
            ``model``, ``model_sha256``, ``backend``, ``seconds`` and ``peak_mb``.
    """

    mask: np.ndarray
    affine: np.ndarray
    scan: Volume
    measurements: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write the mask; see :func:`save_mask`."""
        save_mask(self.mask, self.scan, path)


def save_mask(mask: np.ndarray, scan: Volume, path: str | Path) -> None:
    """Write a mask ``(X, Y, Z)`` as NIfTI with the shape, affine and orientation codes of its scan.

    The same mask gives the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    header = scan.header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"], header["cal_max"] = 0, 0
    header.set_slope_inter(1, 0)
    # What else the header of the scan says may be of the patient, or of its intensities.
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        if field in header:
            header[field] = b""
    header.extensions.clear()
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(mask, None, header)
    path = Path(path)
    with atomic_write(path) as temporary, temporary.open("wb") as raw:
        if path.name.endswith(".gz"):
            with igzip.IGzipFile("", "wb", COMPRESSION, raw, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(raw)
