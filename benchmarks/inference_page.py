"""``docs/inference_speed.md`` from the stored JSON of ``benchmarks/inference.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Seconds and peak MB that are asked for.
TARGETS: dict[str, tuple[float, float | None]] = {"openvino": (2.5, 600.0), "onnx": (4.0, None), "torch": (8.0, None)}
# How many times as fast as MONAI's pipeline, and which share of its memory.
FASTER, SHARE = 20.0, 0.25
NAMES = {
    "openvino": "medkd, OpenVINO",
    "onnx": "medkd, ONNX Runtime",
    "torch": "medkd, torch",
    "monai slices": "S1 in MONAI's transforms",
    "monai": "MONAI's pipeline",
}
PARTS = ("load", "pre-process", "network", "post-process", "measure", "save", "other")
MONAI_PARTS = ("load and pre-process", "network", "post-process", "save")
DIFFERENCES = """\
What differs between the two, besides speed:

- **Another network.** MONAI's pipeline is that of its bundle `spleen_ct_segmentation`, in float32: 1.5 x 1.5 x 2 mm, a
  3-D U-Net of 4,808,917 parameters over patches of 96 x 96 x 96 that overlap by half. medkd's runs S1, a
  2-D U-Net of 57,297 parameters, once over slices of 256 x 256. Nothing here says which of them segments better.
- **Random weights.** Those of MONAI's network are random, and the background always wins. So its mask is empty, which
  is the quickest to save.
- **The same network** is therefore timed in MONAI's pieces too: `LoadImaged`, `Orientationd`, `ScaleIntensityRanged`,
  `Resized`, `SliceInferer` in torch, `Invertd`, `AsDiscreted`, `SaveImaged`, with the weights that medkd uses. What
  lies between that row and "medkd, torch" is due to medkd's way around the network, what lies between it and MONAI's
  pipeline to the network and its grid. It keeps all pieces that it finds, and so its ml and Dice differ.
- **More is done.** medkd also keeps the largest piece, fills holes, and measures volume, length and HU. MONAI's
  pipelines do not.

