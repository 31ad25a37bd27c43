"""medkd train, pretrain and distill: the recipes of the bundles."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medkd.cli.command import command


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    train = command(
        commands, "train", _train, "train a teacher, or a student alone",
        "medkd train --data Task09_Spleen --network multitask_unet --out runs/teacher --epochs 50",
        "spleen_ct_teacher/configs/train.yaml for teachers, spleen_ct_student/configs/train.yaml for students",
    )  # fmt: skip
    _data_options(train)
    train.add_argument("--network", required=True, metavar="NAME", help="see medkd networks, or monai.networks.nets.X")
    train.add_argument("--role", choices=("teacher", "student"), help="whose recipe; the network's own by default")

    pretrain = command(
        commands, "pretrain", _pretrain, "train a multi-task network to reconstruct unlabelled volumes",
        "medkd pretrain --data Task09_Spleen --network multitask_unet --out runs/start, then "
        "medkd train ... --initial_run runs/start",
        "spleen_ct_teacher/configs/pretrain.yaml",
    )  # fmt: skip
    _data_options(pretrain)
    pretrain.add_argument("--network", default="multitask_unet", metavar="NAME", help="a network with reconstruction")

    distill = command(
        commands, "distill", _distill, "train a student beside a frozen teacher",
        "medkd distill --data Task09_Spleen --teacher runs/teacher --student unet_s1 --out runs/student",
        "spleen_ct_student/configs/distill.yaml",
    )  # fmt: skip
    _data_options(distill)
    distill.add_argument("--teacher", required=True, type=Path, metavar="RUN", help="run folder of the teacher")
    distill.add_argument("--student", default="unet_s1", metavar="NAME", help="network of the student (%(default)s)")
    distill.add_argument(
        "--method",
        default="mtms",
        metavar="NAME",
        help="what the student learns: a name that medkd methods lists (%(default)s), or a YAML file of your own",
    )


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="task folder in Decathlon layout")
    parser.add_argument("--download", action="store_true", help="fetch the task through MONAI if the folder is missing")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder for the run")


def _recipe_overrides(options: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {"dataset_dir": str(options.data)}
    if options.download:
        overrides["download"] = True
    return overrides


def _train(options: argparse.Namespace) -> int:
    from medkd.bundle import STUDENT, TEACHER
    from medkd.networks import network_entry
    from medkd.networks.registry import MONAI_NETWORKS
    from medkd.recipes import run_recipe

    is_stock = options.network.startswith(MONAI_NETWORKS)
    role = options.role or ("teacher" if is_stock else network_entry(options.network).role)
    overrides = {**_recipe_overrides(options), "network_name": options.network, **options.overrides}
    return _report_run(run_recipe(TEACHER if role == "teacher" else STUDENT, "train", overrides, options.out))


def _pretrain(options: argparse.Namespace) -> int:
    from medkd.bundle import TEACHER
    from medkd.recipes import run_recipe

    overrides = {**_recipe_overrides(options), "network_name": options.network, **options.overrides}
    return _report_run(run_recipe(TEACHER, "pretrain", overrides, options.out))


def _distill(options: argparse.Namespace) -> int:
    from medkd.bundle import STUDENT
    from medkd.recipes import run_recipe

    overrides = {
        **_recipe_overrides(options),
        "teacher_run": str(options.teacher),
        "network_name": options.student,
        **options.overrides,
    }
    return _report_run(run_recipe(STUDENT, "distill", overrides, options.out, options.method))


def _report_run(run: Path) -> int:
    from medkd.methods import format_terms
    from medkd.run_folder import HISTORY_FILE

    history = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))
    best = max((row for row in history if "val_dice" in row), key=lambda row: row["val_dice"], default=None)
    figures = "" if best is None else f", best validation Dice {best['val_dice']:.3f} in epoch {best['epoch']}"
    print(f"{run}: {len(history)} epochs{figures}")
    if "gradient" in history[-1]:
        print(format_terms(history[-1]))
    return 0
