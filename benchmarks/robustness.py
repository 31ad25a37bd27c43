"""What the shipped student and teacher make of scans that differ from those they were trained on.

    python benchmarks/robustness.py run --data $MEDKD_DATA
    python benchmarks/robustness.py report

``run`` shifts every test volume of ``btcv_spleen`` in the ways of ``shifts.py``, segments them with both models, and
writes ``docs/results/robustness.json``; so too ``totalseg_example_ct``, a scan that looks like one
without contrast, as it is.
``--part val`` shifts the validation volumes and prints the table, for whoever still chooses. ``report`` writes
``docs/robustness.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from shifts import SHIFTS, LabelledScan
from tqdm import tqdm

from medkd import Segmenter
from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.data import DecathlonTask, read_image, read_label
from medkd.errors import UserError
from medkd.files import write_figures
from medkd.machine import machine_facts
from medkd.metrics import OverlapCounts

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "robustness.json"
PAGE = ROOT / "docs" / "robustness.md"
NO_SPLEEN = "no spleen"
MODELS = ("student", "teacher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--data", required=True, type=Path, help="the folder with btcv_spleen and totalseg_example_ct")
    run.add_argument("--part", default="test", choices=("val", "test"))
    run.add_argument("--models", nargs=2, type=Path, metavar=("STUDENT", "TEACHER"), help="instead of the shipped ones")
    commands.add_parser("report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
        return
    folders = arguments.models or [bundle_folder(name) for name in (STUDENT, TEACHER)]
    results = measure(arguments.data, arguments.part, dict(zip(MODELS, folders, strict=True)))
    if arguments.part == "test" and arguments.models is None:
        write_figures(RESULTS, results)
    print("\n".join(tables(results)))


def measure(data: Path, part: str, models: dict[str, Path]) -> dict[str, Any]:
    """Segment every shifted scan with every model."""
    task = DecathlonTask.load(data / "btcv_spleen")
    scans = {case.name: LabelledScan.of(read_image(case.image), read_label(case.label)) for case in task.part(part)}
    segmenters = {name: Segmenter.load(folder) for name, folder in models.items()}
    shifts: dict[str, Any] = {}
    for group, members in SHIFTS.items():
        for name, shift in tqdm(members.items(), desc=group or "scans", leave=False):
            shifted = {case: shift(scan) for case, scan in scans.items()}
            if group == NO_SPLEEN and any(scan.spleen.any() for scan in shifted.values()):
                raise UserError(f"a scan has too few slices for the shift {name!r}: give volumes of the whole abdomen.")
            shifts[name] = {"group": group} | {
                model: {case: _figures(segmenter, scan) for case, scan in shifted.items()}
                for model, segmenter in segmenters.items()
            }
    folder = data / "totalseg_example_ct"
    files = (folder / "example_ct.nii.gz", folder / "example_seg_fast_force_split.nii.gz")
    elsewhere = LabelledScan.of(read_image(files[0]), read_label(files[1]))
    return {
        "machine": machine_facts(),
        "part": part,
        "shifts": shifts,
        "elsewhere": {model: _figures(segmenter, elsewhere) for model, segmenter in segmenters.items()},
    }


def _figures(segmenter: Segmenter, scan: LabelledScan) -> dict[str, float]:
    mask = segmenter(scan.volume()).mask > 0
    ml = float(np.prod(scan.spacing)) / 1000
    return {
        "dice": round(OverlapCounts.of(mask, scan.spleen).dice, 4),
        "ml": round(int(mask.sum()) * ml, 2),
        "reference_ml": round(int(scan.spleen.sum()) * ml, 2),
    }


def write_page(results: dict[str, Any]) -> None:
    """Write ``docs/robustness.md``."""
    PAGE.write_text("\n".join(page(results)) + "\n", encoding="utf-8")


def page(results: dict[str, Any]) -> list[str]:
    """The lines of the page."""
    count = len(results["shifts"]["as it is"]["student"])
    return [
        "# Scans that differ from the training",
        "",
        "Made by `python benchmarks/robustness.py report` from `docs/results/robustness.json`, which `... run` writes;",
        "do not edit.",
        "",
        f"The {count} {results['part']} volumes of BTCV, changed in one way at a time by `benchmarks/shifts.py`,",
        "segmented by the student and the teacher that the bundles ship, with `medkd infer`'s post-processing. What is",
        "changed is a model of what happens on other scanners, not other scanners: intensities that the data lacks (it",
        "was cut to -125 to 275 HU) and arms are drawn.",
        "",
        *tables(results),
    ]


def tables(results: dict[str, Any]) -> list[str]:
    """A table of Dice by shift, one of false volume where there is no spleen, and the scan from elsewhere."""
    shifts = results["shifts"]
    lines = [
        "| | student: mean | lowest | change | teacher: mean | lowest | change |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    group = ""
    for name, shift in shifts.items():
        if shift["group"] == NO_SPLEEN:
            continue
        if shift["group"] != group:
            group = shift["group"]
            lines.append(f"| **{group}** | | | | | | |")
        cells = []
        for model in MODELS:
            dice = [case["dice"] for case in shift[model].values()]
            before = [shifts["as it is"][model][case]["dice"] for case in shift[model]]
            change = f"{mean(dice) - mean(before):+.3f}".replace("-", "\N{MINUS SIGN}")
            cells += [f"{mean(dice):.3f}", f"{min(dice):.3f}", "" if name == "as it is" else change]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "Dice of the spleen, mean and lowest of the volumes.",
        "",
        "| without a spleen | student: scans with a mask | mean ml | highest ml | teacher | mean ml | highest ml |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, shift in shifts.items():
        if shift["group"] != NO_SPLEEN:
            continue
        cells = []
        for model in MODELS:
            ml = [case["ml"] for case in shift[model].values()]
            cells += [f"{sum(value > 0 for value in ml)} of {len(ml)}", f"{mean(ml):.1f}", f"{max(ml):.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "The right answer is an empty mask.", ""]
    for model in MODELS:
        case = results["elsewhere"][model]
        lines.append(
            "- A scan from elsewhere that looks like one without contrast (of TotalSegmentator, 3 mm voxels): the "
            f"{model} has Dice {case['dice']:.3f} with TotalSegmentator's own mask, {case['ml']:.0f} ml against "
            f"{case['reference_ml']:.0f} ml."
        )
    return lines


if __name__ == "__main__":
    main()
