"""How much memory the process takes, and how it treats what it has freed."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# Of glibc's malloc.h, with values that mean never.
_M_TRIM_THRESHOLD, _NEVER_TRIM = -1, -1
_M_MMAP_MAX, _NEVER_MAP = -4, 0

_PROCESS = Path("/proc/self")


def keep_freed_memory() -> bool:
    """Let the process keep the memory of freed tensors for the next ones instead of returning it to the system.

    By default every large tensor comes fresh from the system, which clears it page by page: in training with batches
    of some hundred MB that adds half to a step of a small network (``docs/performance.md``). Now the process grows over
    the first steps to its largest need and a little more, and stays there.

    Returns:
        Whether the C library has such a choice (glibc, on Linux).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_M_TRIM_THRESHOLD, _NEVER_TRIM), (_M_MMAP_MAX, _NEVER_MAP))
    return all([mallopt(option, value) == 1 for option, value in settings])


class PeakMemory:
    """The most memory that the process takes while something is done, all its threads together.

    On Linux it counts from when this is made, and so does whoever else asks the system for the peak; elsewhere since
    the process began.
    """

    def __init__(self) -> None:
        try:
            (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # The peak starts anew from what is in use now.
        except OSError:
            return

    def megabytes(self) -> int | None:
        """The peak so far in MB (10^6 bytes); None where the system does not tell."""
        kibibytes = process_memory("VmHWM")
        if kibibytes is None:
            try:
                import resource
            except ImportError:  # Windows.
                return None
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            kibibytes = peak // 1024 if sys.platform == "darwin" else peak
        return round(kibibytes * 1024 / 1e6)


def process_memory(field: str) -> int | None:
    """What the kernel tells of this process in KiB, such as ``VmRSS`` or ``VmHWM``; None where it does not."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
