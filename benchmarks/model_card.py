"""The card of the shipped student: its figures on every test volume, and pictures of where it fails.

    python benchmarks/model_card.py run --data $MEDKD_DATA/btcv_spleen   # a minute
    python benchmarks/model_card.py report

``run`` segments the test volumes with the student and the teacher that the bundles ship and writes
``docs/results/model_card.json``; ``report`` makes ``docs/model_card.md`` and its picture from that alone. The picture
has outlines without the scans, which are not ours to publish.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from skimage.measure import approximate_polygon, find_contours
from student import CARD, SHIPPED, mean_with_interval, stored

from medkd import Segmenter
from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.data import Case, DecathlonTask, read_image, read_label
from medkd.data.grid import SliceGrid
from medkd.files import atomic_write, write_figures
from medkd.inference import Options
from medkd.inference.postprocessing import postprocess
from medkd.machine import machine_facts
from medkd.metrics import OverlapCounts
from medkd.networks import count_parameters

ROOT = Path(__file__).parent.parent
SHIPS = {"shipped": "distilled students", "shipped-control": "students without a teacher"}
PAGE = ROOT / "docs" / "model_card.md"
PICTURE = ROOT / "docs" / "images" / "student_cases.png"
MODELS = {"student": STUDENT, "teacher": TEACHER}
DICE = ("dice", "dice_of_largest_piece", "dice_without_postprocessing")
AS_IT_IS = Options(largest_component=False, fill_holes=False)
TEXT = """# Model card: the spleen on CT, by a student of {parameters} parameters

Made by `python benchmarks/model_card.py report` from `docs/results/model_card.json`, which `... run` writes; do not
edit.

**For research. It is no medical device, no one has approved it for the care of patients, and every mask has to be
looked at.**

## The model

`unet_tiny`, {parameters} parameters, in `bundles/spleen_ct_student/models` and in the wheel. It segments axial slices
of CT one by one, each between its two neighbours, cut to the box around the body and resized to {size} x {size}
pixels, HU from -125 to 275. Out come masks on the grid of the scan, of which `medkd infer` keeps the largest piece,
up to where something else hangs on it by a neck ([necks.md](necks.md)), without its holes. The teacher that it is
compared with, a multi-task U-Net of {teacher_parameters} parameters, lies in `bundles/spleen_ct_teacher` of the
repository.

## What it is for

Measuring the spleen in research: volumes of cohorts, first masks for people to correct, experiments with
distillation. Not for diagnosis, therapy or any decision about a patient, not for anything but CT, and not for
animals.

## What it learned from

Twelve volumes of BTCV (Landman et al. 2015): abdominal CT of one hospital with contrast in the portal venous phase,
of patients with colorectal cancer or ventral hernia, cut to -125 to 275 HU before they came to us. Teacher and student
both learned thirteen organs of these volumes first, then the spleen alone, from strongly augmented slices. Two more
volumes were left for validation, and the six of the table below for the test.

From there the student went on with three seeds, once beside the teacher, whose probabilities it learned too
(distilled), and once without it (control). The mean of the weights of three such trainings has a higher Dice on the
validation volumes than the three have on average. **What ships is the mean of the three {ships}**: of the two
means it is the one with the higher Dice on these volumes, by less than two volumes can tell. [student.md](student.md)
has the figures of all, and the table of students with fewer labels.

## Figures

The shipped weights on the {volumes} test volumes: Dice of the masks that `medkd infer` writes; of the largest piece
alone, its holes filled, where nothing is cut off at necks; and of the network's answer as it is. In brackets the 95 %
interval of the mean from a bootstrap over the volumes, which knows nothing of the chance of training.

{figures}

Two steps were taken after figures or pictures of these volumes had been seen: that from 128 x 128 to 160 x 160
pixels, and cutting at necks, whose ratio was then chosen on other volumes. So the figures are not quite those of
patients that no choice was made on.

