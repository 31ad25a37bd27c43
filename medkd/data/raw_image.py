"""What NRRD and MetaImage share: a header in text, then a block of numbers, in the same file or beside it.

Both are read here and not through ITK: a header has to be checked against the file before anything is allocated, which
means to understand all of it, and what two parsers understand differently can crash the process.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medkd.errors import UserError, first_line

LARGEST_RATIO = 1032  # of what DEFLATE can compress
CHUNK = 1 << 20
LONGEST_LINE = 1 << 16
MOST_LINES = 10_000
FARTHEST = 1e6  # mm; what is farther away or larger is no scan of a patient


@dataclass(frozen=True)
class Block:
    """Where the voxels of an image lie, first axis fastest.

    Attributes:
        file: the file that holds them.
        offset: the byte at which they begin; counted from the end of the block, thus -1, when they end the file.
        dtype: as stored.
        compressed: by DEFLATE, as gzip or zlib.
    """

    file: Path
    offset: int
    dtype: np.dtype
    compressed: bool


def read_voxels(path: Path, shape: tuple[int, ...], block: Block) -> np.ndarray:
    """Read the voxels of an image in native byte order, 8-byte types as float32.

    Args:
        path: of the header, for messages.
        shape: number of voxels along each axis.
        block: where they lie.

    Raises:
        UserError: the block is missing, shorter than the shape asks for, or damaged.
    """
    size = math.prod(shape) * block.dtype.itemsize
    try:
        length = block.file.stat().st_size
        offset = length - size if block.offset < 0 else block.offset
        # Asked before reading allocates whatever a damaged header says.
        most = (length - offset) * (LARGEST_RATIO if block.compressed else 1)
        if offset < 0 or most < size:
            raise damaged(path, f"{max(0, min(length, most)):,} of {size:,} bytes of voxels")
        with block.file.open("rb") as stream:
            stream.seek(offset)
            content = _inflate(stream, size, path) if block.compressed else np.fromfile(stream, np.uint8, size)
    except OSError as error:
        raise unreadable(path, error) from error
    if content.size != size:
        raise damaged(path, f"{content.size:,} of {size:,} bytes of voxels")
    array = content.view(block.dtype).reshape(shape, order="F")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes inf, which checked_image refuses
        return array.astype(np.float32 if array.dtype.itemsize > 4 else array.dtype.newbyteorder("="), copy=False)


def _inflate(stream: BinaryIO, size: int, path: Path) -> np.ndarray:
    """Decompress to at most one byte more than asked for; the checksum at the end is verified."""
    # A buffer that grows, since compressed data of a damaged file may end long before the size it claims.
    content = bytearray()
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # tells gzip from zlib by itself
    try:
        while len(content) <= size and not inflater.eof:
            chunk = inflater.unconsumed_tail or stream.read(CHUNK)
            part = inflater.decompress(chunk, CHUNK)
            if not chunk and not part:
                raise damaged(path, f"compressed voxels end after {len(content):,} of {size:,} bytes")
            content += part
    except zlib.error as error:
        raise damaged(path, error) from error
    return np.frombuffer(content, np.uint8)


def block_beside(path: Path, name: str) -> Path:
    """The file that a header names for its voxels.

    Raises:
        UserError: it lies outside the header's folder, or is missing.
    """
    file = Path(name)
    if "\0" in name or file.is_absolute() or ".." in file.parts:
        raise UserError(
            f"{path} takes its voxels from {name!r}, outside its own folder, which is not safe: put both into one "
            "folder and correct the name in the header."
        )
    file = path.parent / file
    try:
        found = file.is_file()
    except OSError:  # such as a name that is too long
        found = False
    if not found:
        raise UserError(f"{path} takes its voxels from {name!r}, which is not beside it: put that file there.")
    return file


def read_line(stream: BinaryIO, path: Path) -> str:
    """The next line of a header, without its end.

    Raises:
        UserError: it is longer than any header's, or the file ends within it.
    """
    line = stream.readline(LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise damaged(path, "its header does not end")
    return line.decode("utf-8", errors="replace").rstrip("\r\n")


def whole_numbers(path: Path, field: str, text: str) -> tuple[int, ...]:
    """Such as the shape in `512 512 100`.

    Raises:
        UserError: something else stands there.
    """
    try:
        return tuple(int(part) for part in text.split())
    except ValueError as error:
        raise damaged(path, f"'{field}' is {text[:40]!r}, not whole numbers") from error


def numbers(path: Path, field: str, text: str, count: int) -> np.ndarray:
    """Such as the position in `-250.0 -250.0 12.5`.

    Raises:
        UserError: there are not so many numbers, or not such as millimetres in a patient.
    """
    try:
        values = np.array([float(part) for part in text.split()])
    except ValueError as error:
        raise damaged(path, f"'{field}' is {text[:40]!r}, not {count} numbers") from error
    if len(values) != count or not (np.abs(values) < FARTHEST).all():  # NaN is refused too
        raise damaged(path, f"'{field}' is {text[:40]!r}, not {count} numbers")
    return values


def damaged(path: Path, reason: Exception | str) -> UserError:
    """The sentence for a file that contradicts itself."""
    return UserError(f"{path} is cut off or damaged ({first_line(reason)}): copy or export it again.")


def unreadable(path: Path, error: OSError) -> UserError:
    """The sentence for a file that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} is missing: check the path, or put the file there.")
    return UserError(f"{path} cannot be read ({error.strerror or error}): give a readable file.")
