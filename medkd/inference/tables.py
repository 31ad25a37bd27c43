"""The tables and the report over all scans of a cohort."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from medkd.files import atomic_write, unwritable, write_json
from medkd.inference.manifest import Row, read_manifests
from medkd.lock import lock

LOCK_FILE = ".lock"
FIGURES = (
    "volume_ml", "voxels", "length_mm", "mean_hu", "sd_hu", "touches_border", "components", "uncertainty",
)  # fmt: skip
RUN = ("model", "model_sha256", "backend", "seconds", "peak_mb")

_LEFT_OVER = re.compile(r"\.writing-[a-z0-9_]{8}-(measurements\.csv|measurements\.json|report\.html)")


def write_tables(out: Path) -> None:
    """Write ``measurements.csv``, ``measurements.json`` and ``report.html`` over all manifests of a folder.

    Shards that end at the same time wait for each other, so that the last one tells of all.

    Raises:
        UserError: a manifest is damaged, or the folder cannot be written to.
    """
    from medkd.inference.cohort_report import write_cohort_report

    try:
        stream = (out / LOCK_FILE).open("a")
    except OSError as error:
        raise unwritable(out, error) from error
    with stream:
        lock(stream, wait=True)
        for file in out.iterdir():
            if _LEFT_OVER.fullmatch(file.name):
                file.unlink(missing_ok=True)
        # A mask that is missing is made again; what was measured of it does not count until then.
        rows = [row for row in read_manifests(out).values() if row["mask"] is None or (out / row["mask"]).is_file()]
        rows.sort(key=lambda row: row["name"])
        write_measurements(rows, out)
        write_cohort_report(rows, out)


def write_measurements(rows: Sequence[Row], out: Path) -> None:
    """Write ``measurements.csv``, a row for every scan and label, and ``measurements.json``; failed scans have none.

    Raises:
        UserError: they cannot be written.
    """
    done = [row for row in rows if row["state"] == "done"]
    cases = [{"name": row["name"], "scan": row["scan"], "mask": row["mask"], **row["measurements"]} for row in done]
    write_json(out / "measurements.json", cases)
    with (
        atomic_write(out / "measurements.csv") as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("name", "scan", "label", *FIGURES, *RUN))
        for case in cases:
            for label, figures in case["labels"].items():
                cells = [*(figures.get(key) for key in FIGURES), *(case[key] for key in RUN)]
                names = (case["name"], case["scan"], label)
                table.writerow([*map(_words, names), *map(_cell, cells)])


def _words(text: str) -> str:
    """A name as a spreadsheet shows it, and never as a formula that it computes."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value