`make reproduce-student` measures the shipped weights again.

## Where it fails

![Outlines of truth, teacher and student, one slice of every test volume]({picture})

In every test volume the slice with the most wrong pixels, from the volume with the lowest Dice to that with the
highest. The lowest is {worst_dice}, of {worst}. [robustness.md](robustness.md) shows what is left on scans that
differ: other HU, thickness, noise, fields of view, parts of the abdomen, arms down, scans without a spleen.

## What it was not tested on

Children; other hospitals and scanners; unenhanced and arterial scans, but for one of the former; patients without a
spleen, with an accessory one, after trauma, with tumours, cysts or infarcts of it; very large ones, above 420 ml;
pregnancy; metal beside it. Whether it serves women and men, or any group, alike is not known: the data does not say
who its patients are.
"""
# Of Okabe and Ito; the lines differ in their dashes too.
LOOKS: dict[str, dict[str, Any]] = {
    "truth": {"color": "#000000", "linewidth": 2.4, "linestyle": "solid"},
    "teacher": {"color": "#0072b2", "linewidth": 1.4, "linestyle": (0, (5, 2))},
    "student": {"color": "#d55e00", "linewidth": 1.4, "linestyle": (0, (1.5, 1.2))},
}


def run(data: Path) -> None:
    """Segment the test volumes with both models."""
    cases = DecathlonTask.load(data).part("test")
    segmenters = {
        name: Segmenter.load(bundle_folder(bundle), "torch", options=AS_IT_IS) for name, bundle in MODELS.items()
    }
    results = {
        "machine": machine_facts(),
        "data": "btcv_spleen, its own split",
        "size": segmenters["student"].model.preprocessing.size,
        "parameters": {
            name: count_parameters(segmenter.model.load_network(bundle_folder(MODELS[name])))
            for name, segmenter in segmenters.items()
        },
        "cases": [_case(case, segmenters) for case in cases],
    }
    write_figures(CARD, results)


def _case(case: Case, segmenters: dict[str, Segmenter]) -> dict[str, Any]:
    image, truth = read_image(case.image), read_label(case.label).array == 1
    grid = SliceGrid(image.array.shape, image.affine, segmenters["student"].model.preprocessing.size)
    ml = float(np.prod(grid.spacing)) / 1000
    figures: dict[str, Any] = {"name": case.name, "ml": round(int(truth.sum()) * ml, 1)}
    masks = {"truth": truth}
    for name, segmenter in segmenters.items():
        answer = segmenter(image).mask
        largest, finished = answer.copy(), answer.copy()
        postprocess(largest, [1], Options(), image.spacing)
        postprocess(finished, [1], Options(), image.spacing, segmenter.model.compact_values)
        masks[name] = finished == 1
        figures[name] = {
            "dice": round(OverlapCounts.of(masks[name], truth).dice, 4),
            "dice_of_largest_piece": round(OverlapCounts.of(largest == 1, truth).dice, 4),
            "dice_without_postprocessing": round(OverlapCounts.of(answer == 1, truth).dice, 4),
            "ml": round(int(masks[name].sum()) * ml, 1),
        }
    standing = {name: grid.to_ras(mask) for name, mask in masks.items()}
    index = int(np.argmax((standing["student"] ^ standing["truth"]).sum(axis=(0, 1))))
    outlines = {name: _outlines(mask[:, :, index], grid.spacing) for name, mask in standing.items()}
    return {**figures, "slice": index, "slices": grid.shape[2], "outlines": outlines}


def _outlines(mask: np.ndarray, spacing: tuple[float, float, float]) -> list[list[list[float]]]:
    """Polygons in mm, the patient's right at the left and the front above."""
    padded = np.pad(mask.astype(float), 1)
    polygons = [approximate_polygon(line, 0.3) - 1 for line in find_contours(padded, 0.5)]
    return [np.round(line * (-spacing[0], spacing[1]), 1).tolist() for line in polygons]


