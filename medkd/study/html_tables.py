"""A table of a study in HTML: the figures beside the published ones, a forest plot of the gains, what it shows."""

from __future__ import annotations

from medkd.study import wording
from medkd.study.forest import ForestRow, forest_html
from medkd.study.page import head_row, paragraph, section, table, text
from medkd.study.tables import BETTER, WORSE, FigureRow, FigureTable

_DETAILS = {"iou": "IoU", "recall": "Recall", "precision": "Precision"}


def table_section(figures: FigureTable, anchor: str) -> str:
    """All that the page shows of one table.

    Args:
        figures: of the table.
        anchor: target of links to it.

    Returns:
        A section of HTML with :data:`TABLES_CSS` and the rules of the forest plot.
    """
    facts = [f"{figures.source}." if figures.source else "", f"Control: {figures.control_title}.", figures.note]
    return section(
        text(figures.title),
        paragraph(" ".join(filter(None, facts)), "note"),
        paragraph(" ".join(wording.findings(figures))),
        _gains(figures),
        _forest(figures),
        paragraph(" ".join(wording.anova(figures))),
        paragraph(wording.unfinished(figures)),
        _details(figures),
        anchor=anchor,
    )


def _gains(figures: FigureTable) -> str:
    """The gains, and in columns of their own what the paper would have counted and what it printed."""
    has_gains, has_published = bool(figures.published_control), any(row.published for row in figures.rows)
    counted = ["Dice", *([f"Gain over {text(figures.published_control_title)}"] if has_gains else [])]
    groups = [("Against the control", 3), ("Pooled slices", len(counted))]
    names = ["Gain <small>± SD between seeds [95 % interval]</small>", "p <small>(Holm)</small>", "Verdict", *counted]
    if has_published:
        groups.append(("Published", len(counted)))
        names += counted
    rows = []
    for row in figures.rows:
        cells = [
            text(wording.row_title(row)),
            _small(wording.figure(row.dice, row.seed_deviation), " ±"),
            _small(wording.interval(row), " ±" if "±" in wording.interval(row) else " ["),
            text(wording.p_value(row.p_holm)),
            _verdict(row, figures),
            wording.figure(row.pooled_dice),
            *([wording.signed(row.pooled_gain)] if has_gains else []),
        ]
        if has_published:
            cells.append(wording.figure(wording.published_dice(row)))
            cells += [wording.signed(row.published_gain)] if has_gains else []
        rows.append(cells)
    kind = f"wide published-{len(counted)}" if has_published else "wide"
    return table(f"Dice and gains: {text(figures.title)}", _head(["Run", "Dice"], groups, names), rows, kind)


def _details(figures: FigureTable) -> str:
    """What fewer readers look for, folded away."""
    published = [name for name in _DETAILS if any(name in (row.published or {}) for row in figures.rows)]
    names = ["Seeds", *_DETAILS.values(), "Parameters", "M multiply-adds"]
    groups = [("Here", len(names)), *([("Published", len(published))] if published else [])]
    names += [_DETAILS[name] for name in published]
    rows = []
    for row in figures.rows:
        own = map(wording.figure, (row.iou, row.recall, row.precision))
        theirs = [wording.figure((row.published or {}).get(name)) for name in published]
        size = [wording.whole(row.parameters), wording.millions(row.macs)]
        rows.append([text(row.title), str(row.seeds), *own, *size, *theirs])
    title = f"IoU, recall, precision and size: {text(figures.title)}"
    kind = f"wide published-{len(published)}" if published else "wide"
    inside = table(title, _head(["Run"], groups, names), rows, kind)
    return f"<details><summary>{title}</summary>{inside}</details>"


def _head(alone: list[str], groups: list[tuple[str, int]], names: list[str]) -> str:
    """Two rows: columns that stand alone and groups of columns; names of the columns in the groups."""
    first = "".join(f'<th rowspan="2">{name}</th>' for name in alone)
    first += "".join(f'<th colspan="{width}" scope="colgroup">{name}</th>' for name, width in groups)
    return f"<tr>{first}</tr>{head_row(names)}"


def _small(words: str, start: str) -> str:
    """Text with what follows from ``start`` in small type."""
    first, found, rest = words.partition(start)
    return f"{text(first)} <small>{text(found.strip() + rest)}</small>" if found else text(words)


def _verdict(row: FigureRow, figures: FigureTable) -> str:
    words = text(wording.verdict(row, figures))
    if row.run == figures.control:
        return f'<span class="control">{words}</span>'
    return f"<strong>{words}</strong>" if row.verdict in (BETTER, WORSE) else words


def _forest(figures: FigureTable) -> str:
    rows = [
        ForestRow(
            title=row.title,
            words=wording.interval(row) if row.seeds else "not finished",
            gain=None if row.gain is None else (row.gain.mean, row.gain.low, row.gain.high),
            published=row.published_gain,
        )
        for row in figures.rows
        if row.run != figures.control
    ]
    description = f"Gains over {figures.control_title} with their intervals; the table above holds the same figures."
    plot = forest_html(rows, description)
    heading = f"<h3>Dice gained over the control ({text(figures.control_title)})</h3>"
    return f'<div class="block">{heading}{plot}</div>' if plot else ""


def _published_css(columns: int) -> str:
    """A shade behind the last columns of a table, and a line before them."""
    own, head = f".published-{columns}", "thead tr:last-child th"
    group = f"{own} thead tr:first-child th:last-child"
    shaded = f"{own} td:nth-last-child(-n + {columns}), {own} {head}:nth-last-child(-n + {columns}), {group}"
    first = f"{own} td:nth-last-child({columns}), {own} {head}:nth-last-child({columns}), {group}"
    before = f"{own} td:nth-last-child({columns + 1}), {own} {head}:nth-last-child({columns + 1})"
    return (
        f"{shaded} {{ background: #faf3ed; }}\n{first} {{ border-left: 3px double #b34700; }}\n"
        f"{before} {{ padding-right: 12px; }}\n"
    )


TABLES_CSS = f"""
.wide {{ table-layout: auto; min-width: 700px; border-collapse: separate; border-spacing: 0; line-height: 20px; }}
.wide th, .wide td {{ padding-left: 14px; overflow-wrap: break-word; }}
.wide th[scope="row"], .wide thead tr:first-child th:first-child {{ width: 21%; min-width: 8em; padding-left: 6px; }}
.wide td small {{ line-height: 16px; }}
.wide thead small {{ font-weight: 400; white-space: nowrap; }}
.wide td:last-child, .wide thead tr:last-child th:last-child {{ padding-right: 6px; }}
.wide tr:has(.control) > *, .wide tr:has(.control) > th[scope="row"] {{ background: #eef3f7; }}
{"".join(map(_published_css, (1, 2, 3)))}details {{ margin: 0 0 20px; }}
summary {{ padding: 6px 0; color: var(--accent); font-size: 14.5px; cursor: pointer; }}
@media (max-width: 800px) {{
  .wide th[scope="row"] {{ position: sticky; left: 0; background: #fff; }}
}}
@media print {{
  .wide {{ min-width: 0; font-size: 8pt; line-height: 12pt; }}
  .wide th, .wide td {{ padding-left: 6px; }}
  .wide td small {{ font-size: 7pt; line-height: 9pt; }}
  .wide th[scope="row"] {{ position: static; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }}
}}
"""
