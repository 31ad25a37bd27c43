"""The figures of the shipped student in docs/.

medkd study run benchmarks/student/choice.yaml --out runs/student    # which network, an hour
medkd study run benchmarks/student/methods.yaml --out runs/student   # which distillation, an hour
medkd study run benchmarks/student/mixing.yaml --out runs/student    # distillation on mixed slices, two hours
medkd study run benchmarks/student/table.yaml --out runs/student     # the table, five hours; a stopped one goes on
medkd study report runs/student
python benchmarks/student.py store runs/student   # docs/results/student_*.json
python benchmarks/student.py restore runs/student --data $MEDKD_DATA/btcv_spleen   # to train what ships anew
python benchmarks/student.py report               # docs/student.md from the stored JSON alone
python benchmarks/student.py install runs/student --data $MEDKD_DATA/btcv_spleen   # the models that the bundles ship
python benchmarks/student.py reproduce --data $MEDKD_DATA/btcv_spleen   # their figures, two minutes
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from study import section

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.data import DecathlonTask
from medkd.engines import SavedModel, average_models
from medkd.files import atomic_write, write_figures, write_json
from medkd.inference import Segmenter, evaluate
from medkd.machine import machine_facts
from medkd.metrics import paired_difference
from medkd.run_folder import DESCRIPTION_FILE, SPLIT_FILE, WEIGHTS_FILE
from medkd.study import wording
from medkd.study.job import RESULT_FILE, claim, jobs_of
from medkd.study.plan import Study
from medkd.study.study_file import load_study
from medkd.study.tables import FigureRow, study_tables

ROOT = Path(__file__).parent.parent
STUDY_FILES = Path(__file__).parent / "student"
PAGE = ROOT / "docs" / "student.md"
# What benchmarks/model_card.py has measured of the masks that medkd infer writes.
CARD = ROOT / "docs" / "results" / "model_card.json"
TABLE, METHODS, SHIPPED = "table", "methods", "shipped"
STUDIES = (TABLE, "choice", METHODS, "mixing")
# The student that ships is the mean of the weights of all seeds of one of these, the one whose mean has the higher Dice
# on the validation volumes.
CANDIDATES = ("shipped-control", "shipped")
# Models of the first seed: the teacher that ships, and the student from which the candidates go on.
KEPT = {bundle_folder(TEACHER) / "models": "shipped-teacher", STUDY_FILES / "shipped-start": "shipped-start"}
# Of what ships: a spleen has no necks (docs/necks.md).
COMPACT = ("spleen",)
# Another processor or build of torch sums in another order, which moves a few voxels.
TOLERANCE = 0.001
INTRODUCTION = """# The student that is shipped: how it was chosen and what it is worth

