"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from medkd.errors import UserError
from medkd.files import unwritable

LOCK_FILE = ".lock"


@contextlib.contextmanager
def only_study_in(out: Path) -> Iterator[None]:
    """Make sure that one study at a time runs in a folder.

    Raises:
        UserError: one is running, or the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        stream = (out / LOCK_FILE).open("a")
    except OSError as error:
        raise unwritable(out, error) from error
    with stream:
        try:
            lock(stream, wait=False)
        except BlockingIOError as error:
            raise UserError(f"a study is running in {out}: wait until it is done, or choose another --out.") from error
        yield


def lock(stream: IO[str], *, wait: bool) -> None:
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
