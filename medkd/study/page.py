"""The frame, look and building blocks of a report: HTML that needs no network, no other file and no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

from medkd.study.charts import MASK_COLOUR, TRUTH_COLOUR


def page(title: str, body: str, css: str = "") -> str:
    """A whole HTML file.

    Args:
        title: plain text.
        body: HTML.
        css: rules of this page alone.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{text(title)}</title>
<style>
{_CSS}{css}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def text(value: object) -> str:
    """Plain text as HTML."""
    return html.escape(str(value))


def section(heading: str, *parts: str, anchor: str = "") -> str:
    """A part of the page; heading and parts are HTML, ``anchor`` is the target of a link."""
    opening = f'<section id="{anchor}">' if anchor else "<section>"
    return f"{opening}<h2>{heading}</h2>{''.join(parts)}</section>"


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of plain text; nothing where there are no words."""
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{text(words)}</p>" if words else ""


def table(caption: str, head: str, rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table whose first column names the row; everything is HTML.

    Args:
        caption: above it.
        head: one or more rows, of :func:`head_row` or the like.
        rows: cells.
        kind: class names for the page's own rules.
    """
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
        for first, *others in rows
    )
    opening = f'<table class="{kind}">' if kind else "<table>"
    return (
        f'<div class="scroll">{opening}<caption>{caption}</caption>'
        f"<thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )


def head_row(cells: Iterable[str]) -> str:
    """Names of columns."""
    return f"<tr>{''.join(f'<th>{cell}</th>' for cell in cells)}</tr>"


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values, both HTML, one under the other."""
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in pairs.items())}</dl>"


def bullets(items: Iterable[str]) -> str:
    """A list of HTML items."""
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def png_figure(png: bytes, name: str, remark: str) -> str:
    """A picture with its name and a remark, both plain text, below it."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    image = f'<img src="{source}" alt="{text(name)}, {text(remark)}">'
    return f"<figure>{image}<figcaption><b>{text(name)}</b> {text(remark)}</figcaption></figure>"


def contour_legend(remark: str) -> str:
    """What the lines on slices mean, and a remark in HTML."""
    return f"""<p class="legend"><span><svg viewBox="0 0 44 12" aria-hidden="true"><path d="M2 6H42"
stroke="{TRUTH_COLOUR}" stroke-width="3"/></svg>truth, solid</span><span><svg viewBox="0 0 44 12"
aria-hidden="true"><path d="M2 6H42" stroke="{MASK_COLOUR}" stroke-width="3" stroke-dasharray="8 6"/></svg>model,
dashed</span><span class="aside">{remark}</span></p>"""


def duration(seconds: float) -> str:
    """Seconds as people say it: 3.2 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_CSS = """:root { --ink: #1c2329; --muted: #5d6872; --line: #dde2e7; --accent: #0b5c8f; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 48px 32px 64px; }
h1 { margin: 0 0 8px; font-size: 34px; line-height: 1.2; letter-spacing: -0.015em; }
h2 { margin: 0 0 16px; font-size: 22px; line-height: 1.3; letter-spacing: -0.01em; }
.first { margin: 32px 0 12px; }
h3 { margin: 28px 0 8px; font-size: 16px; }
h3 small { margin-left: 8px; color: var(--muted); font-size: 14px; font-weight: 400; }
p, ul { max-width: 76ch; margin: 0 0 14px; }
section { margin-top: 40px; padding-top: 28px; border-top: 1px solid var(--line); }
a { color: var(--accent); }
code { font: 0.92em ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.lead { color: var(--muted); font-size: 18px; }
.note { color: var(--muted); font-size: 14px; }

.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 16px; margin: 0 0 20px; }
.tile { padding: 16px 20px; border: 1px solid var(--line); border-top: 4px solid var(--tone); border-radius: 6px; }
.tile:nth-child(3n + 1) { --tone: #4d4d4d; }
.tile:nth-child(3n + 2) { --tone: #d55e00; }
.tile:nth-child(3n) { --tone: #0072b2; }
.tile b { display: block; font-size: 32px; line-height: 1.2; letter-spacing: -0.02em; white-space: nowrap; }
.tile small { color: var(--muted); font-size: 15px; font-weight: 400; letter-spacing: 0; }
.tile span { display: block; margin-top: 4px; font-size: 14px; line-height: 1.4; overflow-wrap: anywhere; }

.scroll { overflow-x: auto; margin: 0 0 20px; }
table { width: 100%; min-width: 640px; table-layout: fixed; border-collapse: collapse;
  font-size: 14.5px; line-height: 1.4;
  font-variant-numeric: tabular-nums lining-nums; }
caption { padding-bottom: 6px; font-weight: 600; font-size: 16px; text-align: left; }
th, td { padding: 8px 0 8px 16px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
thead th { color: var(--muted); font-size: 13px; font-weight: 500; vertical-align: bottom; }
thead th[colspan] { border-bottom: 1px solid #9aa3ad; text-align: center; }
thead tr:last-child th { border-bottom-color: #9aa3ad; }
thead th[rowspan] { border-bottom-color: #9aa3ad; }
thead th[rowspan]:last-child { width: 13%; }
th:first-child { width: 22%; padding-left: 0; text-align: left; }
thead tr + tr th:first-child { width: auto; padding-left: 16px; text-align: right; }
tbody th { font-weight: 500; }
th { overflow-wrap: anywhere; }
td { white-space: nowrap; }
td small { display: block; color: var(--muted); font-size: 12px; white-space: nowrap; }

figure { margin: 0; min-width: 0; }
figcaption { font-size: 13.5px; line-height: 1.4; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.slices { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; }
.slices img { display: block; width: 100%; border-radius: 3px; }
.slices figcaption { margin-top: 6px; color: var(--muted); }
.slices figcaption b { display: block; color: var(--ink); }
figcaption b { font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 24px; max-width: none; padding: 8px 12px;
  border-radius: 4px; background: #262b31; color: #fff; font-size: 14px; }
.legend span { display: flex; align-items: center; gap: 8px; }
.legend .aside { color: #c3cad1; }
.legend svg, .dice li svg { flex: none; width: 44px; }
.dice { display: grid; grid-template-columns: 2fr 1fr; gap: 32px; align-items: center; }
.dice ul { margin: 0; padding: 0; list-style: none; font-size: 14px; line-height: 1.4; }
.dice li { display: flex; gap: 12px; align-items: center; margin: 10px 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 20px 28px; }
.charts figure { display: flex; flex-direction: column; justify-content: space-between; gap: 6px; }

dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 24px; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }

@media (max-width: 800px) {
  main { padding: 28px 18px 40px; }
  h1 { font-size: 28px; }
  .tiles { gap: 10px; }
  .tile { padding: 12px; }
  .tile b { font-size: 24px; }
  .tile small { display: block; }
  .slices { grid-template-columns: repeat(2, 1fr); }
  .dice { grid-template-columns: 1fr; gap: 12px; }
}
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  @page { margin: 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  section { margin-top: 20px; padding-top: 16px; }
  h2, h3, caption, .legend { break-after: avoid; }
  .block, .tiles, figure, tr, dl { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { min-width: 0; font-size: 9pt; }
  .slices { grid-template-columns: repeat(4, 1fr); }
  .charts { grid-template-columns: repeat(3, 1fr); }
}
"""
