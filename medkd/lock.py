"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

from typing import IO, Any


def lock(stream: IO[Any], *, wait: bool) -> None:
    """Hold the lock of an open file until it is closed, or its process has ended.

    Where the system has no such locks, nothing is locked.

    Raises:
        BlockingIOError: another one holds it, and ``wait`` is false.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # Some network file systems have none.
        return
