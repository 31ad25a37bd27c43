"""Writing a file or a folder that only appears when it is complete and found to be right."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medkd.errors import UserError
from medkd.files import unwritable


def check_free(path: Path, folder: bool = False) -> None:
    """Refuse to write over something.

    Args:
        path: to be written.
        folder: whether it is to be a folder; an empty one may be there already.

    Raises:
        UserError: the path is taken.
    """
    if folder and path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists: choose another --out, or delete it first.")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside ``path``; move it there when the block succeeds.

    Args:
        path: of a file or a folder; the folder it lies in is made if it is missing, and removed if the block fails.

    Raises:
        UserError: the place cannot be written to, or the disk is full.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield holder / path.name
        if path.is_dir():
            path.rmdir()
        (holder / path.name).rename(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        if not path.exists():
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()
