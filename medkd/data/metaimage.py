"""MetaImage (`.mha`, or `.mhd` with its raw file), as ITK writes it, checked."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from medkd.data.lps import check_grid, ras_affine
from medkd.data.raw_image import (
    MOST_LINES,
    Block,
    block_beside,
    damaged,
    numbers,
    read_line,
    read_voxels,
    unreadable,
    whole_numbers,
)
from medkd.data.volume import Volume, checked_image, nifti_header
from medkd.errors import UserError

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # of 4 bytes on every platform, unlike C's
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: str | Path) -> Volume:
    """Read a 3-D MetaImage.

    Args:
        path: a `.mha` file, or a `.mhd` file whose raw file lies in the same folder.

    Returns:
        The volume, in the type of the file, 8-byte types as float32.

    Raises:
        UserError: the file is missing, damaged or no MetaImage; it is not one 3-D volume of grey values; it has no
            voxel sizes, or directions that are not independent; it holds NaN or infinite values, or one value only.

    Reference:
        https://itk.org/Wiki/ITK/MetaIO/Documentation
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            fields = _fields(stream, path)
            end_of_header = stream.tell()
    except OSError as error:
        raise unreadable(path, error) from error
    shape, affine = _grid(fields, path)
    array = read_voxels(path, shape, _block(fields, end_of_header, path))
    return checked_image(array, affine, nifti_header(shape, affine), path)


def _fields(stream: BinaryIO, path: Path) -> dict[str, str]:
    """The lines `key = value` up to the one that says where the voxels are, which ends the header."""
    fields: dict[str, str] = {}
    for _ in range(MOST_LINES):
        key, equals, value = read_line(stream, path).partition("=")
        if not equals:
            raise UserError(f"{path} is not a MetaImage file: convert it to .nii.gz first.")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return fields
    raise damaged(path, "its header does not end")


def _grid(fields: dict[str, str], path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    shape = whole_numbers(path, "DimSize", fields.get("DimSize", ""))
    if whole_numbers(path, "NDims", fields.get("NDims", "")) != (len(shape),):
        raise damaged(path, f"'DimSize' has {len(shape)} numbers, not as many as 'NDims' says")
    check_grid(shape, np.eye(4), path)
    spacing = _first(fields, "ElementSpacing", "ElementSize")
    if spacing is None:
        raise UserError(f"{path} says no voxel sizes: add 'ElementSpacing' in mm to its header.")
    sizes = numbers(path, "ElementSpacing", spacing, 3)
    if (sizes <= 0).any():
        raise UserError(f"{path} has the voxel sizes {spacing!r}: correct 'ElementSpacing' to sizes above 0.")
    matrix = _first(fields, "TransformMatrix", "Rotation", "Orientation") or "1 0 0 0 1 0 0 0 1"
    directions = numbers(path, "TransformMatrix", matrix, 9).reshape(3, 3).T  # the file has one axis after the other
    origin = numbers(path, "Offset", _first(fields, "Offset", "Position", "Origin") or "0 0 0", 3)
    affine = ras_affine(directions * sizes, origin)
    check_grid(shape, affine, path)
    return shape, affine


def _block(fields: dict[str, str], end_of_header: int, path: Path) -> Block:
    kind = fields.get("ElementType", "")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise UserError(f"{path} holds several values per voxel, such as RGB: give a grey image.")
    if kind not in TYPES:
        raise UserError(f"{path} holds voxels of the type {kind!r}: convert it to .nii.gz first.")
    if not _says(fields, "BinaryData", "True"):
        raise UserError(f"{path} holds voxels as text: convert it to .nii.gz first.")
    big_endian = _says(fields, "BinaryDataByteOrderMSB") or _says(fields, "ElementByteOrderMSB")
    dtype = np.dtype((">" if big_endian else "<") + TYPES[kind])
    name, compressed = fields["ElementDataFile"], _says(fields, "CompressedData")
    if name.upper() == "LOCAL":
        return Block(path, end_of_header, dtype, compressed)
    if name.split(" ")[0].upper() == "LIST" or "%" in name:
        raise UserError(f"{path} takes its voxels from several files: convert it to .nii.gz first.")
    offset = whole_numbers(path, "HeaderSize", fields.get("HeaderSize", "0"))
    if len(offset) != 1 or offset[0] < -1 or (compressed and offset[0] < 0):
        raise damaged(path, f"'HeaderSize' is {fields['HeaderSize']!r}")
    return Block(block_beside(path, name), offset[0], dtype, compressed)


def _first(fields: dict[str, str], *keys: str) -> str | None:
    """The value under the first of these keys, which the format takes for synonyms."""
    return next((fields[key] for key in keys if key in fields), None)


def _says(fields: dict[str, str], key: str, default: str = "False") -> bool:
    return fields.get(key, default).lower() in ("true", "1", "t", "y", "yes")
