"""How the process treats memory it has freed."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h, with values that mean never.
_M_TRIM_THRESHOLD, _NEVER_TRIM = -1, -1
_M_MMAP_MAX, _NEVER_MAP = -4, 0


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
