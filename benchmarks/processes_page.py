"""How the curves of ``benchmarks/processes.py`` differ, and their table in ``docs/cluster.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FIRST_STEPS, TOLERANCE = 10, 1e-4
BEGIN, END = "<!-- python benchmarks/processes.py report -->", "<!-- end -->"
WAYS = {"two_processes": "two processes", "two_threads": "one, two threads"}


def summarize(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How far each other way of a run is from the first one.

    Args:
        runs: way to its curves ``loss`` and ``val_dice``, one value a step.

    Returns:
        Way to the largest difference of the loss in the first steps and in all, of Dice in all, and the first step
        (from 1) in which the loss differs by more than the tolerance, or None.
    """
    one, *others = runs
    summary = {}
    for way in others:
        loss, dice = (
            [abs(a - b) for a, b in zip(runs[way][figure], runs[one][figure], strict=True)]
            for figure in ("loss", "val_dice")
        )
        summary[way] = {
            "loss_first_steps": max(loss[:FIRST_STEPS]),
            "loss": max(loss),
            "first_step_above": next((step for step, value in enumerate(loss, 1) if value > TOLERANCE), None),
            "dice": max(dice),
        }
    return summary


def table(results: dict[str, Any]) -> str:
    """The table, a row for each recipe and way."""
    lines = [
        f"| recipe | against one process | loss, steps 1 to {FIRST_STEPS} | loss, all {results['steps']} "
        f"| first step above {_figure(TOLERANCE)} | Dice |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in results["arms"].values():
        for way, found in arm["differences"].items():
            first, all_steps, dice = (_figure(found[key]) for key in ("loss_first_steps", "loss", "dice"))
            above = found["first_step_above"] or "none"
            lines.append(f"| {arm['name']} | {WAYS[way]} | {first} | {all_steps} | {above} | {dice} |")
    return "\n".join(lines)


def write_table(page: Path, results: dict[str, Any]) -> None:
    """Put the table between the two marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


def _figure(value: float) -> str:
    return f"{value:.2g}" if value == 0 or value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")
