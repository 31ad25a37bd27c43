"""The report over a cohort of segmented scans: one HTML file to sort, filter and look through, without a network."""

from __future__ import annotations

import base64
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medkd.data.natural_order import natural_key
from medkd.files import atomic_write
from medkd.inference.cohort_report_page import DIALOG, TOOLS, closing, facts, opening, text
from medkd.inference.outliers import (
    COMPARED,
    CUTOFF,
    FEWEST,
    MOST_PIECES,
    UNCERTAIN,
    Flag,
    LabelSummary,
    decimal,
    flags,
    summarise,
)

# Beyond this, previews stay files of their own: browsers open a page of a few hundred MB slowly or not at all.
MOST_PREVIEW_BYTES = 100_000_000

_TITLE = "Segmented scans"
_NONE = '<td class="none">–</td>'
# Key of a measurement -> name of its column.
_FIGURES = {
    "volume_ml": "Volume, ml",
    "length_mm": "Length, mm",
    "mean_hu": "Mean HU",
    "sd_hu": "SD HU",
    "touches_border": "Touches border",
    "components": "Components",
    "uncertainty": "Uncertainty",
}


@dataclass(frozen=True)
class _Line:
    """One row of the table: a scan and one of its labels, or a scan without any."""

    case: Mapping[str, Any]
    label: str | None
    figures: Mapping[str, Any] | None
    flags: list[Flag]

    @property
    def state(self) -> str:
        return "failed" if self.case["state"] == "failed" else "flagged" if self.flags else "fine"


def write_cohort_report(rows: Sequence[dict[str, Any]], out: Path) -> Path:
    """Write ``report.html`` over a cohort; the same rows in any order give the same bytes.

    The table has a line for each scan and label; which lines are flagged is told in :mod:`medkd.inference.outliers`,
    and in the page. Previews are part of the page up to 100 MB together; beyond, the page shows them from their files.

    Args:
        rows: of the manifest; of two with the same name the last counts.
        out: folder of the outputs. Previews that are not there are left out.

    Returns:
        The path of the report.

    Raises:
        UserError: the report cannot be written.
    """
    cases = sorted({row["name"]: row for row in rows}.values(), key=lambda case: natural_key(case["name"]))
    path = Path(out) / "report.html"
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(_page(cases, Path(out)))
    return path


def _page(cases: Sequence[Mapping[str, Any]], out: Path) -> Iterator[str]:
    done = [case for case in cases if case["state"] == "done"]
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for case in done:
        for label, figures in case["measurements"]["labels"].items():
            by_label.setdefault(label, []).append(figures)
    labels = {label: summarise(measurements) for label, measurements in by_label.items()}
    lines = [line for case in cases for line in _lines(case, labels)]
    previews = _previews(done, out)
    linked = sum(file.stat().st_size for file in previews.values()) > MOST_PREVIEW_BYTES
    keys = [key for key in _FIGURES if key != "uncertainty" or any(key in (line.figures or {}) for line in lines)]
    columns = ["Scan", "Label", *(_FIGURES[key] for key in keys), "Seconds", "Peak MB", "Flags"]

    yield opening(_TITLE, {"scans": columns, "usual": _USUAL_COLUMNS}, linked)
    yield _summary(cases, done, lines)
    if not cases:
        yield closing()
        return
    yield f"<section>\n<h2>Scans</h2>\n{TOOLS}"
    yield _LINKED if linked else ""
    yield f'<div class="scroll"><table id="scans">\n<thead><tr>{"".join(map(_head, columns))}</tr></thead>\n<tbody>\n'
    numbers = {name: number for number, name in enumerate(previews)}
    for line in lines:
        name = line.case["name"]
        file = quote(os.fsencode(line.case["preview"])) if linked and name in previews else None
        yield _row(line, keys, numbers.get(name), file)
    yield "</tbody>\n</table></div>\n</section>\n"
    yield _rules(labels)
    yield DIALOG
    for name, preview in previews.items() if not linked else ():
        encoded = base64.b64encode(preview.read_bytes()).decode("ascii")
        yield f'<script type="text/plain" id="preview-{numbers[name]}">{encoded}</script>\n'
    yield closing()


def _lines(case: Mapping[str, Any], labels: Mapping[str, LabelSummary]) -> list[_Line]:
    measured = case["measurements"]["labels"] if case["state"] == "done" else {}
    if not measured:
        return [_Line(case, None, None, [])]
    return [_Line(case, label, figures, flags(figures, labels[label])) for label, figures in measured.items()]


def _previews(done: Sequence[Mapping[str, Any]], out: Path) -> dict[str, Path]:
    """Name of a scan -> its preview, where that is a file in the folder of the outputs."""
    found = {case["name"]: out / case["preview"] for case in done if case["preview"]}
    root = out.resolve()
    return {
        name: path
        for name, path in found.items()
        if path.is_file() and path.resolve().is_relative_to(root) and os.access(path, os.R_OK)
    }


