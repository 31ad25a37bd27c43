"""Real CT: a teacher, S1 alone, the control and S1 distilled, on the fixed split of btcv_spleen, three seeds.

    python benchmarks/btcv_spleen.py run --data $MEDKD_DATA/btcv_spleen --out runs/btcv
    python benchmarks/btcv_spleen.py report

``run`` trains what is missing (a stopped run goes on), evaluates on the test volumes and writes
``docs/results/btcv_spleen.json``; ``--arms`` limits it, so that several processes can share the work; with no arm it
only gathers. ``report`` writes ``docs/results.md`` from the stored JSON alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_page import write_results_page

from medkd.bundle import STUDENT, TEACHER
from medkd.recipes import WITHOUT_DISTILLATION, run_recipe

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "btcv_spleen.json"
SEEDS = (0, 1, 2)

TEACHER_RECIPE: dict[str, Any] = {
    "size": 128,
    "network_def::channels": [16, 32, 64, 128, 256],
    "empty_per_foreground": 1.0,
    "epochs": 45,
    "learning_rate": 0.001,
    "schedule": "cosine",
    "augment": True,
    "val_interval": 2,
}
STUDENT_SCALE: dict[str, Any] = {"empty_per_foreground": 1.0, "val_interval": 2}
KD_SCALE: dict[str, Any] = {"epochs": 25, "schedule": "cosine", "augment": True}
# A tenth of the published weights of the teacher's terms: at full weight they drown the segmentation in 25 epochs.
PMD_BOTTLENECK = {"granularity": "pixel", "weights::pmd": 0.02, "weights::bottleneck": 0.02}
ALL_SCALES = PMD_BOTTLENECK | {"weights::encoder": 0.01, "weights::decoder": 0.01}

# arm -> (what it is, config of the student bundle, overrides)
ARMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "alone": ("S1 alone, its own published recipe", "train", {"size": 128, "epochs": 50}),
    "control": (
        "S1, the distillation recipe without distillation (control)",
        "distill",
        KD_SCALE | WITHOUT_DISTILLATION,
    ),
    "pmd_bottleneck": (
        "S1 distilled, prediction maps and bottleneck, a tenth of the published weights",
        "distill",
        KD_SCALE | PMD_BOTTLENECK,
    ),
    "published_weights": (
        "S1 distilled, prediction maps and bottleneck at published weights",
        "distill",
        KD_SCALE | {"granularity": "pixel"},
    ),
    "all_scales": (
        "S1 distilled, prediction maps and all scales, a tenth of the published weights",
        "distill",
        KD_SCALE | ALL_SCALES,
    ),
}


def run(data: Path, out: Path, arms: list[str], seeds: list[int]) -> None:
    """Train and evaluate what is missing, then gather all evaluations."""
    import torch

    torch.set_num_threads(1)
    common = {"dataset_dir": str(data)}
    teacher = run_recipe(TEACHER, "train", common | TEACHER_RECIPE, out / "teacher")
    evaluate_run(teacher, data)
    for seed in seeds:
        for arm in arms:
            _, config, overrides = ARMS[arm]
            if config == "distill":
                overrides = {"teacher_run": str(teacher)} | overrides
            folder = out / f"{arm}-{seed}"
            run_recipe(STUDENT, config, common | STUDENT_SCALE | overrides | {"seed": seed}, folder)
            evaluate_run(folder, data)
    gather(out)


def evaluate_run(folder: Path, data: Path) -> None:
    """Evaluate a run on the test volumes, once."""
    from medkd.data import DecathlonTask
    from medkd.engines import run_split_file
    from medkd.files import write_json
    from medkd.inference import Segmenter, evaluate

    if not (folder / "evaluation.json").is_file():
        task = DecathlonTask.load(data)
        cases = task.select(task.split(file=run_split_file(folder)).test)
        report = evaluate(Segmenter.load(folder, backend="torch"), cases, task.labels)
        write_json(folder / "evaluation.json", report)


def gather(out: Path) -> None:
    """Write the evaluations that exist, with the recipes and the machine, to one JSON."""
    from medkd.files import write_json
    from medkd.machine import machine_facts

    arms = {}
    for arm, (name, config, overrides) in {"teacher": ("Teacher", "train", TEACHER_RECIPE), **ARMS}.items():
        folders = [out / arm] if arm == "teacher" else [out / f"{arm}-{seed}" for seed in SEEDS]
        runs = []
        for seed, folder in enumerate(folders):
            if (folder / "evaluation.json").is_file():
                history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
                report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
                best = max(row.get("val_dice", 0.0) for row in history)
                seconds = round(sum(row["seconds"] for row in history))
                runs.append({"seed": seed, "best_val_dice": best, "train_seconds": seconds, **report})
        recipe = overrides if arm == "teacher" else STUDENT_SCALE | overrides
        arms[arm] = {"name": name, "config": config, "overrides": recipe, "runs": runs}
    write_json(RESULTS, {"machine": machine_facts(), "arms": arms, "explored": explored(out)})


def explored(out: Path) -> list[dict[str, Any]]:
    """What was tried on the way: runs of ``medkd distill`` in ``OUT/explored``, each with its ``evaluation.json``."""
    rows = []
    for folder in sorted((out / "explored").glob("*")):
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["overrides"]
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        rows.append(
            {
                "name": folder.name,
                "overrides": {key: value for key, value in recipe.items() if key not in ("dataset_dir", "teacher_run")},
                "best_val_dice": max(row.get("val_dice", 0.0) for row in history),
                "mean": report["mean"],
            }
        )
    return rows


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--data", type=Path, required=True)
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    runner.add_argument("--seeds", nargs="*", type=int, choices=SEEDS, default=list(SEEDS))
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "run":
        run(options.data, options.out, options.arms, options.seeds)
    else:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        write_results_page(results, ROOT / "docs" / "results.md", "python benchmarks/btcv_spleen.py")


if __name__ == "__main__":
    main()
