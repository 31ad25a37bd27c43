"""The weights that the bundles ship, and their figures: a teacher, S1 alone, the control and S1 distilled, one seed.

    python benchmarks/shipped.py run --data $MEDKD_DATA/btcv_spleen --out runs/shipped
    python benchmarks/shipped.py install --out runs/shipped

``run`` trains what is missing (a stopped run goes on), evaluates on the test volumes and writes
``docs/results/shipped.json``. ``install`` copies two models into ``bundles/*/models``: the teacher, and of the
distilled student and its control the one with the higher validation Dice.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from btcv_spleen import evaluate_run

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.recipes import run_recipe
from medkd.run_folder import DESCRIPTION_FILE, WEIGHTS_FILE

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "shipped.json"
METHOD = "pa"  # the best of docs/methods.md

COMMON: dict[str, Any] = {"empty_per_foreground": 1.0, "val_interval": 2}
DISTILLED = COMMON | {"epochs": 40, "schedule": "cosine", "augment": True}
# arm -> (what it is, bundle, config, overrides)
ARMS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "teacher": (
        "multi-task U-Net of a quarter of the published width, 2,707,380 parameters",
        TEACHER,
        "train",
        COMMON
        | {
            "network_name": "multitask_unet",
            "size": 128,
            "network_def::channels": [16, 32, 64, 128, 256],
            "epochs": 45,
            "learning_rate": 0.001,
            "schedule": "cosine",
            "augment": True,
        },
    ),
    "pa": ("S1 distilled, pair-wise affinity of the bottleneck", STUDENT, "distill", DISTILLED),
    "control": (
        "S1, the same recipe without distillation (control)",
        STUDENT,
        "distill",
        DISTILLED | {"weights::pairwise": 0.0},
    ),
    "alone": (
        "S1 alone, its own published recipe, 50 epochs",
        STUDENT,
        "train",
        COMMON | {"network_name": "unet_s1", "size": 128, "epochs": 50},
    ),
}


def run(data: Path, out: Path) -> None:
    """Train and evaluate what is missing, then write the figures."""
    for arm, (_, bundle, config, overrides) in ARMS.items():
        given = {"dataset_dir": str(data)}
        if config == "distill":
            given |= {"teacher_run": str(out / "teacher"), "network_name": "unet_s1"}
        run_recipe(bundle, config, given | overrides, out / arm, METHOD if config == "distill" else None)
        evaluate_run(out / arm, data)
    gather(out)


def gather(out: Path) -> None:
    """Write the figures of all arms, with recipes and machine."""
    from medkd.files import write_json
    from medkd.machine import machine_facts

    arms = {}
    for arm, (name, _, config, overrides) in ARMS.items():
        report = json.loads((out / arm / "evaluation.json").read_text(encoding="utf-8"))
        history = json.loads((out / arm / "history.json").read_text(encoding="utf-8"))
        arms[arm] = {
            "name": name,
            "config": config,
            "method": METHOD if config == "distill" else None,
            "overrides": overrides,
            "seed": 0,
            "best_val_dice": max(row.get("val_dice", 0.0) for row in history),
            "mean_dice": report["mean"]["spleen"]["dice"],
            "standard_deviation": report["standard_deviation"]["spleen"]["dice"],
            "train_seconds": round(sum(row["seconds"] for row in history)),
            "parameters": report["parameters"],
            "cases": report["cases"],
        }
    write_json(RESULTS, {"machine": machine_facts(), "data": "btcv_spleen, its own split", "arms": arms})


def install(out: Path) -> None:
    """Copy the models that the bundles ship."""
    arms = json.loads(RESULTS.read_text(encoding="utf-8"))["arms"]
    student = max(("pa", "control"), key=lambda arm: arms[arm]["best_val_dice"])
    for arm, bundle in (("teacher", TEACHER), (student, STUDENT)):
        target = bundle_folder(bundle) / "models"
        target.mkdir(exist_ok=True)
        for file in (DESCRIPTION_FILE, WEIGHTS_FILE):
            shutil.copy(out / arm / file, target / file)
        print(f"{target}: {arm}")


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--data", type=Path, required=True)
    for command in (runner, commands.add_parser("install")):
        command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "run":
        run(options.data, options.out)
    else:
        install(options.out)


if __name__ == "__main__":
    main()
