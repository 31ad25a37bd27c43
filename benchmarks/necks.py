"""Where masks end at necks: which labels have any, and what it gains.

    python benchmarks/necks.py labels --data $MEDKD_DATA          # true labels, a minute
    medkd study run benchmarks/student/mixing.yaml --out runs/student
    python benchmarks/necks.py masks runs/student --data $MEDKD_DATA   # of the models of that study, three minutes
    python benchmarks/necks.py report

``labels`` and ``masks`` write their part of ``docs/results/necks.json``; ``report`` makes ``docs/necks.md`` from that
and from ``docs/results/model_card.json``. Neither looks at a test volume of ``btcv_spleen``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from model_card import AS_IT_IS, DICE, MODELS
from student import CARD, STUDY_FILES
from tqdm import tqdm

from medkd import Segmenter
from medkd.data import Case, DecathlonTask, Volume, read_image, read_label
from medkd.files import atomic_write, write_figures
from medkd.inference import Options
from medkd.inference.necks import NECK, cut_necks
from medkd.inference.postprocessing import label_boxes, postprocess
from medkd.machine import machine_facts
from medkd.metrics import OverlapCounts
from medkd.study.job import jobs_of, read_result
from medkd.study.study_file import load_study

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "necks.json"
PAGE = ROOT / "docs" / "necks.md"
RATIOS = (0.4, 0.5, 0.6, 0.7, 0.8)
LARGEST = Options(fill_holes=False)
TEXT = """# Masks that end at necks

Made by `python benchmarks/necks.py report` from `docs/results/necks.json`, which `... labels` and `... masks` write,
and from that of the [model card](model_card.md); do not edit.

A network that takes a part of the stomach for spleen often joins the two by a few voxels, and then the largest piece
of its mask is both. Where a model calls a label **compact**, `medkd infer`, `medkd evaluate --postprocessed` and the
bundles cut its largest piece where two bodies meet at a neck, and keep the larger one. The depth of a voxel is its
distance to the nearest one outside; a neck is where every way from one body to the other comes through a place at
most {neck} times as deep as the deepest of the shallower one. What is thin all along, such as the tip of a spleen, is
no body, and stays; a body with more than half the voxels of the larger one stays too, since it may be the other half
of an organ whose middle was missed (`medkd/inference/necks.py`).

Only a label that has no necks itself is compact. The shipped spleen models say so, and a model of your own does when it
is trained with `--compact spleen`; it then stands in its `model.json`, where it can be written later too. A spleen that
a cleft all but divides, or an accessory one that touches it, may lose a part: none of those below is such. With
`--all-pieces` nothing is cut.

## Which labels have necks

True labels of the training and validation volumes of BTCV and of the training volumes of Decathlon Task04, cut as if
a network had made them: of how many something is lost, by the ratio that makes a neck, and the lowest Dice of what is
kept at {neck} with the whole.

{labels}

The spleen keeps every voxel up to 0.7. Kidneys, stomach, veins, pancreas and adrenal glands have necks of their
own: such labels are not compact.

## What it gains

Models of `benchmarks/student/mixing.yaml`, which learned from eight volumes, on the {volumes} that they did not learn
from: Dice, mean over volumes and seeds, of the network's answer, of its largest piece with its holes filled, and of
what that keeps if it ends at necks.

{masks}

Of {count} masks the ratio of {neck} changes the Dice of {changed} by more than 0.001: it rises in {gained}, by
{best:.3f} at most, and falls in {lost}, by {worst:.3f} at most.

## The models that ship

On the {tests} test volumes, which had no say in the ratio; but that pieces hang on the spleen by necks was first seen
in the pictures of their masks, and that a student misses the middle of a spleen in one of them with noise.

