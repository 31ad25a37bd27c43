"""NRRD (`.nrrd`, or `.nhdr` with its data file), as 3D Slicer writes it, checked."""

from __future__ import annotations

import re
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
from medkd.data.volume import Volume, check_shape, checked_image, nifti_header
from medkd.errors import UserError

MAGIC = b"NRRD000"
TYPES = {
    name: code
    for code, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
# From the axes of each patient space to LPS.
SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
SPATIAL_KINDS = {"domain", "space", "???", "none"}


def read_nrrd(path: str | Path) -> Volume:
    """Read a 3-D NRRD image.

    Args:
        path: a `.nrrd` file, or a `.nhdr` file whose one data file lies in the same folder.

    Returns:
        The volume, in the type of the file, 8-byte types as float32.

    Raises:
        UserError: the file is missing, damaged or no NRRD; it is not one 3-D volume of grey values; it does not say
            where it lies in the patient, or its directions are not independent; its encoding is neither raw nor gzip;
            it holds NaN or infinite values, or one value only.

    Reference:
        https://teem.sourceforge.net/nrrd/format.html
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
    """The lines `field: value` up to the empty line, or to the end of a file without voxels."""
    if not stream.read(len(MAGIC)) == MAGIC:
        raise UserError(f"{path} is not a NRRD file: convert it to .nii.gz first.")
    read_line(stream, path)
    fields: dict[str, str] = {}
    for _ in range(MOST_LINES):
        if "data file" in fields and not stream.peek(1):  # type: ignore[attr-defined]
            return fields
        line = read_line(stream, path)
        if not line:
            return fields
        if line.startswith("#") or re.match(r"[^:]*:=", line):
            continue  # comments, and keys of other programs
        field, colon, value = line.partition(":")
        if not colon:
            raise damaged(path, f"its header has the line {line[:40]!r}")
        name = field.strip().lower()
        fields["data file" if name == "datafile" else name] = value.strip()
    raise damaged(path, "its header does not end")


def _grid(fields: dict[str, str], path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    shape = whole_numbers(path, "sizes", fields.get("sizes", ""))
    if whole_numbers(path, "dimension", fields.get("dimension", "")) != (len(shape),):
        raise damaged(path, f"'sizes' has {len(shape)} numbers, not as many as 'dimension' says")
    check_shape(shape, path)
    if not SPATIAL_KINDS.issuperset(fields.get("kinds", "").lower().split()):
        raise UserError(f"{path} has axes of the kinds {fields['kinds']!r}: give one 3-D volume of grey values.")
    space, directions = fields.get("space", "").lower(), fields.get("space directions")
    if space not in SPACES or directions is None:
        raise UserError(
            f"{path} does not say how it lies in the patient: save it again with 'space', 'space directions' and "
            "'space origin', from 3D Slicer for instance."
        )
    if not {"mm"}.issuperset(re.findall(r'"([^"]*)"', fields.get("space units", ""))):
        raise UserError(f"{path} is measured in {fields['space units']!r}: save it again in mm.")
    to_lps = np.array(SPACES[space])[:, None]
    axes = to_lps * numbers(path, "space directions", _vectors(directions), 9).reshape(3, 3).T
    origin = numbers(path, "space origin", _vectors(fields.get("space origin", "(0,0,0)")), 3)
    affine = ras_affine(axes, to_lps[:, 0] * origin)
    check_grid(shape, affine, path)
    return shape, affine


def _vectors(text: str) -> str:
    return re.sub(r"[(),]", " ", text)


def _block(fields: dict[str, str], end_of_header: int, path: Path) -> Block:
    kind, encoding = fields.get("type", "").lower(), fields.get("encoding", "").lower()
    if kind not in TYPES:
        raise UserError(f"{path} holds voxels of the type {kind!r}: convert it to .nii.gz first.")
    if encoding not in ("raw", "gzip", "gz"):
        raise UserError(f"{path} has the encoding {encoding!r}: save it again as raw or gzip.")
    endian = fields.get("endian", "little" if TYPES[kind].endswith("1") else "")
    if endian not in ("little", "big"):
        raise damaged(path, f"'endian' is {endian!r}")
    if fields.get("line skip", "0") != "0" or fields.get("byte skip", "0") not in ("0", "-1"):
        raise UserError(f"{path} skips a part of its data file: convert it to .nii.gz first.")
    dtype = np.dtype((">" if endian == "big" else "<") + TYPES[kind])
    compressed = encoding != "raw"
    at_end = fields.get("byte skip") == "-1" and not compressed
    name = fields.get("data file")
    if name is None:
        return Block(path, -1 if at_end else end_of_header, dtype, compressed)
    if name.split(" ")[0] == "LIST" or "%" in name:
        raise UserError(f"{path} takes its voxels from several files: convert it to .nii.gz first.")
    return Block(block_beside(path, name), -1 if at_end else 0, dtype, compressed)
