"""The files below a folder, whatever links and locked folders lie in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: str | Path) -> Iterator[Path]:
    """List a folder's files and those of its sub-folders, sorted by name within each folder.

    Links to folders are followed, each folder once; a link to a folder that holds the link is not. Hidden files and
    folders, what macOS adds to archives (`__MACOSX`), and folders that may not be read are left out.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _is_visible(name) and not _leads_up(place, name))
        for name in sorted(files):
            if _is_visible(name):
                yield Path(place, name)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _leads_up(place: str, name: str) -> bool:
    # Followed, such a link would lead to other patients' folders beside the one that was asked for.
    target, real = os.path.realpath(os.path.join(place, name)), os.path.realpath(place)  # noqa: PTH118
    return real == target or real.startswith(target.rstrip(os.sep) + os.sep)