Neither counts the time to import libraries and to load the model, which is beside it. The file is in the memory of the
system, as just after a download. The CT is drawn, not scanned.""".splitlines()
REPORTED = """\
`medkd infer` is timed from the start of its process to its end, with `--no-preview`; the rest is as by default: mask,
measurements as CSV and JSON, manifest and report.""".splitlines()


def write_inference_page(path: Path, results: Path) -> None:
    """Write the page.

    Args:
        path: the Markdown file.
        results: folder of the JSON files.
    """
    backends, growth = (
        json.loads((results / f"inference_{part}.json").read_text(encoding="utf-8")) for part in ("backends", "growth")
    )
    ways = backends["ways"]
    lines = [
        "# Inference speed",
        "",
        "Made by `python benchmarks/inference.py report` from `docs/results/inference_*.json`, which `... backends`",
        "and `... growth` write; `make bench-inference` does all three. Do not edit.",
        "",
        "## From file to saved mask and measurements",
        "",
        *_setting(backends),
        "",
        *_ways(ways),
        "",
        *REPORTED,
        "",
        "## Beside MONAI's pipeline",
        "",
        *_ratios(ways),
        "",
        *DIFFERENCES,
        "",
        "## Where the time goes",
        "",
        *_parts(ways),
        "",
        "## How it grows",
        "",
        *_growth(growth),
        "",
        *_workers(growth),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _machine(results: dict[str, Any]) -> str:
    facts = results["machine"]
    versions = [f"{name} {facts[name]}" for name in ("openvino", "onnxruntime", "torch", "monai") if name in facts]
    return f"{facts['processor']}, {facts['threads']} threads; {', '.join(versions)}."


def _setting(backends: dict[str, Any]) -> list[str]:
    scan = backends["scan"]
    shape, spacing = (" x ".join(f"{number:g}" for number in scan[key]) for key in ("shape", "spacing"))
    return [
        f"One CT of {shape} voxels, {spacing} mm, {scan['dtype']}, {scan['voxel_mb']:.0f} MB in a `.nii.gz` of "
        f"{scan['file_mb']:.0f} MB.",
        f"{_machine(backends)}",
        "",
        *_model(backends["model"]),
        f"The spleen of the CT has {scan['truth_ml']:.0f} ml; the table says what each way found.",
        "",
        "Model loaded, after a first scan. Peak is that of a process of its own, all of it, in MB of 10^6 bytes.",
    ]


def _model(model: dict[str, Any] | str) -> list[str]:
    if isinstance(model, str):
        return [f"The model is `{model}`."]
    recipe, shape = model["recipe"], " x ".join(map(str, model["shape"]))
    return [
        f"The model is S1 as published, at {recipe['size']} pixels with three neighbouring slices. It was trained for",
        f"{recipe['epochs']} epochs on some of {model['volumes']} phantoms of {shape}:",
        "enough for a mask that is an organ and not noise, no more.",
    ]


def _ways(ways: dict[str, Any]) -> list[str]:
    lines = [
        "| way | median s | best s | of | asked for | peak MB | asked for | load s | first s | cold s | ml | Dice |",
        "| --- |" + " ---: |" * 11,
    ]
    for key, name in NAMES.items():
        if key not in ways:
            continue
        way = ways[key]
        seconds, megabytes = TARGETS.get(key, (None, None))
        cells = [name, f"{way['seconds']:.2f}", f"{way['best']:.2f}", str(len(way["rounds"]))]
        cells += [_at_most(way["seconds"], seconds), f"{way['peak_mb']:.0f}", _at_most(way["peak_mb"], megabytes)]
        cells += [f"{way['load_seconds']:.1f}", f"{way['first']:.2f}"]
        cells.append(f"{min(way['cold']):.1f}" if "cold" in way else "")
        cells += ["", ""] if key == "monai" else [f"{way['volume_ml']:.0f}", f"{way['dice']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", "Load: imports and the model. Cold: all of `medkd infer`, the best of several."]


def _at_most(value: float, asked: float | None) -> str:
    if asked is None:
        return ""
    return f"{asked:g}" if value <= asked else f"{asked:g}, missed"


def _ratios(ways: dict[str, Any]) -> list[str]:
    """Of the median times, and of the peaks."""
    lines = [
        f"Asked for: {FASTER:g} x as fast, {SHARE:g} of the memory. Same run, same CT; medians and peaks from above.",
        "",
        "| way | as fast as MONAI's pipeline | of its memory | as fast as S1 in MONAI's transforms | of its memory |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for key in TARGETS:
        if key not in ways:
            continue
        cells = [NAMES[key]]
        for other in ("monai", "monai slices"):
            ratio = ways[other]["seconds"] / ways[key]["seconds"]
            share = ways[key]["peak_mb"] / ways[other]["peak_mb"]
            is_missed = (ratio < FASTER, share > SHARE) if other == "monai" else (False, False)
            figures = (f"{ratio:.1f} x", f"{share:.2f}")
            cells += [figure + ", missed" * missed for figure, missed in zip(figures, is_missed, strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _parts(ways: dict[str, Any]) -> list[str]:
    lines = [
        "One more scan each, its functions timed: seconds, and share of all. Post-process is logits to labels on the",
        "grid of the scan, the largest piece, holes. The network answers in a thread of its own, so that most of the",
        "pre-processing goes on beside it: its column is what is waited for.",
        "",
        f"| way | {' | '.join(PARTS)} |",
        "| --- |" + " ---: |" * len(PARTS),
    ]
    lines += [_row(NAMES[key], ways[key]["parts"], PARTS) for key in TARGETS if key in ways]
    lines += ["", f"| way | {' | '.join(MONAI_PARTS)} |", "| --- |" + " ---: |" * len(MONAI_PARTS)]
    lines += [_row(NAMES[key], ways[key]["parts"], MONAI_PARTS) for key in ("monai slices", "monai")]
    return lines


def _row(name: str, parts: dict[str, float], columns: tuple[str, ...]) -> str:
    total = sum(parts.values())
    return f"| {name} | {' | '.join(f'{parts[part]:.2f} ({parts[part] / total:.0%})' for part in columns)} |"


def _growth(growth: dict[str, Any]) -> list[str]:
    points = growth["points"]
    lines = [
        f"{NAMES[points[0]['backend']]}, the same body cut into so many slices; {_machine(growth)}",
        f"Median of {len(points[0]['rounds'])} after a first one.",
        "",
        "| slices | file MB | seconds | ms a slice | peak MB | network | ml | Dice |",
        "| ---: |" + " ---: |" * 7,
    ]
    for point in points:
        slices, seconds, parts = point["slices"], point["seconds"], point["parts"]
        cells = [str(slices), f"{point['file_mb']:.0f}", f"{seconds:.2f}", f"{1000 * seconds / slices:.1f}"]
        cells += [f"{point['peak_mb']:.0f}", f"{parts['network'] / sum(parts.values()):.0%}"]
        cells += [f"{point['volume_ml']:.0f}", f"{point['dice']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _workers(growth: dict[str, Any]) -> list[str]:
    cohort = growth["cohort"]
    lines = [
        f"`medkd infer` over {cohort['scans']} scans of {' x '.join(map(str, cohort['shape']))}, from the start of its "
        "process",
        "to its end, so the start of every worker counts; the threads are shared out among the workers. Peak is the",
        "largest of a worker.",
        "",
        "| workers | threads each | seconds | scans a minute | peak MB |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in growth["workers"]:
        cells = [f"{row['workers']}", f"{row['threads']}", f"{row['seconds']:.1f}", f"{row['scans_per_minute']:.0f}"]
        cells.append(f"{row['peak_mb']:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
