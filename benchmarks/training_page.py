"""``docs/performance.md`` from the stored JSON of ``benchmarks/training.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What the published form of a step is compared with, the least ratio that is asked for, and what the row says.
TARGETS = {
    "teacher": 4.0,
    "student": 2.0,
    "B+PMD uncached": 2.5,
    "B+PMD cached": 15.0,
    "all uncached": 2.5,
    "all cached": 15.0,
}
# A cached step may take so many of the student's own.
OWN_STEPS = 1.5
# Of one slice of 256x256, both decoders.
T1_MULTIPLY_ADDS = 79.3e9
NAMES = {
    "published": "as published",
    "uncached": "medkd, first epoch",
    "cached": "medkd, cache warm",
    "": "medkd",
}
WHY = """\
"As published" is what the public code of MTMS-KD does: contiguous float32, all of the teacher in every step with
both decoders, two forward passes in a step of the teacher, projectors drawn anew in every step; its pooling in
front of them is ours, and cheap. medkd's forms are the trainers of the recipes, data loading included. What makes
the difference:

- **The cache** (`medkd/engines/cached_teacher.py`): what the teacher says of a slice is kept in files, float16 and
  averaged onto the grid the losses use; from the second epoch on, and in every later run with the same teacher and
  slices, the teacher does not run. Losses are those without it to 1e-3.
- **Only what somebody listens to** (`medkd/engines/frozen_teacher.py`): no reconstruction decoder; no decoder at
  all where only encoder and bottleneck are distilled; batch norms folded into the convolutions before them.
- **Memory that is kept** (`medkd/memory.py`): glibc returns every large tensor to the system and gets it back page by
  page; the recipes tell it not to.
- **Channels-last** networks, and one forward pass for both losses of a teacher.

