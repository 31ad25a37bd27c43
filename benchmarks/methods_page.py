"""``docs/methods.md`` from the configs of the methods and the stored JSON of their benchmarks."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from results_page import gains_table, spread

from medkd.methods import describe_method, method_names

LABEL = "spleen"
# Of the student's own forward and backward pass: the most that one loss may take.
BUDGET = 0.15


def write_methods_page(path: Path, results: dict[str, Any], cost: dict[str, Any], losses: dict[str, Any]) -> None:
    """Write the page.

    Args:
        path: the Markdown file.
        results: what ``benchmarks/methods.py run`` stored.
        cost: what ``benchmarks/methods.py cost`` stored.
        losses: what ``benchmarks/losses.py`` stored.
    """
    lines = [
        "# Distillation methods",
        "",
        "Made by `python benchmarks/methods.py report` from the configs of the methods and from",
        "`docs/results/methods.json`, `methods_cost.json` and `losses.json`, which `python benchmarks/methods.py run`,",
        "`... cost` and `python benchmarks/losses.py` write; do not edit.",
        "",
        "`medkd distill --method NAME` trains with one of them, `medkd methods` lists them on the command line. How to",
        "write a mix of your own is in [the guide](guide.md#choosing-what-the-student-learns).",
        "",
        "## What each is made of",
        "",
        *_terms_table(),
        "",
        "Taps are those of both networks; `logits` compares the outputs, `mixed slices` those for slices with a",
        "square of another slice in them. Weights are those of the papers, or of",
        "their public code; `kd` has the weight that EMKD gives its prediction maps, those of `mimic`, `local` and",
        "`mix` are ours. Two terms are not in the form of the paper: the importance maps of `emkd` are those of its",
        "public code (fourth power, squared difference), and `pncd`, which has no public code, also takes the squared",
        "difference, because the 1-norm of two unit maps grows with their size and drowns everything else.",
        "",
        "## S1 on real CT, one budget",
        "",
        *_results(results, cost),
        "",
        "## What each term does",
        "",
        "Mean value of a term over an epoch, its weighted share of the loss, and the norm of that share's gradient in",
        "the student's parameters at the first step of the epoch; seed 0, first and last epoch. A term whose gradient",
        "is a hundredth of the segmentation's hardly teaches; one whose gradient is a hundred times as large leaves",
        "nothing to the label. In the first step the memory bank of `crd` is empty and the discriminator of `skd` and",
        "`ifvd` knows nothing: their gradients are 0 there.",
        "",
        *_terms_log(results),
        "",
        "## What each loss costs",
        "",
        *_losses(losses),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _terms_table() -> list[str]:
    rows = ["| method | paper | loss = sum of |", "| --- | --- | --- |"]
    for name in method_names():
        method = describe_method(name)
        terms = [f"{method['segmentation_weight']:g} segmentation"]
        terms += [f"{t['weight']:g} {t['loss']} ({t['place']})" for t in method["terms"]]
        rows.append(f"| `{name}` | {method['paper']} | {'<br>'.join(terms)} |")
    return rows


def _results(results: dict[str, Any], cost: dict[str, Any]) -> list[str]:
    arms = {name: {"name": f"`{name}`", "runs": runs} for name, runs in results["methods"].items() if runs}
    machine, scale = results["machine"], results["scale"]
    rows = ["| method | seeds | Dice | best validation Dice | ms per step | more memory, MiB |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    control_ms = statistics.median(row["control_ms"] for row in cost["rows"].values())
    for name, arm in arms.items():
        dice = spread([run["mean"][LABEL]["dice"] for run in arm["runs"]])
        best = spread([run["best_val_dice"] for run in arm["runs"]])
        timing = f"{control_ms:.0f}" if name == "control" else ""
        memory = ""
        if name in cost["rows"]:
            row = cost["rows"][name]
            timing = f"{row['method_ms']:.0f} ({row['method_ms'] / row['control_ms']:.1f} x control)"
            memory = f"{row['method_peak_mib'] - row['control_peak_mib']:.0f}"
        rows.append(f"| {arm['name']} | {len(arm['runs'])} | {dice} | {best} | {timing} | {memory} |")
    return [
        "20 CT volumes of BTCV with a spleen label, split by volume: 12 train the teacher, 6 of them the student, 2",
        "choose the checkpoint, 6 test. Dice per volume on the grid of the scan, mean over the test volumes, mean ±",
        "standard deviation between seeds. The control has the recipe of the distilled students and no distillation.",
        f"Scaled down, the same for all: {_overrides(scale['students'])}; the teacher: {_overrides(scale['teacher'])}.",
        "All methods share MTMS-KD's student recipe in everything else (RMSprop 1e-2, batch 20, Dice), whatever their",
        f"own papers train with; only the teacher's terms and their weights differ. {_machine(machine)}.",
        "",
        "At this budget the published weights of several methods drown the label: their gradients start out ten to",
        "some hundred times as large as the segmentation's (see below), the student first learns that nearly every",
        "pixel is background, and 16 epochs end before it learns the spleen. A Dice near 0 here says that, not that",
        "the method fails where it was published. Smaller weights or `--warmup_epochs` are what to try.",
        "",
        *rows,
        "",
        "Milliseconds are of a whole training step, the teacher's forward pass included: the control, then the",
        f"method, in one process, {cost['machine']['threads']} threads, median of {cost['steps']} steps each. They are",
        "good to some 20 %; what the losses themselves take is in the last table. More memory is the peak of the",
        "process beyond the control's, most of it the teacher.",
        "",
        *gains_table(arms),
    ]


def _terms_log(results: dict[str, Any]) -> list[str]:
    rows = [
        "| method | term | value | weighted | gradient norm | value | weighted | gradient norm |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in results["methods"].items():
        terms = next((run["terms"] for run in runs if "terms" in run), None)
        if terms is None:
            continue
        epochs = terms[-1]["epoch"]
        for term in terms[0]["gradient"]:
            cells = [
                f"{figure:.3g}" for row in terms for figure in (row[term], row["weighted"][term], row["gradient"][term])
            ]
            rows.append(f"| `{name}` | {term} | {' | '.join(cells)} |")
    return (
        [f"The first three figures are of epoch 1, the others of epoch {epochs}.", "", *rows] if len(rows) > 2 else rows
    )


def _losses(losses: dict[str, Any]) -> list[str]:
    setting = losses["setting"]
    by_loss: dict[str, dict[str, dict[str, float]]] = {}
    for row in losses["rows"]:
        by_loss.setdefault(row["loss"], {})[row["scale"]] = row
    scales = ("encoder", "bottleneck", "decoder", "logits")
    rows = [f"| loss | {' | '.join(scales)} |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, cells in by_loss.items():
        figures = [f"{cells[s]['ms']:.0f} ms, {cells[s]['share']:.0%}" if s in cells else "" for s in scales]
        rows.append(f"| {name} | {' | '.join(figures)} |")
    over = [
        f"{row['loss']} at the {row['scale']} ({row['share']:.0%})" for row in losses["rows"] if row["share"] > BUDGET
    ]
    return [
        "Forward and backward of one loss on the maps of S1 and T1, as a share of S1's own forward and backward pass:",
        f"batch {setting['batch']}, {setting['size']} x {setting['size']}, {setting['threads']} threads, median of",
        f"{setting['rounds']} interleaved rounds; S1 itself takes {losses['student_ms']:.0f} ms.",
        f"{_machine(losses['machine'])}.",
        "",
        *rows,
        "",
        f"Above {BUDGET:.0%}: {', '.join(over) if over else 'none'}.",
        "",
        "What would be dearer is sampled or pooled: contrast at granularity `pixel` draws 256 positions from a batch,",
        "`patch` averages both maps to a grid of 8 x 8, `region` and class-guided contrast compare one mean per class",
        "and sample; pair-wise affinity compares a 2 x 2 grid of nodes; the discriminator sees class probabilities",
        "averaged to at most 64 x 64. Everything else is computed on every position.",
    ]


def _overrides(overrides: dict[str, Any]) -> str:
    return ", ".join(f"`{key} {value}`" for key, value in overrides.items())


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"Measured on {machine['gpu'] or machine['processor']}, torch {machine['torch']}, MONAI {machine['monai']}, "
        f"medkd {machine['medkd']}"
    )
