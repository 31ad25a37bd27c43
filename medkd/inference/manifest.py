"""The record of a cohort: what became of every scan, a row of JSON each, that survives whatever stops the run."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medkd.errors import UserError
from medkd.files import unwritable
from medkd.lock import lock

Row = dict[str, Any]

_NAME = re.compile(r"manifest(-\d+-of-\d+)?\.jsonl")
_KEYS = {"name", "state", "mask", "key", "ended"}


def manifest_file(out: Path, shard: tuple[int, int] | None = None) -> Path:
    """Where a run notes its rows: every shard, such as 2 of 5, has a file of its own."""
    return out / ("manifest.jsonl" if shard is None else f"manifest-{shard[0]}-of-{shard[1]}.jsonl")


def read_manifests(out: Path) -> dict[str, Row]:
    """The last row of every name, whichever manifest of a folder it stands in.

    Raises:
        UserError: a manifest cannot be read or is damaged.
    """
    files = sorted(file for file in out.iterdir() if _NAME.fullmatch(file.name))
    rows = sorted((row for file in files for row in _read(file)), key=lambda row: row["ended"])
    return {row["name"]: row for row in rows}


def _read(file: Path) -> Iterator[Row]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}): choose another --out.") from error
    # What stands behind the last line break was cut off when its run was killed.
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not row.keys() >= _KEYS:
            raise UserError(f"line {number} of {file} is damaged: delete it, and its scan is segmented again.")
        yield row


@contextlib.contextmanager
def open_manifest(file: Path) -> Iterator[Callable[[Row], None]]:
    """Open a manifest for one run alone.

    Yields:
        A function that adds a row; when it returns, the row is on the disk.

    Raises:
        UserError: another run holds it, or it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = file.open("a+b", buffering=0)
    except OSError as error:
        raise unwritable(file, error) from error

    def append(row: Row) -> None:
        rest = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError as error:
            raise unwritable(file, error) from error

    with stream:
        try:
            lock(stream, wait=False)
        except BlockingIOError as error:
            raise UserError(f"a run is writing {file}: wait until it is done, or choose another --out.") from error
        stream.seek(0)
        stream.truncate(stream.readall().rfind(b"\n") + 1)
        yield append
