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
    """Yield a path in a temporary folder beside ``path``, or in it; move it there when the block succeeds.

    Args:
        path: of a file or a folder; the folder it lies in is made if it is missing, and removed if the block fails. A
            folder that is there, or that a link leads to, is filled.

    Raises:
        UserError: the place cannot be written to, or the disk is full.
    """
    target = path.resolve()
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fill = target.is_dir()
        holder = Path(tempfile.mkdtemp(prefix=".writing-", dir=target if fill else target.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        written = holder / target.name
        yield written
        if fill:
            # A shell may stand in the folder, so it is not replaced.
            for part in list(written.iterdir()):
                part.rename(target / part.name)
        else:
            written.rename(target)
    except OSError as error:
        raise unwritable(path, error) from error
    except UserError as error:
        # Whoever writes a part knows the temporary path alone.
        if isinstance(error.__cause__, OSError) and str(holder) in str(error):
            raise unwritable(path, error.__cause__) from error
        raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        if not target.exists():
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()