def _summary(cases: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]], lines: Sequence[_Line]) -> str:
    failed, flagged = len(cases) - len(done), len({line.case["name"] for line in lines if line.flags})
    tiles = "".join(
        f"<li{' class=alert' if alarming and count else ''}><b>{count}</b>{name}</li>"
        for name, count, alarming in (("done", len(done), False), ("failed", failed, True), ("flagged", flagged, True))
    )
    measured = [case["measurements"] for case in done]
    models = sorted({(each["model"], each["model_sha256"][:12]) for each in measured})
    seconds = [case["seconds"] for case in cases if case["seconds"] is not None]
    pairs = [
        ("Model", ", ".join(f"{text(model)} <code>{text(sha256)}</code>" for model, sha256 in models)),
        ("Backend", text(", ".join(sorted({each["backend"] for each in measured})))),
    ]
    if seconds:
        total, middle = timedelta(seconds=round(sum(seconds))), statistics.median(seconds)
        pairs.append(("Time of all scans, h:min:s", f"{total}, {middle:.1f} s for the median scan"))
    peaks = [each["peak_mb"] for each in measured if each["peak_mb"] is not None]
    if peaks:
        pairs.append(("Peak memory", f"at most {max(peaks):,} MB"))
    note = "More than one model drew these masks: their figures may differ for that reason alone."
    return "".join(
        [
            f'<header><h1>{_TITLE}</h1>\n<p class="lead">For research use. Masks and figures come from a model; '
            "no one has checked them.</p></header>\n",
            f'<ul class="tiles">{tiles}</ul>\n' if cases else "<p>There are no scans.</p>\n",
            facts((name, value) for name, value in pairs if value),
            f"<p><b>{note}</b></p>\n" if len(models) > 1 else "",
        ]
    )


_LINKED = """<p class="note">The previews are too large together to be part of this page: it shows them from their
files, so keep it in its folder.</p>
"""


def _head(column: str) -> str:
    kind = ' class="words"' if column in ("Scan", "Label", "Flags") else ""
    return f'<th scope="col" aria-sort="none"{kind}><button type="button">{column}</button></th>'


def _row(line: _Line, keys: Sequence[str], preview: int | None, file: str | None) -> str:
    case, name = line.case, text(line.case["name"])
    attributes, picture = f'data-state="{line.state}"', ""
    if preview is not None:
        attributes += f' data-scan="{preview}"' + (f' data-file="{text(file)}"' if file else "")
        picture = f'<button type="button" aria-label="Preview of {name}"><img alt="" decoding="async"></button>'
    cells = [
        f'<th scope="row">{picture}<bdi>{name}</bdi></th>',
        '<td class="none words">–</td>' if line.label is None else f'<td class="words">{text(line.label)}</td>',
        *(_figure((line.figures or {}).get(key)) for key in keys),
        _figure(case["seconds"]),
        _figure(case["measurements"]["peak_mb"] if case["state"] == "done" else None),
        _remarks(line),
    ]
    return f"<tr {attributes}>{''.join(cells)}</tr>\n"


def _figure(value: float | bool | None) -> str:
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    return f'<td data-value="{value}">{value if isinstance(value, int) else decimal(value)}</td>'


def _remarks(line: _Line) -> str:
    """Flags, sorted by how many there are; a failure outweighs them."""
    if line.state == "failed":
        return f'<td class="words" data-value="99"><b>Failed</b> {text(line.case["error"])}</td>'
    note = line.case.get("note")
    if not line.flags and not note:
        return '<td class="none words">–</td>'
    listed = [
        f'<span class="flag"><b>{text(flag.name)}</b>{f" ({text(flag.detail)})" if flag.detail else ""}</span>'
        for flag in line.flags
    ]
    if note:
        listed.append(f"<span>{text(note)}</span>")
    return f'<td class="words" data-value="{len(line.flags)}">{"".join(listed)}</td>'


_USUAL_COLUMNS = ["Label", "Scans", "Found in", *(_FIGURES[key] for key in COMPARED), "Touches border"]


def _rules(labels: Mapping[str, LabelSummary]) -> str:
    rows = []
    for label, cohort in labels.items():
        cells = [f'<th scope="row">{text(label)}</th><td>{cohort.scans}</td><td>{cohort.found}</td>']
        for key in COMPARED:
            usual = cohort.usual.get(key)
            cells.append(f"<td>{decimal(usual.median)} <small>{usual.limits}</small></td>" if usual else _NONE)
        cells.append(f"<td>{cohort.touching} <small>{'not flagged' if cohort.often_touches else ''}</small></td>")
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    first, *others = (f'scope="col">{column}</th>' for column in _USUAL_COLUMNS)
    head = f'<th class="words" {first}{"".join(f"<th {other}" for other in others)}'
    table = f"""<p>By label, the median over the scans where it was found; below it what is usual, once {FEWEST} show
it.</p>
<div class="scroll"><table id="usual">
<thead><tr>{head}</tr></thead>
<tbody>
{"".join(rows)}</tbody>
</table></div>
"""
    return f'<section id="rules">\n<h2>What is flagged</h2>\n{_RULES}{table if labels else ""}</section>\n'


_RULES = f"""<p>A flag asks for a look at the preview; it does not say that something is wrong, and its absence does not
say that all is right.</p>
<ul>
<li><b>volume, length or mean HU, high or low</b>: the modified z-score among the scans of the same label,
0.6745 × (value − median) / MAD, is beyond ±{CUTOFF}. MAD is the median absolute deviation from the median; where it is
0, the mean absolute deviation × 1.253314 takes the place of MAD / 0.6745. Only once {FEWEST} scans show the label;
scans where nothing was found do not count.</li>
<li><b>nothing found</b>: the mask is empty.</li>
<li><b>touches border</b>: the mask reaches the edge of the scan, so the structure may be cut off and its volume too
small. Not flagged for a label that does so in more than half of its scans, once {FEWEST} show it.</li>
<li><b>many pieces</b>: the network found more than {MOST_PIECES} separate pieces, before post-processing.</li>
<li><b>uncertain</b>: the uncertainty, where it was asked for, is above {UNCERTAIN}; 0 is a model that is sure of the
whole mask, 1 one to which all labels are equally likely. A model can be sure and wrong.</li>
</ul>
"""
