"""One study at a time in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from medkd.errors import UserError
from medkd.files import unwritable
from medkd.lock import lock

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
