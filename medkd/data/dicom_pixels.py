"""The stored values of DICOM slices.

Compressed ones are decoded in a process of their own: the decoders of GDCM end the process when they meet damaged data,
and write about it to its output, past Python.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from pydicom import dcmread

from medkd.data.dicom_header import SliceHeader
from medkd.errors import UserError, first_line

LENGTH = struct.Struct("<q")  # goes before each array on its way between the processes


def read_pixels(slices: Sequence[SliceHeader]) -> Iterator[np.ndarray]:
    """Read slices one after the other.

    Returns:
        The stored values `(rows, columns)` of each, read when asked for.

    Raises:
        UserError: a file holds no pixel data, or data that is cut off or cannot be decoded.
    """
    paths = [one.path for one in slices]
    return _decode_apart(paths) if any(one.compressed for one in slices) else map(_decode, paths)


def _decode(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(path)
            if "PixelData" not in dataset:
                raise _undecodable(path, "there is none")
            return dataset.pixel_array
    except UserError:
        raise
    except Exception as error:  # whatever pydicom and its decoders stumble over
        raise _undecodable(path, first_line(error)) from error


def _decode_apart(paths: list[Path]) -> Iterator[np.ndarray]:
    """Have another process decode the files, which starts in half a second."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "medkd.data.dicom_pixels"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(b"\0".join(os.fsencode(path.absolute()) for path in paths))
            for path in paths:
                pixels = _receive(process.stdout)
                if pixels is None:
                    raise _undecodable(path, "the decoder crashed")
                if pixels.dtype.kind == "U":
                    raise _undecodable(path, str(pixels))
                yield pixels
        finally:
            process.kill()


def _receive(stream: IO[bytes]) -> np.ndarray | None:
    """The next array; None when the other process has died."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    content = stream.read(length)
    return np.load(BytesIO(content), allow_pickle=False) if len(content) == length else None


def _serve() -> None:
    """Decode the files that standard input names, up to the first that fails, whose reason is sent instead."""
    with os.fdopen(os.dup(1), "wb") as stream, Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # decoders write there too
        for name in sys.stdin.buffer.read().split(b"\0"):
            reason = None
            try:
                pixels = _decode(Path(os.fsdecode(name)))
            except UserError as error:
                reason = first_line(error.__cause__) if error.__cause__ else "there is none"
                pixels = np.array(reason)
            content = BytesIO()
            np.save(content, pixels, allow_pickle=False)
            stream.write(LENGTH.pack(content.tell()) + content.getvalue())
            stream.flush()
            if reason is not None:
                return


def _undecodable(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} holds no pixel data that can be decoded ({reason}): copy it again, or export the series uncompressed."
    )


if __name__ == "__main__":
    _serve()