def draw(results: dict[str, Any], file: Path) -> None:
    """The slice of every volume where the student errs most, from the worst volume to the best."""
    cases = sorted(results["cases"], key=lambda case: float(case["student"]["dice"]))
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(2, (len(cases) + 1) // 2).ravel()
    side = max(max(_extent(case)[1]) for case in cases) + 10
    for axis, case in zip(axes, cases, strict=False):
        _draw_case(axis, case, side)
    for axis in axes[len(cases) :]:
        axis.set_visible(False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=100, metadata={"Software": None})


def _extent(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The middle of the outlines, and how far they reach; mm."""
    points = np.concatenate([np.array(line) for lines in case["outlines"].values() for line in lines])
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, high - low


def _draw_case(axis: Axes, case: dict[str, Any], side: float) -> None:
    for name, look in LOOKS.items():
        for index, line in enumerate(case["outlines"][name]):
            axis.plot(*zip(*line, strict=True), **look, label=name if index == 0 else None)
        if not case["outlines"][name]:
            axis.plot([], [], **look, label=name)
    dice = ", ".join(f"{name} {case[name]['dice']:.3f}" for name in MODELS)
    axis.set_title(f"{case['name']}, slice {case['slice']} of {case['slices']}\nvolume: {dice}", fontsize=9)
    middle = _extent(case)[0]
    left, bottom = middle - side / 2
    axis.set(aspect="equal", xlim=(left, left + side), ylim=(bottom, bottom + side))
    axis.set_xticks([])
    axis.set_yticks([])
    axis.plot([left + 4, left + 24], [bottom + 4] * 2, color="#4d4d4d", linewidth=3, solid_capstyle="butt")
    axis.text(left + 14, bottom + 6, "20 mm", ha="center", va="bottom", fontsize=8, color="#4d4d4d")


def figures_table(results: dict[str, Any]) -> list[str]:
    """Dice and volume of every test volume, and the means with their intervals."""
    lines = [
        "| volume | true ml | student: Dice | ml | largest piece | as it is "
        "| teacher: Dice | ml | largest piece | as it is |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in results["cases"]:
        cells = [f"{case['ml']:.0f}"]
        for name in MODELS:
            dice, largest, answer = (f"{case[name][key]:.3f}" for key in DICE)
            cells += [dice, f"{case[name]['ml']:.0f}", largest, answer]
        lines.append(f"| {case['name']} | {' | '.join(cells)} |")
    cells = [f"{mean(case['ml'] for case in results['cases']):.0f}"]
    for name in MODELS:
        dice, largest, answer = (_interval(results, name, key) for key in DICE)
        cells += [dice, "", largest, answer]
    lines.append(f"| **mean** | {' | '.join(cells)} |")
    return lines


def page(results: dict[str, Any]) -> str:
    """The card."""
    worst = min(results["cases"], key=lambda case: float(case["student"]["dice"]))
    facts = {
        "parameters": f"{results['parameters']['student']:,}",
        "teacher_parameters": f"{results['parameters']['teacher']:,}",
        "size": results["size"],
        "volumes": len(results["cases"]),
        "figures": "\n".join(figures_table(results)),
        "worst": worst["name"],
        "worst_dice": f"{worst['student']['dice']:.3f}",
        "picture": PICTURE.relative_to(PAGE.parent),
        "ships": SHIPS[json.loads(stored(SHIPPED).read_text(encoding="utf-8"))["ships"]],
    }
    return TEXT.format(**facts)


def _interval(results: dict[str, Any], model: str, key: str) -> str:
    dice, interval = mean_with_interval([[case[model][key] for case in results["cases"]]]).split(" ", 1)
    return f"**{dice}** {interval}"


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("--data", type=Path, required=True)
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "run":
        run(options.data)
        return
    results = json.loads(CARD.read_text(encoding="utf-8"))
    draw(results, PICTURE)
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
