"""Writing files so that a killed or failed run never leaves half of one."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from medkd.errors import UserError

# It can only be read by setting it, for all threads.
_UMASK_LOCK = threading.Lock()
# How deep the figures of a study are spread over lines: a run with one seed stays on one.
_DEPTH = 3


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` when the block succeeds.

    The temporary name keeps the suffixes of ``path``, since nibabel and others choose the format by them.

    Args:
        path: the file to write; its folder is made if it is missing.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix="-" + path.name, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; what we write is as readable as any other file of the user.
        with _UMASK_LOCK:
            umask = os.umask(0)
            os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_figures(path: str | Path, content: Any) -> None:
    """Write figures that are kept as :func:`spread_json`, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(spread_json(content), encoding="utf-8")


def spread_json(content: Any) -> str:
    """The JSON of figures that are kept: three levels on lines of their own, what lies deeper on one line each."""
    return _spread(content, 0) + "\n"


def _spread(value: Any, depth: int) -> str:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if depth and (depth >= _DEPTH or not any(isinstance(item, (dict, list)) for item in items)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    indent = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{json.dumps(key, ensure_ascii=False)}: {_spread(item, depth + 1)}" for key, item in value.items()]
    else:
        lines = [_spread(item, depth + 1) for item in value]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    return f"{opening}\n{indent}" + f",\n{indent}".join(lines) + f"\n{' ' * depth}{closing}"


def read_yaml(path: Path) -> Any:
    """Read a YAML file; one that has not changed is parsed once, since a study asks for the same few all the time."""
    return copy.copy(_parsed(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def unwritable(path: Path, error: OSError) -> UserError:
    """The sentence for a folder that cannot be written to."""
    return UserError(f"cannot write {path} ({error.strerror or error}): free some space or choose another folder.")
