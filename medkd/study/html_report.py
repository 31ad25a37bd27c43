"""The report of a study as one HTML page that needs nothing from outside."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medkd.metrics import OverlapCounts
from medkd.study import origin, wording
from medkd.study.charts import Curve, curves_svg, line_sample_svg, mask_png, slice_png, window_around
from medkd.study.forest import FOREST_CSS
from medkd.study.html_tables import TABLES_CSS, table_section
from medkd.study.networks import network_rows
from medkd.study.page import (
    bullets,
    contour_legend,
    facts,
    head_row,
    page,
    paragraph,
    png_figure,
    section,
    table,
    text,
)
from medkd.study.pictures import ROLES, Picture
from medkd.study.spread import Spread, spread_svg
from medkd.study.tables import FigureTable, study_tables


def html_report(results: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """Write the report; the same input gives the same text.

    Args:
        results: what :func:`medkd.study.results.gather` returns.
        pictures: slices to show, in this order.

    Returns:
        A whole HTML file.
    """
    tables = study_tables(results)
    sections = [
        _opening(results, tables),
        *(table_section(table, f"table-{number}") for number, table in enumerate(tables, 1)),
        section("How to read the tables", *map(paragraph, wording.reading(results, tables)), anchor="reading"),
        _drawn(pictures),
        _training(results),
        _networks(results),
        _scaled(results),
        _unfinished(results),
        section("How it was made", _made(results), _runs(results)),
    ]
    return page(results["study"]["title"], "\n".join(filter(None, sections)), TABLES_CSS + FOREST_CSS + _CSS)


def _opening(results: Mapping[str, Any], tables: Sequence[FigureTable]) -> str:
    study, progress = results["study"], wording.progress(results)
    items = (
        f'<a href="#table-{number}">{text(table.title)}</a> {text(wording.findings(table)[0])}'
        for number, table in enumerate(tables, 1)
    )
    hints = ['<a href="#reading">how to read the tables</a>']
    if _scaled(results):
        hints.append('<a href="#scaled">what was scaled down</a>')
    return "".join(
        [
            f"<header><h1>{text(study['title'])}</h1>{paragraph(study['about'], 'lead')}</header>",
            paragraph(progress, "unfinished"),
            f'<h2 class="first">What was found</h2><div class="findings">{bullets(items)}</div>' if tables else "",
            f'<p class="note">See {" and ".join(hints)}.</p>' if tables else "",
        ]
    )


def _drawn(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    remark = "The dotted frame on the input marks the part enlarged beside it. A anterior, P posterior, R and L the "
    remark += "patient's right and left."
    note = "Models of the first seed; of each volume the slice that shows most of the structure."
    return section("What the models drew", paragraph(note, "note"), contour_legend(remark), *map(_slices, pictures))


def _slices(picture: Picture) -> str:
    window = window_around([picture.truth, *picture.masks.values()])
    nothing = np.zeros_like(picture.truth)
    figures = [
        png_figure(slice_png(picture.image, nothing, window), "Input", "the slice"),
        png_figure(mask_png(picture.image, picture.truth, nothing, window), "Truth", "enlarged"),
    ]
    for name, mask in picture.masks.items():
        png = mask_png(picture.image, picture.truth, mask, window)
        figures.append(png_figure(png, name, f"Dice {OverlapCounts.of(mask, picture.truth).dice:.3f} on this slice"))
    heading = f"<h3>{text(picture.case)} <small>{text(picture.caption)}</small></h3>"
    return f'<div class="block">{heading}<div class="slices">{"".join(figures)}</div></div>'


def _training(results: Mapping[str, Any]) -> str:
    titles = {run["name"]: run["title"] for run in results["study"]["runs"]}
    curves, faint, names = [], [], []
    for line, (role, role_name) in enumerate(ROLES.items()):
        run = results["study"]["pictures"].get(role)
        seeds = [_validation(result) for result in results["runs"].get(run, [])]
        shared = sorted(set.intersection(*map(set, seeds))) if seeds else []
        if not shared:
            continue
        curves.append(Curve(line, shared, [statistics.fmean(dice[epoch] for dice in seeds) for epoch in shared]))
        if len(seeds) > 1:
            faint += [Curve(line, list(dice), list(dice.values())) for dice in seeds]
        names.append(f"{line_sample_svg(line)}<span>{text(f'{role_name}: {titles[run]}')}</span>")
    if not curves:
        return ""
    title = "Dice on the validation volumes"
    note = "Thick: mean over the seeds. Thin: each seed." if faint else "One seed."
    chart = f"<figure><figcaption><b>{title}</b></figcaption>{curves_svg(curves, title, 420, 240, faint)}</figure>"
    legend = bullets(names) + paragraph(note, "note")
    return section("How training went", f'<div class="block dice">{chart}<div>{legend}</div></div>')


def _validation(result: Mapping[str, Any]) -> dict[int, float]:
    return {row["epoch"]: row["val_dice"] for row in result["history"] if "val_dice" in row}


def _networks(results: Mapping[str, Any]) -> str:
    networks = network_rows(results)
    if not networks:
        return ""
    rows = [
        [
            f"<code>{text(row.name)}</code>",
            str(len(row.runs)),
            wording.whole(row.parameters),
            wording.millions(row.macs),
            wording.milliseconds(row.latency),
            wording.dice_range(row),
            f"<code>{text(row.best)}</code>",
        ]
        for row in networks
    ]
    head = ["Network", "Runs", "Parameters", "Multiply-adds, millions", "ms a slice", "Dice of its runs", "Best run"]
    teachers = {run["teacher"] for run in results["study"]["runs"]}
    spreads = [Spread(row.name, row.macs, row.lowest, row.highest, bool(teachers & set(row.runs))) for row in networks]
    return section(
        "Networks",
        paragraph(wording.networks(results), "note"),
        table("Size, cost and Dice", head_row(head), rows, "wide"),
        _cost_chart(spreads) if len(spreads) > 1 else "",
    )


def _cost_chart(spreads: Sequence[Spread]) -> str:
    chart = spread_svg(spreads, ("multiply-adds for one slice", "Dice"), "Dice of each network against multiply-adds")
    words = "Squares teach, circles do not. Filled: the best run with the network; hollow: the worst."
    caption = f"<figcaption><b>Dice against multiply-adds</b> {words}</figcaption>"
    return f'<figure class="cost">{caption}{chart}</figure>'


def _scaled(results: Mapping[str, Any]) -> str:
    sentences = results["study"]["scaled"]
    rows = [[text(name), _codes(pairs)] for name, pairs in origin.scaled_overrides(results) if pairs]
    if not sentences and not rows:
        return ""
    overrides = table("What recipes and networks have instead", head_row(["Of", "Overrides"]), rows, "overrides")
    parts = [bullets(map(text, sentences)) if sentences else "", overrides if rows else ""]
    return section("What was scaled down", *parts, anchor="scaled")


def _unfinished(results: Mapping[str, Any]) -> str:
    failed = [f"<code>{text(job)}</code> failed: {text(error)}" for job, error in results["failed"].items()]
    missing = ", ".join(f"<code>{text(job)}</code>" for job in results["missing"])
    items = [*failed, *([f"Not run: {missing}"] if missing else [])]
    return section("Failed and missing runs", bullets(items)) if items else ""


def _made(results: Mapping[str, Any]) -> str:
    own = {"Command": f"<code>{text(origin.command(results))}</code>"}
    return facts(own | {text(name): text(value) for name, value in origin.made(results)})


def _runs(results: Mapping[str, Any]) -> str:
    """What every run was, folded away."""
    rows = [
        [
            f"<code>{text(run.name)}</code>",
            *map(text, (run.title, run.recipe, run.network, run.teacher, run.method)),
            _codes(run.overrides),
        ]
        for run in origin.run_facts(results)
    ]
    head = head_row(["Run", "Title", "Recipe", "Network", "Teacher", "Method", "Overrides"])
    title = "What every run was"
    return f"<details><summary>{title}</summary>{table(title, head, rows, 'wide runs')}</details>"


def _codes(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"<code>{text(f'{key} {value}')}</code>" for key, value in pairs) or wording.NOTHING


_CSS = """
.unfinished { padding: 8px 14px; border-left: 4px solid #b34700; background: #faf3ed; }
.findings ul { max-width: 90ch; padding: 0; list-style: none; }
.findings li { padding: 8px 0; border-bottom: 1px solid var(--line); }
.findings a { display: block; font-weight: 600; }
.overrides { min-width: 0; }
.overrides td, .overrides th, .runs td, .runs th { text-align: left; white-space: normal; }
.overrides code, .runs code { display: inline-block; margin-right: 12px; line-height: inherit; }
.runs { table-layout: fixed; min-width: 1030px; font-size: 13px; }
.runs th, .runs td { overflow-wrap: anywhere; }
.runs thead th:nth-child(n) { width: 12%; }
.runs thead tr:first-child th:first-child, .runs thead th:nth-child(2) { width: 14%; }
.runs thead th:nth-child(3) { width: 18%; }
.runs thead th:nth-child(5) { width: 7%; }
.runs thead th:last-child { width: 23%; }
dl + details { margin-top: 20px; }
.slices { grid-template-columns: repeat(5, 1fr); }
.dice figure, .cost { max-width: 580px; }
.cost { margin-top: 24px; }
@media (max-width: 800px) {
  .slices { grid-template-columns: repeat(6, 1fr); }
  .slices figure { grid-column: span 2; }
  .slices figure:nth-child(-n + 2) { grid-column: span 3; }
}
@media print {
  .slices { grid-template-columns: repeat(5, 1fr); }
  .slices figure, .slices figure:nth-child(-n + 2) { grid-column: auto; }
}
"""
