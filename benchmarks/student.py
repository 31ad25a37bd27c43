"""The figures of the shipped student in docs/.

medkd study run benchmarks/student/choice.yaml --out runs/student    # which network, an hour
medkd study run benchmarks/student/methods.yaml --out runs/student   # which distillation, an hour
medkd study run benchmarks/student/table.yaml --out runs/student     # the table, five hours; a stopped one goes on
medkd study report runs/student
python benchmarks/student.py store runs/student   # docs/results/student_*.json
python benchmarks/student.py restore runs/student --data $MEDKD_DATA/btcv_spleen   # so that the table goes on from them
python benchmarks/student.py report               # docs/student.md from the stored JSON alone
python benchmarks/student.py install runs/student # the models of the table that the bundles ship
python benchmarks/student.py reproduce --data $MEDKD_DATA/btcv_spleen   # their rows of the table, a minute
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from study import section

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.data import DecathlonTask
from medkd.files import atomic_write, write_json
from medkd.inference import Segmenter, evaluate
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
TABLE, METHODS = "table", "methods"
STUDIES = (TABLE, "choice", METHODS)
# Which runs of the table the bundles ship, each of the first seed: of the distilled student and its control the one
# with the higher Dice on the validation volumes.
SHIPPED = {STUDENT: "shipped-control", TEACHER: "shipped-teacher"}
# What the rows that are not done yet need, kept for whoever goes on with them.
KEPT = {STUDY_FILES / run: run for run in ("teacher", "tiny-organs")}
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


def _with_interval(row: FigureRow, results: Mapping[str, Any]) -> str:
    """``0.912 [0.880, 0.934]``, with the number of seeds where some are not finished."""
    runs: Sequence[Mapping[str, Any]] = results["runs"].get(row.run, [])
    if not runs:
        return wording.NOTHING
    label = results["study"]["label"]
    dice = np.array([[case["labels"][label]["dice"] for case in run["cases"]] for run in runs])
    around = paired_difference(dice, np.zeros_like(dice))
    unfinished = "" if row.seeds == row.planned_seeds else f" ({row.seeds} of {row.planned_seeds} seeds)"
    return f"{around.mean:.3f} [{around.low:.3f}, {around.high:.3f}]{unfinished}"


def restore(out: Path, data: Path) -> None:
    """Put back the stored results of the table, with the models that are kept, so that the study goes on from them.

    A run whose recipe has changed since is left out.
    """
    results = json.loads(stored(TABLE).read_text(encoding="utf-8"))
    recipes = {job.id: job.recipe for job in jobs_of(Study.from_dict(results["study"]), out)}
    for job in jobs_of(load_study(STUDY_FILES / f"{TABLE}.yaml", data=data), out):
        runs = {run["seed"]: run for run in results["runs"].get(job.run.name, [])}
        if job.seed in runs and recipes.get(job.id) == job.recipe and not job.out.exists():
            claim(job)
            write_json(job.out / RESULT_FILE, {**runs[job.seed], "machine": results["machine"]})
    for kept, run in _kept_models().items():
        folder = out / "runs" / f"{run}-{results['study']['seeds'][0]}"
        if (folder / RESULT_FILE).is_file() and not (folder / WEIGHTS_FILE).exists():
            _copy_model(kept, folder)
            DecathlonTask.load(data).split().write(folder / SPLIT_FILE)


def _kept_models() -> dict[Path, str]:
    """Folders of the repository and the runs of the table whose models, of the first seed, they hold."""
    return {bundle_folder(bundle) / "models": run for bundle, run in SHIPPED.items()} | KEPT


def install(out: Path) -> None:
    """Copy the models that the bundles ship, and those that other rows need."""
    for target, run in _kept_models().items():
        target.mkdir(exist_ok=True)
        _copy_model(out / "runs" / f"{run}-{_first(run)['seed']}", target)


def _copy_model(source: Path, target: Path) -> None:
    for file in (DESCRIPTION_FILE, WEIGHTS_FILE):
        shutil.copyfile(source / file, target / file)


def reproduce(data: Path) -> int:
    """Evaluate the shipped models and compare every test volume with the table; 1 where one differs."""
    task, differing = DecathlonTask.load(data), 0
    for bundle, run in SHIPPED.items():
        report = evaluate(Segmenter.load(bundle_folder(bundle), "torch"), task.part("test"), task.labels)
        for case, expected in zip(report["cases"], _first(run)["cases"], strict=True):
            dice, stored_dice = (entry["labels"]["spleen"]["dice"] for entry in (case, expected))
            agrees = case["name"] == expected["name"] and abs(dice - stored_dice) <= TOLERANCE
            differing += not agrees
            words = "as stored" if agrees else f"but {stored_dice:.4f} of {expected['name']} is stored"
            print(f"{bundle} {case['name']}: Dice {dice:.4f}, {words}")
    return int(differing > 0)


def _first(run: str) -> dict[str, Any]:
    """What the table holds of a run's first seed."""
    return json.loads(stored(TABLE).read_text(encoding="utf-8"))["runs"][run][0]


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("store", "install"):
        commands.add_parser(command).add_argument("out", type=Path)
    commands.add_parser("report")
    restoring = commands.add_parser("restore")
    restoring.add_argument("out", type=Path)
    for command in (restoring, commands.add_parser("reproduce")):
        command.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "store":
        store(options.out)
    elif options.command == "install":
        install(options.out)
    elif options.command == "restore":
        restore(options.out, options.data)
    elif options.command == "reproduce":
        sys.exit(reproduce(options.data))
    else:
        with atomic_write(PAGE) as temporary:
            temporary.write_text(student_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
