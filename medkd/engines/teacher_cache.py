"""The files in which a teacher's outputs are kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from pathlib import Path

import numpy as np

from medkd.data.cache import cache_folder
from medkd.errors import UserError
from medkd.files import atomic_write

# Of a NumPy file.
HEADER = 128


class TeacherCache:
    """float16 maps as files, one a slice, in one folder for each volume; the folders used longest ago make room.

    What finds no room is not kept, and folders this run has used are never removed. A file appears under its name only
    when it is complete, so a killed run leaves a usable cache, and runs at the same time may share one.

    Args:
        folder: holds the cache, in ``teacher``; ``MEDKD_CACHE`` or the user's cache folder by default.
        limit_gb: how many GB it may take.

    Raises:
        UserError: the limit is negative.
    """

    def __init__(self, folder: str | Path | None = None, limit_gb: float = 20.0) -> None:
        if limit_gb < 0:
            raise UserError(f"the teacher's cache may take {limit_gb} GB: give 0 or more.")
        self.folder = (cache_folder() if folder is None else Path(folder)) / "teacher"
        self.limit = int(limit_gb * 1e9)
        self._in_use: set[Path] = set()
        self._sizes: dict[Path, int] | None = None

    def read(self, volume: str, row: str) -> np.ndarray | None:
        """The map of a slice, memory-mapped; None where it is not kept or cannot be read.

        Args:
            volume: folder of the volume inside the cache.
            row: of the slice.
        """
        folder = self._use(volume)
        try:
            array = np.load(folder / f"{row}.npy", mmap_mode="r", allow_pickle=False)
        except Exception:  # NumPy's reader raises errors of many kinds on a damaged file.
            return None
        return array if isinstance(array, np.ndarray) and array.dtype == np.float16 else None

    def write(self, volume: str, row: str, array: np.ndarray) -> None:
        """Keep the map of a slice if there is room for it."""
        folder = self._use(volume)
        file = folder / f"{row}.npy"
        known = _size(file)
        if not self._make_room(array.nbytes + HEADER - known):
            return
        try:
            with atomic_write(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, array)
        except UserError as error:
            self.limit = 0
            warnings.warn(f"from here on the teacher's outputs are computed anew: {error}", stacklevel=2)
            return
        sizes = self._folder_sizes()
        sizes[folder] = sizes.get(folder, 0) + _size(file) - known

    def _use(self, volume: str) -> Path:
        """The folder of a volume, with the time of this use noted."""
        folder = self.folder / volume
        if folder not in self._in_use:
            self._in_use.add(folder)
            with contextlib.suppress(OSError):  # New, read-only, or just removed by another run.
                os.utime(folder)
        return folder

    def _make_room(self, wanted: int) -> bool:
        """Whether so many bytes fit, if need be after the removal of others."""
        sizes = self._folder_sizes()
        excess = sum(sizes.values()) + wanted - self.limit
        if excess <= 0:
            return True
        idle = sorted(set(sizes) - self._in_use, key=_last_use)
        if excess > sum(sizes[folder] for folder in idle):
            return False
        for folder in idle:
            if excess <= 0:
                break
            shutil.rmtree(folder, ignore_errors=True)
            excess -= sizes.pop(folder)
        return True

    def _folder_sizes(self) -> dict[Path, int]:
        """Bytes in the folder of every volume, counted once; what other runs add meanwhile is not seen."""
        if self._sizes is None:
            self._sizes = {}
            for file in self.folder.glob("*/*/*/*.npy"):
                self._sizes[file.parent] = self._sizes.get(file.parent, 0) + _size(file)
        return self._sizes


def _size(file: Path) -> int:
    """Bytes of a file, 0 where there is none (any more)."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _last_use(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