Made by `python benchmarks/student.py report` from `docs/results/student_*.json`, which `medkd study run` and
`python benchmarks/student.py store` write; do not edit.
"""
READING = """Dice of the spleen, mean over the test volumes and the seeds, in brackets its 95 % interval from a
bootstrap that draws volumes and seeds anew. Alone is the published recipe of a student without a teacher. Control is
the recipe of the distilled student without its teacher, and the gain is counted from it. p is that of the Wilcoxon
signed-rank test over the volumes, adjusted over the rows of a table (Holm).
"""
MEANS = """All seeds of control and distilled in the first row go on from the same weights, so that the mean of their
weights is a network too. Of the two means the one with the higher Dice on the validation volumes ships.
"""
CHOSEN = "Chosen by the validation volumes at the last epoch; the test volumes had no say."


def stored(study: str) -> Path:
    """Where the results of a study are kept."""
    return ROOT / "docs" / "results" / f"student_{study}.json"


def store(out: Path) -> None:
    """Keep the results that ``medkd study report`` has written, of the studies that have run."""
    for study in STUDIES:
        if (out / f"{study}.json").is_file():
            shutil.copyfile(out / f"{study}.json", stored(study))


def student_page() -> str:
    """The page: the table in short, then the reports of all studies, each under a heading of its own."""
    results = {
        study: json.loads(stored(study).read_text(encoding="utf-8")) for study in STUDIES if stored(study).is_file()
    }
    lines = [INTRODUCTION]
    if TABLE in results:
        lines += [*short_table(results[TABLE]), "", READING]
    if stored(SHIPPED).is_file():
        shipped = json.loads(stored(SHIPPED).read_text(encoding="utf-8"))
        lines += ["## What ships", "", MEANS, *shipped_table(shipped, results[TABLE]), ""]
    if METHODS in results:
        about = results[METHODS]["study"]["about"].strip()
        lines += ["## Which distillation", "", about, CHOSEN, "", *validation_table(results[METHODS])]
    return "\n".join([*lines, *(section(content) for study, content in results.items() if study != METHODS)])


def short_table(results: Mapping[str, Any]) -> list[str]:
    """A row for every student and number of labelled volumes; its tables list alone, control, distilled at the end."""
    head = ["", "teacher", "alone", "control", "distilled", "gain over control", "p (Holm)"]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for table in study_tables(results):
        distilled = table.rows[-1]
        figures = [_with_interval(row, results) for row in table.rows]
        cells = [table.title, *figures, wording.interval(distilled), wording.p_value(distilled.p_holm)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def validation_table(results: Mapping[str, Any]) -> list[str]:
    """What a choice was made by: the mean Dice of the validation volumes at the last epoch, and of no test volume."""
    lines = ["| | seeds | Dice of the validation volumes |", "| --- | ---: | ---: |"]
    for row in study_tables(results)[0].rows:
        dice = [run["history"][-1]["val_dice"] for run in results["runs"].get(row.run, [])]
        lines.append(f"| {row.title} | {len(dice)} | {f'{np.mean(dice):.3f}' if dice else wording.NOTHING} |")
    return [*lines, ""]


def shipped_table(shipped: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    """The candidates: their seeds one by one and the mean of the weights, on the validation and the test volumes."""
    lines = [
        "| | seeds, validation | mean of the weights, validation | seeds, test | mean of the weights, test |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    label = results["study"]["label"]
    titles = {run["name"]: run["title"] for run in results["study"]["runs"]}
    for run, candidate in shipped["candidates"].items():
        validation = [np.mean(list(dice.values())) for dice in candidate["seeds"].values()]
        runs = [result for result in results["runs"][run] if str(result["seed"]) in candidate["seeds"]]
        test = [np.mean([case["labels"][label]["dice"] for case in result["cases"]]) for result in runs]
        cells = [
            f"**{titles[run]}, ships**" if run == shipped["ships"] else titles[run],
            ", ".join(f"{value:.3f}" for value in validation),
            f"{np.mean(list(candidate['val'].values())):.3f}",
            ", ".join(f"{value:.3f}" for value in test),
            mean_with_interval([list(candidate["test"].values())]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def mean_with_interval(dice: Sequence[Sequence[float]]) -> str:
    """``0.912 [0.880, 0.934]`` of the Dice of each seed's volumes."""
    around = paired_difference(np.array(dice), np.zeros_like(dice))
    return f"{around.mean:.3f} [{around.low:.3f}, {around.high:.3f}]"


def _with_interval(row: FigureRow, results: Mapping[str, Any]) -> str:
    """``0.912 [0.880, 0.934]``, with the number of seeds where some are not finished."""
    runs: Sequence[Mapping[str, Any]] = results["runs"].get(row.run, [])
    if not runs:
        return wording.NOTHING
    label = results["study"]["label"]
    dice = [[case["labels"][label]["dice"] for case in run["cases"]] for run in runs]
    unfinished = "" if row.seeds == row.planned_seeds else f" ({row.seeds} of {row.planned_seeds} seeds)"
    return f"{mean_with_interval(dice)}{unfinished}"


def restore(out: Path, data: Path) -> None:
    """Put back the stored results of the table, with the models that are kept, so that what ships can be trained anew.

    A run whose recipe has changed since is left out.
    """
    results = _table()
    recipes = {job.id: job.recipe for job in jobs_of(Study.from_dict(results["study"]), out)}
    for job in jobs_of(load_study(STUDY_FILES / f"{TABLE}.yaml", data=data), out):
        runs = {run["seed"]: run for run in results["runs"].get(job.run.name, [])}
        if job.seed in runs and recipes.get(job.id) == job.recipe and not job.out.exists():
            claim(job)
            write_json(job.out / RESULT_FILE, {**runs[job.seed], "machine": results["machine"]})
    for kept, run in KEPT.items():
        folder = out / "runs" / f"{run}-{results['study']['seeds'][0]}"
        if (folder / RESULT_FILE).is_file() and not (folder / WEIGHTS_FILE).exists():
            _copy_model(kept, folder)
            DecathlonTask.load(data).split().write(folder / SPLIT_FILE)