{shipped}
"""


def labels(data: Path) -> None:
    """Cut true labels."""
    # Both files are of the same volumes, which one split divides.
    organs = DecathlonTask.load(data / "btcv_spleen" / "dataset13.json")
    hippocampus = DecathlonTask.load(data / "Task04_Hippocampus")
    found: list[dict[str, Any]] = []
    for task, cases in (
        (organs, [*organs.part("train"), *organs.part("val")]),
        (hippocampus, hippocampus.part("all")),
    ):
        rows = {value: _uncut(name, task.name) for value, name in task.labels.items() if value}
        for case in tqdm(cases, desc=task.name, unit="volume"):
            truth = read_label(case.label)
            for value, row in rows.items():
                _cut_label(row, truth, value)
        found += rows.values()
    _store("labels", found)


def _uncut(label: str, task: str) -> dict[str, Any]:
    """The row of a label of which no volume has been cut yet."""
    ratios = [str(ratio) for ratio in RATIOS]
    return {
        "label": label, "task": task, "volumes": 0,
        "changed": dict.fromkeys(ratios, 0), "lowest": dict.fromkeys(ratios, 1.0),
    }  # fmt: skip


def _cut_label(row: dict[str, Any], truth: Volume, value: int) -> None:
    whole = (truth.array == value).astype(np.uint8)
    if not whole.any():
        return
    postprocess(whole, [1], LARGEST, truth.spacing)
    row["volumes"] += 1
    for ratio in RATIOS:
        cut = ended_at_necks(whole, truth.spacing, ratio)
        dice = OverlapCounts.of(cut == 1, whole == 1).dice
        row["changed"][str(ratio)] += int(dice < 1)
        row["lowest"][str(ratio)] = min(row["lowest"][str(ratio)], round(dice, 4))


def ended_at_necks(mask: np.ndarray, spacing: Iterable[float], ratio: float) -> np.ndarray:
    """Label 1 of a mask, of one piece, as ``postprocess`` cuts it where it is compact; a new array."""
    (box,) = label_boxes(mask, [1])
    cut = mask.copy()
    if box:
        cut[box] = cut_necks(mask[box] == 1, tuple(spacing), ratio)
    return cut


def masks(out: Path, data: Path) -> None:
    """Segment with the models of a study what they have not learned from, and clean the masks in each way."""
    folder = data / "btcv_spleen"
    study, task = load_study(STUDY_FILES / "mixing.yaml", data=folder), DecathlonTask.load(folder)
    split = STUDY_FILES / "inner_split.json"
    cases = [*task.part("test", file=split), *task.part("val", file=split)]
    finished = [job for job in jobs_of(study, out) if read_result(job)]
    found = []
    for job in tqdm(finished, unit="model"):
        segmenter = Segmenter.load(job.out, "torch", options=AS_IT_IS)
        rows = [{"name": case.name, **_clean(case, segmenter)} for case in cases]
        found.append({"run": job.run.title, "seed": job.seed, "cases": rows})
    _store("masks", found)


def _clean(case: Case, segmenter: Segmenter) -> dict[str, Any]:
    image, truth = read_image(case.image), read_label(case.label).array == 1
    mask = segmenter(image).mask
    largest = mask.copy()
    postprocess(largest, [1], LARGEST, image.spacing)

    def dice(found: np.ndarray) -> float:
        return round(OverlapCounts.of(found == 1, truth).dice, 5)

    at_necks = {}
    for ratio in RATIOS:
        cut = ended_at_necks(largest, image.spacing, ratio)
        postprocess(cut, [1], Options(), image.spacing)
        at_necks[str(ratio)] = dice(cut)
    postprocess(largest, [1], Options(), image.spacing)
    return {"as_it_is": dice(mask), "largest": dice(largest), "necks": at_necks}


def _store(part: str, found: list[dict[str, Any]]) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    write_figures(RESULTS, {**results, part: {"machine": machine_facts(), "found": found}})


def labels_table(found: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| label | data | volumes |{''.join(f' {ratio} |' for ratio in RATIOS)} lowest Dice at {NECK} |"
    yield f"| --- | --- |{' ---: |' * (len(RATIOS) + 2)}"
    for row in found:
        counts = "".join(f" {row['changed'][str(ratio)]} |" for ratio in RATIOS)
        yield f"| {row['label']} | {row['task']} | {row['volumes']} |{counts} {row['lowest'][str(NECK)]:.3f} |"


def masks_table(found: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| model | seeds | as it is | largest piece |{''.join(f' necks of {ratio} |' for ratio in RATIOS)}"
    yield f"| --- |{' ---: |' * (len(RATIOS) + 3)}"
    for run in dict.fromkeys(model["run"] for model in found):
        models = [model for model in found if model["run"] == run]
        yield f"| {run} | {len(models)} | {' | '.join(_means(models))} |"
    yield f"| **all** | {len(found)} | {' | '.join(_means(found))} |"


def _means(models: list[dict[str, Any]]) -> list[str]:
    cases = [case for model in models for case in model["cases"]]
    columns = [[case[key] for case in cases] for key in ("as_it_is", "largest")]
    columns += [[case["necks"][str(ratio)] for case in cases] for ratio in RATIOS]
    return [f"{mean(column):.3f}" for column in columns]


def shipped_table(card: dict[str, Any]) -> Iterator[str]:
    yield "| | as it is | largest piece | up to necks |"
    yield "| --- | ---: | ---: | ---: |"
    for name in MODELS:
        cells = [f"{mean(case[name][key] for case in card['cases']):.3f}" for key in reversed(DICE)]
        yield f"| {name} | {' | '.join(cells)} |"


def page(results: dict[str, Any], card: dict[str, Any]) -> str:
    """The page."""
    models = results["masks"]["found"]
    changes = [case["necks"][str(NECK)] - case["largest"] for model in models for case in model["cases"]]
    gains, losses = ([change for change in changes if sign * change > 0.001] for sign in (1, -1))
    return TEXT.format(
        neck=NECK,
        labels="\n".join(labels_table(results["labels"]["found"])),
        masks="\n".join(masks_table(models)),
        volumes=len(models[0]["cases"]),
        count=len(changes),
        changed=len(gains) + len(losses),
        gained=len(gains),
        lost=len(losses),
        best=max(gains, default=0.0),
        worst=-min(losses, default=0.0),
        tests=len(card["cases"]),
        shipped="\n".join(shipped_table(card)),
    )


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("labels", "masks", "report"):
        subparser = commands.add_parser(command)
        if command == "masks":
            subparser.add_argument("out", type=Path)
        if command != "report":
            subparser.add_argument("--data", type=Path, required=True, help="the folder with btcv_spleen")
    options = parser.parse_args()
    if options.command == "labels":
        labels(options.data)
    elif options.command == "masks":
        masks(options.out, options.data)
    else:
        results, card = (json.loads(file.read_text(encoding="utf-8")) for file in (RESULTS, CARD))
        with atomic_write(PAGE) as temporary:
            temporary.write_text(page(results, card), encoding="utf-8")


if __name__ == "__main__":
    main()