What does not pay is off. bfloat16 autocast is chosen on GPUs and on processors with matrix units (AMX), not on one that
has bfloat16 instructions alone (the table below); `--amp true` asks for it anywhere. `--compile true` (`torch.compile`)
is left to the user, since the first step then takes up to a minute. What is left of T1's step is mostly
arithmetic.""".splitlines()
SHARES = ("data", "teacher", "student and losses", "validation", "logging")


def write_performance_page(path: Path, results: Path) -> None:
    """Write the page.

    Args:
        path: the Markdown file.
        results: folder of the JSON files.
    """
    stored = {
        part: json.loads((results / f"training_{part}.json").read_text(encoding="utf-8"))
        for part in ("steps", "choices", "growth", "epoch", "precision")
    }
    lines = [
        "# Training speed",
        "",
        "Made by `python benchmarks/training.py report` from `docs/results/training_*.json`, which `... steps`,",
        "`... choices`, `... growth`, `... epoch DATA` and `... precision DATA` write; `make bench-training` does the",
        "first three. Do not edit.",
        "",
        *_steps(stored["steps"]),
        "",
        *WHY,
        "",
        "## What pays",
        "",
        *_choices(stored["choices"]),
        "",
        "## How the cost grows",
        "",
        *_growth(stored["growth"]),
        "",
        "## An epoch from start to end",
        "",
        *_epoch(stored["epoch"]),
        "",
        "## bfloat16 and float32",
        "",
        *_precision(stored["precision"]),
        "",
        "## On a GPU",
        "",
        *_gpu(results / "training_steps_cuda.json"),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _machine(results: dict[str, Any]) -> str:
    facts = results["machine"]
    return f"{facts['gpu'] or facts['processor']}, {facts['threads']} threads, torch {facts['torch']}"


def _steps(steps: dict[str, Any]) -> list[str]:
    setting = steps["setting"]
    lines = [
        f"## One step, batch {setting['batch']}, {setting['size']}x{setting['size']}x3",
        "",
        f"{_machine(steps)}; median of {steps['rounds']} rounds after a warm-up. Peak is that of a process of its own.",
        "",
        "| step | form | seconds | ratio | asked for | peak MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row, forms in steps["rows"].items():
        published = next(form for name, form in forms.items() if name.endswith("published"))["seconds"]
        for name, form in forms.items():
            is_other_row = name == "student" and not row.startswith("student")
            ratio, asked = published / form["seconds"], TARGETS.get(name)
            cells = [row, "student alone, medkd" if is_other_row else NAMES[name.partition(" ")[2]]]
            cells += [f"{form['seconds']:.3g}"]
            cells += ["", ""] if is_other_row or asked is None else [f"{ratio:.1f} x", _verdict(ratio, asked)]
            cells.append(f"{form['peak_mib']:.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    for row, forms in steps["rows"].items():
        for name, form in forms.items():
            if name.endswith(" cached"):
                own = form["seconds"] / forms["student"]["seconds"]
                verdict = "within" if own <= OWN_STEPS else "above"
                lines += [
                    "",
                    f"With a warm cache the {row} takes {own:.2f} of the student's own, {verdict} {OWN_STEPS}.",
                ]
    return [*lines, "", *_rate(steps)]


def _rate(steps: dict[str, Any]) -> list[str]:
    """How much of what the hardware can do a step of T1 takes."""
    setting, seconds = steps["setting"], steps["rows"]["teacher step, T1"]["teacher"]["seconds"]
    # Forward, gradient of the maps, gradient of the weights; a multiply-add is two operations.
    tflop = 3 * 2 * T1_MULTIPLY_ADDS * setting["batch"] * (setting["size"] / 256) ** 2 / 1e12
    return [
        f"T1 trains on {setting['batch'] / seconds:.2f} slices a second: {tflop:.2f} TFLOP in {seconds:.3g} s are "
        f"{tflop / seconds:.2g} TFLOP/s,",
        f"{tflop / seconds / steps['matrix_tflops']:.0%} of what a plain matrix product reaches on this machine "
        f"({steps['matrix_tflops']:.2g} TFLOP/s), at which the convolutions alone would take "
        f"{tflop / steps['matrix_tflops']:.1f} s.",
    ]


def _verdict(ratio: float, asked: float) -> str:
    return f"{asked:g} x" if ratio >= asked else f"{asked:g} x, missed"


def _choices(choices: dict[str, Any]) -> list[str]:
    lines = [
        f"Forms of medkd's own steps, batch and size as above; {_machine(choices)}; median of {choices['rounds']}",
        "rounds.",
        "",
        "| step | form | seconds | against medkd's |",
        "| --- | --- | --- | --- |",
    ]
    for row, forms in choices["rows"].items():
        own = next(iter(forms.values()))["seconds"]
        for name, form in forms.items():
            what = name.partition(" ")[2] or "as medkd runs it"
            lines.append(f"| {row} | {what} | {form['seconds']:.3g} | {form['seconds'] / own:.2f} |")
    return lines


def _growth(growth: dict[str, Any]) -> list[str]:
    lines = [
        f"{_machine(growth)}; B + PMD, median of {growth['rounds']} rounds; seconds a step, peak MiB of the",
        "process (cache warm: its first step, which fills the cache, included), and what the cache keeps of a slice.",
        "",
        "| batch | size | student alone | first epoch | cache warm | cache KiB a slice |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for point in growth["points"]:
        cells = [str(point["batch"]), str(point["size"])]
        for form in ("student", "B+PMD uncached", "B+PMD cached"):
            cells.append(f"{point[form]['seconds']:.3g} s, {point[form]['peak_mib']:.0f} MiB")
        cells.append(f"{point['B+PMD cached']['cache_bytes_per_slice'] / 1024:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _epoch(epoch: dict[str, Any]) -> list[str]:
    lines = [
        f"The recipe `distill` on `{epoch['data']}`, T1 to S1, {epoch['size']}x{epoch['size']},",
        f"batch {epoch['batch']}, {epoch['epochs'][0]['steps']} steps an epoch; {_machine(epoch)}.",
        f"The cache then holds {epoch['cache_bytes'] / 1e6:.0f} MB. The second epoch meets the few slices that were",
        "left over by the batches of the first.",
        "",
        "| epoch | seconds | " + " | ".join(SHARES) + " |",
        "| --- | --- |" + " --- |" * len(SHARES),
    ]
    for number, row in enumerate(epoch["epochs"], 1):
        shares = [f"{row[share] / row['seconds']:.1%}" for share in SHARES]
        lines.append(f"| {number} | {row['seconds']:.1f} | {' | '.join(shares)} |")
    return lines


def _precision(results: dict[str, Any]) -> list[str]:
    scale = ", ".join(f"{name} {value}" for name, value in results["scale"].items())
    lines = [
        f"S1 alone on `{results['data']}` ({scale}), mean Dice of the test volumes; {_machine(results)}.",
        "",
        "| precision | seeds | mean | spread of the seeds |",
        "| --- | --- | --- | --- |",
    ]
    for name in ("float32", "bfloat16"):
        dice = [f"{value:.3f}" for value in results["dice"][name]]
        lines.append(f"| {name} | {', '.join(dice)} | {results[name]['mean']:.3f} | {results[name]['sd']:.3f} |")
    return lines


def _gpu(file: Path) -> list[str]:
    if not file.is_file():
        return [
            "Not measured: no GPU was at hand. `python benchmarks/training.py steps --device cuda` measures the same",
            "table and the rate of the card, and stores it beside the others.",
        ]
    steps = json.loads(file.read_text(encoding="utf-8"))
    return _steps(steps)