def install(out: Path, data: Path) -> None:
    """Copy the models that are kept, average the candidates, store their figures, and put the better in its bundle.

    After ``store``, whose seeds it takes.
    """
    for target, run in KEPT.items():
        _copy_model(out / "runs" / f"{run}-{_seeds(run)[0]}", target)
    task, candidates = DecathlonTask.load(data), {}
    for run in CANDIDATES:
        mean, seeds = out / "means" / run, {seed: out / "runs" / f"{run}-{seed}" for seed in _seeds(run)}
        average_models(list(seeds.values()), mean)
        candidates[run] = {
            "seeds": {seed: _dice_of_cases(folder, task, "val") for seed, folder in seeds.items()},
            **{part: _dice_of_cases(mean, task, part) for part in ("val", "test")},
        }
    ships = max(CANDIDATES, key=lambda run: np.mean(list(candidates[run]["val"].values())))
    _copy_model(out / "means" / ships, bundle_folder(STUDENT) / "models")
    for bundle in (STUDENT, TEACHER):
        models = bundle_folder(bundle) / "models"
        replace(SavedModel.read(models), compact=COMPACT).write_description(models)
    write_figures(stored(SHIPPED), {"machine": machine_facts(), "ships": ships, "candidates": candidates})


def _copy_model(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for file in (DESCRIPTION_FILE, WEIGHTS_FILE):
        shutil.copyfile(source / file, target / file)


def _dice_of_cases(model: Path, task: DecathlonTask, part: str, postprocessed: bool = False) -> dict[str, float]:
    report = evaluate(Segmenter.load(model, "torch"), task.part(part), task.labels, postprocessed=postprocessed)
    return {case["name"]: round(case["labels"]["spleen"]["dice"], 5) for case in report["cases"]}


def _seeds(run: str) -> list[int]:
    """The seeds of a run that the stored table holds."""
    return [result["seed"] for result in _table()["runs"][run]]


def _table() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(stored(TABLE).read_text(encoding="utf-8"))
    return results


def reproduce(data: Path) -> int:
    """Evaluate the shipped models and compare every test volume with what is stored; 1 where one differs."""
    shipped = json.loads(stored(SHIPPED).read_text(encoding="utf-8"))
    teacher = _table()["runs"]["shipped-teacher"][0]["cases"]
    card = json.loads(CARD.read_text(encoding="utf-8"))["cases"]
    expected = {
        (STUDENT, False): shipped["candidates"][shipped["ships"]]["test"],
        (STUDENT, True): {case["name"]: case["student"]["dice"] for case in card},
        (TEACHER, False): {case["name"]: case["labels"]["spleen"]["dice"] for case in teacher},
        (TEACHER, True): {case["name"]: case["teacher"]["dice"] for case in card},
    }
    task, differing = DecathlonTask.load(data), 0
    for (bundle, postprocessed), known in expected.items():
        measured = _dice_of_cases(bundle_folder(bundle), task, "test", postprocessed)
        cleaned = " post-processed" if postprocessed else ""
        for name in sorted(known.keys() | measured.keys()):
            dice, stored_dice = measured.get(name, np.nan), known.get(name, np.nan)
            agrees = abs(dice - stored_dice) <= TOLERANCE
            differing += not agrees
            words = "as stored" if agrees else f"but {stored_dice:.4f} is stored"
            print(f"{bundle} {name}{cleaned}: Dice {dice:.4f}, {words}")
    return int(differing > 0)


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("store", "install", "restore", "reproduce", "report"):
        subparser = commands.add_parser(command)
        if command in ("store", "install", "restore"):
            subparser.add_argument("out", type=Path)
        if command in ("install", "restore", "reproduce"):
            subparser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "store":
        store(options.out)
    elif options.command == "install":
        install(options.out, options.data)
    elif options.command == "restore":
        restore(options.out, options.data)
    elif options.command == "reproduce":
        sys.exit(reproduce(options.data))
    else:
        with atomic_write(PAGE) as temporary:
            temporary.write_text(student_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
