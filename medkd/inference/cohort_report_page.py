"""The frame, look and behaviour of a cohort's report: HTML that asks for nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence


def opening(title: str, tables: dict[str, Sequence[str]], linked: bool) -> str:
    """All that comes before the content.

    Args:
        title: plain text.
        tables: id of each table -> names of its columns; on narrow screens its rows are cards that name their figures.
        linked: whether pictures are files beside the page, not part of it.
    """
    style = "\n" + _CSS + _NARROW.replace("/* columns */", "\n".join(map(_named_cells, tables, tables.values())))
    images = "data: 'self' file:" if linked else "data:"
    policy = f"default-src 'none'; style-src {_sha256(style)}; script-src {_sha256(_JS)}; img-src {images}; "
    policy += "base-uri 'none'; form-action 'none'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
"""


def closing() -> str:
    """All that comes after the content."""
    return f"</main>\n<script>{_JS}</script>\n</body>\n</html>\n"


def text(value: object) -> str:
    """Plain text as HTML, also within quoted attributes."""
    return html.escape(str(value))


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, both HTML."""
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in pairs)}</dl>\n"


def _named_cells(table: str, columns: Sequence[str]) -> str:
    return "\n".join(
        f'  #{table} tbody td:nth-child({place})::before {{ content: "{name}"; }}'
        for place, name in enumerate(columns, 1)
    )


def _sha256(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


# What the script finds in the page is in cohort_report.py; the previews lie in script elements that do not run.
TOOLS = """<div class="tools">
<label class="filter">Filter
<input id="filter" type="search" placeholder="scan, label, flag" autocomplete="off"></label>
<label><input id="only-flagged" type="checkbox"> Only flagged</label>
<label><input id="only-failed" type="checkbox"> Only failed</label>
<a href="#rules">What is flagged</a>
</div>
<p id="shown" class="note" role="status"></p>
<noscript><p class="note">Sorting, the filter and previews need JavaScript.</p></noscript>
"""
DIALOG = """<dialog id="viewer" aria-labelledby="viewer-name">
<div class="bar"><h2 id="viewer-name"></h2><span id="viewer-place"></span>
<button type="button" id="previous">Previous</button><button type="button" id="next">Next</button>
<button type="button" id="close">Close</button></div>
<img id="viewer-image" alt="">
<ul id="viewer-figures"></ul>
</dialog>
"""

_CSS = r""":root { color-scheme: light dark; --paper: #fff; --ink: #1c2329; --muted: #5d6872; --line: #dde2e7;
  --strong: #9aa3ad; --accent: #0b5c8f; --mark: #b34700; --tint: #faf3ed; --hover: #f2f5f8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #15191d; --ink: #e4e8ec; --muted: #a0abb5; --line: #333b43; --strong: #66717c;
    --accent: #74b9e8; --mark: #f0985a; --tint: #2a211a; --hover: #20262c; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 32px 64px; }
h1 { margin: 0 0 8px; font-size: 34px; line-height: 1.2; letter-spacing: -0.015em; }
h2 { margin: 0 0 12px; font-size: 22px; line-height: 1.3; letter-spacing: -0.01em; }
section { margin-top: 32px; padding-top: 24px; border-top: 1px solid var(--line); }
p, ul { max-width: 80ch; margin: 0 0 14px; }
a { color: var(--accent); }
code { font: 0.92em ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }
.lead { color: var(--muted); font-size: 18px; }
.note { color: var(--muted); font-size: 14px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 20px; padding: 0; max-width: none; list-style: none; }
.tiles li { flex: 0 1 150px; padding: 10px 18px; border: 1px solid var(--line); border-radius: 6px; }
.tiles b { display: block; font-size: 28px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles .alert { border-left: 6px solid var(--mark); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }

.tools { display: flex; flex-wrap: wrap; gap: 10px 24px; align-items: center; margin-bottom: 8px; }
.tools label { display: flex; gap: 8px; align-items: center; min-height: 32px; }
.filter input { width: 260px; max-width: 100%; padding: 6px 10px; border: 1px solid var(--strong); border-radius: 4px;
  background: var(--paper); color: inherit; font: inherit; }
input[type="checkbox"] { width: 18px; height: 18px; margin: 0; accent-color: var(--accent); }
button { border: 1px solid var(--strong); border-radius: 4px; background: var(--paper); color: inherit; font: inherit;
  cursor: pointer; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }

.scroll { overflow-x: auto; margin-bottom: 8px; }
table { width: 100%; border-collapse: collapse; font-size: 14px; line-height: 1.4;
  font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: 7px 0 7px 12px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
thead th { background: var(--paper); color: var(--muted); font-size: 13px; font-weight: 500; vertical-align: bottom;
  border-bottom-color: var(--strong); }
.words, tbody th { text-align: left; }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
td.words { overflow-wrap: break-word; }
td small { display: block; color: var(--muted); font-size: 12px; white-space: nowrap; }
.none { color: var(--muted); }
#scans { min-width: 1010px; }
#scans thead th { padding: 4px 0 4px 6px; }
#scans thead button { width: 100%; min-height: 32px; padding: 2px 0 2px 4px; border-color: transparent;
  text-align: inherit; line-height: 1.25; }
#scans thead button:hover { border-color: var(--strong); }
/* The second content is silent: screen readers know the order from aria-sort. */
#scans thead button::after { content: "\2195"; content: "\2195" / ""; margin-left: 4px; font-size: 11px; }
#scans thead [aria-sort="ascending"] button, #scans thead [aria-sort="descending"] button { color: var(--ink);
  font-weight: 700; }
#scans thead [aria-sort="ascending"] button::after { content: "\25B2"; content: "\25B2" / ""; }
#scans thead [aria-sort="descending"] button::after { content: "\25BC"; content: "\25BC" / ""; }
#scans thead th:first-child { width: 17%; }
#scans thead th:last-child { width: 22%; padding-left: 18px; }
#scans tbody td:last-child { padding: 7px 8px 7px 22px; overflow-wrap: anywhere; }
#scans tbody [data-state="flagged"] th, #scans tbody [data-state="failed"] th { box-shadow: inset 4px 0 var(--mark); }
#scans tbody th { padding-left: 12px; }
#scans tbody [data-scan] { cursor: pointer; }
#scans tbody [data-scan]:hover { background: var(--hover); }
#scans tbody [data-state="failed"] { background: var(--tint); }
#scans bdi, #scans tbody th button { display: block; }
#scans tbody th button { width: 168px; height: 62px; margin-bottom: 4px; padding: 0; overflow: hidden;
  background: #000; }
#scans tbody th img { display: block; width: 100%; height: 100%; object-fit: contain; }
.flag { display: block; }
#usual { width: auto; min-width: 620px; margin-top: 16px; }
#usual th, #usual td { padding-left: 28px; }
#usual th:first-child { padding-left: 0; }
tr[hidden] { display: none; }

dialog { width: min(1500px, calc(100vw - 24px)); max-width: none; max-height: calc(100vh - 24px); padding: 16px 20px;
  border: 1px solid var(--strong); border-radius: 8px; background: var(--paper); color: var(--ink); }
dialog::backdrop { background: rgb(0 0 0 / 65%); }
.bar { display: flex; flex-wrap: wrap; gap: 8px 10px; align-items: center; margin-bottom: 12px; }
.bar h2 { flex: 1 1 200px; margin: 0; font-size: 18px; overflow-wrap: anywhere; unicode-bidi: isolate; }
.bar span { color: var(--muted); font-size: 14px; }
.bar button { padding: 4px 14px; min-height: 34px; }
dialog img { display: block; width: 100%; height: auto; max-height: calc(100vh - 190px); object-fit: contain;
  background: #000; }
dialog ul { margin: 12px 0 0; padding: 0; list-style: none; font-size: 14px; overflow-wrap: anywhere; }

@media screen and (max-width: 1099px) {
  #scans th:first-child { position: sticky; left: 0; background: var(--paper); }
  #scans tbody [data-state="failed"] th { background: var(--tint); }
}
@media screen and (min-width: 1100px) {
  .scroll { overflow: visible; }
  #scans thead th { position: sticky; top: 0; z-index: 1; }
}
@media print {
  @page { margin: 12mm; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 20pt; }
  section { margin-top: 16px; padding-top: 12px; }
  .tools, noscript, #scans tbody th button, #scans thead button::after { display: none; }
  .scroll { overflow: visible; }
  #scans, #usual { min-width: 0; font-size: 7.5pt; }
  #scans thead th { font-size: 7pt; }
  /* Chromium leaves buttons out of the heads that it repeats on each page; their words alone it prints. */
  #scans thead button { display: contents; }
  #scans th, #scans td { padding-left: 5px; }
  #scans tbody td:last-child { padding: 7px 0 7px 12px; }
  #scans thead th:last-child { padding-left: 7px; }
  #scans tbody th { padding-left: 8px; }
  td small { font-size: 7pt; }
  #scans thead [aria-sort="ascending"] button::after, #scans thead [aria-sort="descending"] button::after {
    display: inline; }
  tr, .tiles, dl { break-inside: avoid; }
  h2 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

_NARROW = """@media screen and (max-width: 700px) {
  main { padding: 24px 16px 40px; }
  h1 { font-size: 28px; }
  .tiles { gap: 8px; }
  .tiles li { flex: 1 1 90px; padding: 8px 12px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 6px; }
  .filter, .filter input { width: 100%; }
  table, thead, tbody, tr, th, td { display: block; }
  #scans, #usual { width: 100%; min-width: 0; }
  #usual thead { display: none; }
  #scans thead tr { display: flex; flex-wrap: wrap; gap: 4px; padding-bottom: 8px; }
  #scans thead th, #scans thead th:first-child, #scans thead th:last-child { width: auto; padding: 0; border: 0; }
  #scans thead button { padding: 4px 8px; border-color: var(--line); }
  tbody tr:not([hidden]) { display: grid; grid-template-columns: 1fr 1fr; gap: 0 20px; padding: 12px 0;
    border-bottom: 1px solid var(--strong); }
  #scans tbody [data-state="flagged"], #scans tbody [data-state="failed"] { padding-left: 14px;
    box-shadow: inset 6px 0 var(--mark); }
  #scans th:first-child { position: static; }
  #scans tbody [data-state] th { grid-column: 1 / -1; font-size: 16px; background: none; box-shadow: none; }
  #scans tbody th button { width: 100%; height: 130px; }
  #usual tbody th { grid-column: 1 / -1; font-size: 16px; }
  #scans tbody th, #scans tbody td:nth-child(n), #usual th, #usual td { padding: 3px 0; border: 0; }
  tbody td { display: flex; gap: 12px; justify-content: space-between; }
  tbody td::before { color: var(--muted); text-align: left; }
  td.words { text-align: right; }
  #scans tbody td:last-child { display: block; grid-column: 1 / -1; text-align: left; }
  #scans tbody td:last-child::before { margin-right: 12px; }
/* columns */
}
"""

_JS = r"""
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const table = byId("scans");
  if (!table) return;
  const body = table.tBodies[0];
  const filter = byId("filter"), onlyFlagged = byId("only-flagged"), onlyFailed = byId("only-failed");
  const viewer = byId("viewer"), image = byId("viewer-image");
  const collator = new Intl.Collator("en", { numeric: true });
  const fold = (words) => words.normalize("NFKC").toLowerCase();
  const nameOf = (row) => row.cells[0].textContent.trim();
  let rows = [...body.rows];

  // The filter looks at the words of a row, not at its figures.
  const words = new Map(rows.map((row) =>
    [row, fold([...row.querySelectorAll("th, .words")].map((cell) => cell.textContent).join("\n"))]));

  function show() {
    const wanted = fold(filter.value).trim();
    let count = 0;
    for (const row of rows) {
      const state = row.dataset.state;
      const chosen = (!onlyFlagged.checked && !onlyFailed.checked)
        || (onlyFlagged.checked && state === "flagged") || (onlyFailed.checked && state === "failed");
      row.hidden = !(chosen && words.get(row).includes(wanted));
      count += !row.hidden;
    }
    byId("shown").textContent = `${count} of ${rows.length} rows shown`;
  }
  for (const control of [filter, onlyFlagged, onlyFailed]) control.addEventListener("input", show);
  show();

  function keyOf(cell) {
    if (cell.classList.contains("none")) return null;
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  }
  function compare(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
  }
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    // Missing values come last either way, and rows that are equal keep their order.
    rows = rows.map((row) => [keyOf(row.cells[column]), row])
      .sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)))
      .map(([, row]) => row);
    body.append(...rows);
  }));

  function source(row) {
    const { scan, file } = row.dataset;
    return file ?? `data:image/png;base64,${byId(`preview-${scan}`).textContent}`;
  }
  // Browsers load pictures from data and files at once, whatever loading="lazy" says.
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      target.src = source(target.closest("tr"));
    }
  }, { rootMargin: "600px" });
  for (const picture of body.querySelectorAll("img")) near.observe(picture);

  let current = null;
  function visibleScans() {
    const first = new Map();
    for (const row of rows) {
      const scan = row.dataset.scan;
      if (scan !== undefined && !row.hidden && !first.has(scan)) first.set(scan, row);
    }
    return first;
  }
  function open(row) {
    const scan = row.dataset.scan, scans = [...visibleScans().keys()];
    current = row;
    byId("viewer-name").textContent = nameOf(row);
    byId("viewer-place").textContent = `${scans.indexOf(scan) + 1} of ${scans.length} shown`;
    image.alt = `Preview of ${nameOf(row)}`;
    image.src = source(row);
    byId("viewer-figures").replaceChildren(...rows.filter((other) => other.dataset.scan === scan).map((other) => {
      const item = document.createElement("li");
      const flags = [...other.querySelectorAll(".flag")].map((flag) => flag.textContent.trim());
      const volume = `${other.cells[1].textContent}: ${other.cells[2].textContent} ml`;
      item.textContent = [volume, ...flags].join(" \u00b7 ");
      return item;
    }));
    if (!viewer.open) viewer.showModal();
  }
  function step(by) {
    const scans = [...visibleScans().values()];
    const next = scans.findIndex((row) => row.dataset.scan === current.dataset.scan) + by;
    if (scans[next]) open(scans[next]);
  }
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    const selecting = !event.target.closest("button") && String(getSelection());
    if (row.dataset.scan !== undefined && !selecting) open(row);
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => current.querySelector("button").focus());
})();
"""
