"""medkd study: train and compare many models."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from medkd.cli.command import command


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    study = commands.add_parser("study", help="train and compare many models").add_subparsers(
        dest="study_command", required=True, metavar="COMMAND"
    )
    run = command(study, "run", _study_run, "do every run of a study that is not done, and write its report",
                   "medkd study run mtms_tables --scale smoke --out study")  # fmt: skip
    run.add_argument("study", metavar="STUDY", help="a study file, or a name that medkd study list shows")
    run.add_argument("--out", required=True, type=Path, metavar="DIR",
                     help="folder for runs and report; several studies may share it")  # fmt: skip
    run.add_argument("--scale", choices=("smoke", "small", "full"), default="small",
                     help="smoke: minutes; small: hours on a CPU; full: as published (%(default)s)")  # fmt: skip
    run.add_argument("--data", type=Path, metavar="DIR",
                     help="task folder in Decathlon layout; the one that the study names by default")  # fmt: skip
    run.add_argument("--jobs", type=int, metavar="N",
                     help="runs at a time; as many as the cores allow by default, one on a GPU")  # fmt: skip
    run.add_argument("--retry", action="store_true", help="try again those that failed")
    run.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="let Ray do the runs, on the cluster at ADDRESS, whose nodes must all see --out and the data under the "
        "same path, or on this machine",
    )
    report = command(study, "report", _study_report, "write the reports of the studies in a folder",
                      "medkd study report study")  # fmt: skip
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of medkd study run")
    command(study, "list", _study_list, "list the studies that come with medkd", "medkd study list")


def _study_run(options: argparse.Namespace) -> int:
    from medkd.study.progress import format_outcome
    from medkd.study.runner import run_study
    from medkd.study.study_file import load_study

    study = load_study(options.study, options.scale, options.data)
    outcome = run_study(study, options.out, options.jobs, options.retry, options.ray)
    # It needs what takes long to load, and the runs need not wait for that.
    from medkd.study.report import write_study_report

    for file in write_study_report(options.out, study):
        print(file)
    if outcome.is_complete:
        return 0
    print(format_outcome(outcome), file=sys.stderr)
    return 1


def _study_report(options: argparse.Namespace) -> int:
    from medkd.study.report import report_folder

    for file in report_folder(options.folder):
        print(file)
    return 0


def _study_list(options: argparse.Namespace) -> int:
    from medkd.study.listing import format_ready_studies

    print(format_ready_studies())
    return 0
