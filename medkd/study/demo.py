"""The whole way on synthetic CT: data, teacher, student alone, the same student distilled, figures, a new scan."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from medkd.bundle import STUDENT, TEACHER
from medkd.data import Case, DecathlonTask
from medkd.data.phantom import write_phantom_task
from medkd.engines import load_model, run_split_file
from medkd.files import write_json
from medkd.inference import Segmenter, evaluate, mask_path
from medkd.machine import machine_facts
from medkd.networks import count_macs
from medkd.recipes import WITHOUT_DISTILLATION, run_recipe
from medkd.run_folder import HISTORY_FILE
from medkd.study.demo_report import write_report
from medkd.study.pictures import Picture, draw_cases

SEED = 0
VOLUMES = 12
SIZE = 96
TEACHER_CHANNELS = [16, 32, 64, 128, 256]
TEACHER_EPOCHS = 16
STUDENT_EPOCHS = 30
# One recipe for the student alone and the distilled one; only the weights of the distillation terms differ.
STUDENT_RECIPE: dict[str, Any] = {
    "epochs": STUDENT_EPOCHS,
    "learning_rate": 0.003,
    "optimizer::_target_": "torch.optim.AdamW",
    "schedule": "cosine",
    "empty_per_foreground": 1.0,
}
NAMES = {
    "teacher": "Teacher: multi-task U-Net, a quarter of T1's width",
    "student": "Student alone: S1",
    "distilled": "Student distilled: S1",
}
SCALED = [
    "The volumes are drawn, not scanned: organs are smooth shapes, so the figures say nothing about real CT.",
    f"Slices are {SIZE} x {SIZE} instead of 256 x 256 pixels, the teacher has a quarter of T1's channels, and "
    f"trainings last {TEACHER_EPOCHS} and {STUDENT_EPOCHS} instead of 200 and 120 epochs.",
    "One seed: a difference of a few hundredths between two students may be chance.",
]


def run_demo(out: Path) -> dict[str, Any]:
    """Run the demo; what an interrupted demo finished is not done again.

    Args:
        out: folder for data, runs, masks, ``summary.json`` and ``report.html``.

    Returns:
        What ``summary.json`` holds.

    Raises:
        UserError: the folder cannot be written to, or holds something else.
    """
    started = time.perf_counter()
    data = out / "Task09_Phantom"
    if not (data / "dataset.json").is_file():
        print(f"1/6 making {VOLUMES} synthetic CT volumes")
        write_phantom_task(data, VOLUMES, SEED)
    task = DecathlonTask.load(data)
    runs = _train(out, data)
    print("5/6 evaluating on the held-out volumes")
    held_out = task.select(task.split(file=run_split_file(runs["teacher"])).test)
    segmenters = {key: Segmenter.load(run, backend="torch") for key, run in runs.items()}
    models = {
        key: _model_figures(NAMES[key], segmenter, runs[key], evaluate(segmenter, held_out, task.labels))
        for key, segmenter in segmenters.items()
    }
    print("6/6 segmenting a new scan and writing the report")
    summary = {
        "title": "medkd demo",
        "description": (
            f"A teacher and two students, trained and chosen on {VOLUMES - len(held_out)} synthetic abdominal CT "
            f"volumes (label: spleen) and compared on {len(held_out)} others. Both students share network, data and "
            "recipe; only the second one listens to the teacher."
        ),
        "models": models,
        "scaled": SCALED,
        "inference": _segment_new_scan(segmenters["distilled"], held_out[0], out / "masks"),
        "machine": machine_facts(),
        "seed": SEED,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(out / "summary.json", summary)
    write_report(out / "report.html", summary, _pictures(segmenters, task, models["distilled"]["cases"]))
    _print_result(out, summary)
    return summary


def _train(out: Path, data: Path) -> dict[str, Path]:
    runs = {key: out / "runs" / key for key in NAMES}
    common = {"dataset_dir": str(data), "cache_dir": str(out / "cache"), "seed": SEED}
    print("2/6 training the teacher")
    teacher = {
        "size": SIZE,
        "network_def::channels": TEACHER_CHANNELS,
        "epochs": TEACHER_EPOCHS,
        "learning_rate": 0.001,
        "schedule": "cosine",
        "empty_per_foreground": 1.0,
    }
    run_recipe(TEACHER, "train", common | teacher, runs["teacher"])
    student = common | STUDENT_RECIPE | {"teacher_run": str(runs["teacher"])}
    print("3/6 training the student alone")
    run_recipe(STUDENT, "distill", student | WITHOUT_DISTILLATION, runs["student"])
    print("4/6 distilling the same student from the teacher")
    run_recipe(STUDENT, "distill", student, runs["distilled"])
    return runs


def _model_figures(name: str, segmenter: Segmenter, run: Path, report: dict[str, Any]) -> dict[str, Any]:
    history = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))
    size = segmenter.model.preprocessing.size
    return {
        "name": name,
        "macs": count_macs(load_model(run), (3, size, size)),
        **report,
        "history": history,
        "seconds": round(sum(row["seconds"] for row in history), 1),
    }


def _segment_new_scan(segmenter: Segmenter, case: Case, folder: Path) -> dict[str, Any]:
    result = segmenter(case.image)
    mask = mask_path(case.image, folder)
    result.save(mask)
    return {
        "scan": case.image.name,
        "mask": f"{folder.name}/{mask.name}",
        "volumes_ml": {name: figures["volume_ml"] for name, figures in result.measurements["labels"].items()},
        "seconds": result.measurements["seconds"],
    }


def _pictures(segmenters: dict[str, Segmenter], task: DecathlonTask, cases: list[dict[str, Any]]) -> list[Picture]:
    label = next(iter(cases[0]["labels"]))
    named = {NAMES[key]: segmenter for key, segmenter in segmenters.items()}
    return draw_cases(named, task, {case["name"]: case["labels"][label]["dice"] for case in cases}, label)


def _print_result(out: Path, summary: dict[str, Any]) -> None:
    label = next(iter(summary["models"]["teacher"]["mean"]))
    print(f"\n{'Dice per volume':<52}{'mean':>7}{'parameters':>14}")
    for model in summary["models"].values():
        print(f"{model['name']:<52}{model['mean'][label]['dice']:>7.3f}{model['parameters']:>14,}")
    print(f"\n{out / 'report.html'}\n{out / 'summary.json'}")
