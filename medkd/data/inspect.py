"""What is in a task folder, case by case, with everything that is wrong with it."""

from __future__ import annotations

import statistics
import textwrap
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medkd.data.decathlon import Case, DecathlonTask
from medkd.data.nifti import check_pair, distinct_values, read_image, read_label
from medkd.data.volume import Volume
from medkd.errors import UserError

WIDTH = 80


def inspect_task(folder: str | Path, progress: bool = True) -> dict[str, Any]:
    """Read every case of a task and report what it holds; a bad file is recorded and the rest goes on.

    Args:
        folder: the task folder, as for `DecathlonTask.load`.
        progress: show a bar on stderr.

    Returns:
        A JSON-able report: `name`, `labels` (value to name), `problem_count` and `cases`, each with `name`, `shape`,
        `spacing` (mm), `orientation` (such as `LAS`), `value_range` ([min, max], HU for CT), `label_values`,
        `volumes_ml` (by name of the foreground label) and `problems` (sentences). What could not be read is None.

    Raises:
        UserError: the folder has no usable `dataset.json`.
    """
    task = DecathlonTask.load(folder, check_files=False)
    bar = tqdm(task.cases, desc="reading volumes", unit="volume", leave=False, disable=not progress)
    cases = [_inspect_case(case, task) for case in bar]
    return {
        "name": task.name,
        "labels": {str(value): name for value, name in task.labels.items()},
        "problem_count": sum(len(case["problems"]) for case in cases),
        "cases": cases,
    }


def format_inspection(report: dict[str, Any]) -> str:
    """Lay out the report of `inspect_task` for a terminal of 80 columns: table, volumes by label, problems."""
    cases = report["cases"]
    labels = ", ".join(f"{value} {name}" for value, name in report["labels"].items())
    lines = textwrap.wrap(f"{report['name']}: {len(cases)} cases; labels: {labels}", WIDTH, subsequent_indent="  ")
    lines += ["", *_table(cases), "", *_volume_lines(report), ""]
    count = report["problem_count"]
    lines.append("No problems." if count == 0 else f"{count} problem{'s' if count > 1 else ''} (cases marked !):")
    for case in cases:
        for problem in case["problems"]:
            # Paths stay in one piece, so that they can be copied.
            lines += textwrap.wrap(
                f"- {case['name']}: {problem}",
                WIDTH,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def _inspect_case(case: Case, task: DecathlonTask) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": case.name,
        "shape": None,
        "spacing": None,
        "orientation": None,
        "value_range": None,
        "label_values": None,
        "volumes_ml": None,
        "problems": [],
    }
    image: Volume | None = None
    try:
        image = read_image(case.image)
        row["shape"] = list(image.array.shape)
        row["spacing"] = list(image.spacing)
        row["orientation"] = image.orientation
        row["value_range"] = [float(image.array.min()), float(image.array.max())]
    except UserError as error:
        row["problems"].append(str(error))
    try:
        label = read_label(str(case.label))  # loading the task made sure that a label is named
        counts = distinct_values(label.array)
        row["label_values"] = list(counts)
        row["volumes_ml"] = {name: counts.get(value, 0) * label.voxel_ml for value, name in task.foreground.items()}
        if image is not None:
            check_pair(image, label, task.labels)
    except UserError as error:
        row["problems"].append(str(error))
    return row


def _table(cases: list[dict[str, Any]]) -> list[str]:
    rows = [("case", "shape", "spacing (mm)", "axes", "values", "labels (ml)")]
    for case in cases:
        shape, spacing, values, volumes = (case[key] for key in ("shape", "spacing", "value_range", "volumes_ml"))
        rows.append(
            (
                ("! " if case["problems"] else "") + case["name"],
                "x".join(map(str, shape)) if shape else "-",
                "x".join(f"{size:.2f}" for size in spacing) if spacing else "-",
                case["orientation"] or "-",
                "..".join(f"{value:.4g}" for value in values) if values else "-",
                f"{sum(volumes.values()):.1f}" if volumes else "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Only the case name may grow without limit; it gives way to keep the row within the width.
    widths[0] = min(widths[0], max(8, WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    return [
        "  ".join(
            [_shortened(row[0], widths[0]).ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]


def _shortened(name: str, width: int) -> str:
    # The end of a case name tells cases apart, its beginning rarely.
    return name if len(name) <= width else name[:2] + ".." + name[len(name) - width + 4 :]


def _volume_lines(report: dict[str, Any]) -> list[str]:
    read = [case["volumes_ml"] for case in report["cases"] if case["volumes_ml"] is not None]
    names = [name for value, name in report["labels"].items() if value != "0"]
    lines = []
    for name in names if read else []:
        volumes = [case[name] for case in read]
        present = sum(volume > 0 for volume in volumes)
        lines += textwrap.wrap(
            f"{name}: {min(volumes):.1f} to {max(volumes):.1f} ml, median {statistics.median(volumes):.1f} ml, "
            f"present in {present} of {len(read)} cases",
            WIDTH,
            subsequent_indent="  ",
        )
    return lines
