"""The report of a study in Markdown, as GitHub shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medkd.study import origin, wording
from medkd.study.networks import network_rows
from medkd.study.tables import BETTER, WORSE, FigureRow, FigureTable, study_tables


def markdown_report(results: Mapping[str, Any]) -> str:
    """Write the report; the same results give the same text.

    Args:
        results: what :func:`medkd.study.results.gather` returns.
    """
    study, tables = results["study"], study_tables(results)
    lines = [
        f"# {study['title']}",
        "",
        f"Made by `{origin.command(results)}`; do not edit.",
        "",
        *_paragraphs([_text(study["about"])] if study["about"] else []),
        *_paragraphs([wording.progress(results)]),
        "## How to read the tables",
        "",
        *_paragraphs(wording.reading(results, tables)),
    ]
    for table in tables:
        lines += _table(table)
    lines += [*_networks(results), *_scaled(results), *_made(results), *_unfinished(results)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(table: FigureTable) -> list[str]:
    lines = [f"## {_text(table.title)}", ""]
    facts = [f"{_text(table.source)}."] if table.source else []
    facts += [f"Control: {_text(table.control_title)}.", *([_text(table.note)] if table.note else [])]
    lines += [" ".join(facts), "", *_gains(table), ""]
    for sentences in (wording.findings(table), wording.anova(table), [wording.unfinished(table)]):
        lines += _paragraphs([" ".join(map(_text, filter(None, sentences)))])
    return [*lines, *_details(table)]


def _gains(table: FigureTable) -> list[str]:
    """The gains, and what the thesis would have said, side by side with what it did say."""
    has_published = any(row.published is not None for row in table.rows)
    over = f" (over {_text(table.published_control_title)})" if table.published_control else ""
    head = ["", "Dice", "gain over control [95 % interval]", "p (Holm)", "verdict", f"pooled Dice{over}"]
    head += [f"published Dice{over}"] if has_published else []
    rows = []
    for row in table.rows:
        cells = [
            _text(wording.row_title(row)),
            wording.figure(row.dice, row.seed_deviation),
            wording.interval(row),
            wording.p_value(row.p_holm),
            _verdict(row, table),
            wording.with_gain(row.pooled_dice, row.pooled_gain),
        ]
        if has_published:
            cells.append(wording.with_gain(wording.published_dice(row), row.published_gain))
        rows.append(cells)
    return _grid(head, rows, left=(0, 4))


def _verdict(row: FigureRow, table: FigureTable) -> str:
    words = wording.verdict(row, table)
    return f"**{words}**" if row.verdict in (BETTER, WORSE) else words


def _details(table: FigureTable) -> list[str]:
    """What fewer readers look for, folded away."""
    names = {"iou": "IoU", "recall": "recall", "precision": "precision"}
    published = [name for name in names if any(name in (row.published or {}) for row in table.rows)]
    head = ["", "seeds", *names.values(), "parameters", "M multiply-adds"]
    head += [f"published {names[name]}" for name in published]
    rows = [[_text(row.title), str(row.seeds), *_details_cells(row, published)] for row in table.rows]
    return [
        "<details>",
        f"<summary>IoU, recall, precision and size: {_text(table.title)}</summary>",
        "",
        *_grid(head, rows),
        "",
        "</details>",
        "",
    ]


def _details_cells(row: FigureRow, published: Iterable[str]) -> list[str]:
    own = [wording.figure(value) for value in (row.iou, row.recall, row.precision)]
    theirs = [wording.figure((row.published or {}).get(name)) for name in published]
    return [*own, wording.whole(row.parameters), wording.millions(row.macs), *theirs]


def _networks(results: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            _code(row.name),
            str(len(row.runs)),
            wording.whole(row.parameters),
            wording.millions(row.macs),
            wording.milliseconds(row.latency),
            wording.dice_range(row),
            _code(row.best),
        ]
        for row in network_rows(results)
    ]
    if not rows:
        return []
    head = ["network", "runs", "parameters", "multiply-adds, M", "ms a slice", "Dice of its runs", "best run"]
    return ["## Networks", "", *_paragraphs([wording.networks(results)]), *_grid(head, rows, left=(0, 6)), ""]


def _scaled(results: Mapping[str, Any]) -> list[str]:
    sentences = [f"- {_text(sentence)}" for sentence in results["study"]["scaled"]]
    overrides = origin.scaled_overrides(results)
    rows = [[_text(name), _codes(pairs)] for name, pairs in overrides if pairs]
    lines = ["## What was scaled down", ""]
    lines += [*sentences, ""] if sentences else []
    if rows:
        lines += ["What recipes and networks have instead of what their configs say:", ""]
        lines += [*_grid(["", "overrides"], rows, left=(0, 1)), ""]
    return lines if sentences or rows else []


def _made(results: Mapping[str, Any]) -> list[str]:
    facts = [f"- {name}: {_text(value)}" for name, value in origin.made(results)]
    return ["## How it was made", "", f"- Command: `{origin.command(results)}`", *facts, "", *_runs(results)]


def _runs(results: Mapping[str, Any]) -> list[str]:
    """What every run was, folded away."""
    rows = [
        [
            _code(run.name),
            *map(_text, (run.title, run.recipe, run.network, run.teacher, run.method)),
            _codes(run.overrides),
        ]
        for run in origin.run_facts(results)
    ]
    head = ["run", "title", "recipe", "network", "teacher", "method", "overrides"]
    grid = _grid(head, rows, left=range(len(head)))
    return ["<details>", "<summary>What every run was</summary>", "", *grid, "", "</details>", ""]


def _unfinished(results: Mapping[str, Any]) -> list[str]:
    failed = [f"- `{id}` failed: {_text(error)}" for id, error in results["failed"].items()]
    missing = [f"- Not run: {', '.join(f'`{id}`' for id in results['missing'])}"] if results["missing"] else []
    return ["## Failed and missing runs", "", *failed, *missing, ""] if failed or missing else []


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """A GitHub table; the columns in ``left`` are set to the left, the others to the right."""
    rule = ["---" if index in left else "---:" for index in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [line for paragraph in texts if paragraph for line in (paragraph, "")]


def _codes(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(_code(f"{key} {value}") for key, value in pairs) or wording.NOTHING


def _code(value: str) -> str:
    """Code in one line that breaks no table."""
    words = " ".join(value.split()).replace("|", "\\|")
    return f"`` {words} ``" if "`" in words else f"`{words}`"


def _text(value: str) -> str:
    """Plain text as Markdown, in one line that breaks no table."""
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
