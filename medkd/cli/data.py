"""medkd data: look at, make and convert data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medkd.cli.command import command


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    data = commands.add_parser("data", help="look at, make and convert data").add_subparsers(
        dest="data_command", required=True, metavar="COMMAND"
    )
    info = command(data, "info", _data_info, "what is in a task folder and what is wrong with it",
                    "medkd data info Task09_Spleen")  # fmt: skip
    info.add_argument("folder", type=Path, metavar="DIR")
    info.add_argument("--json", action="store_true", help="print JSON")
    phantom = command(data, "phantom", _data_phantom, "make synthetic abdominal CT in Decathlon layout",
                       "medkd data phantom --out phantoms --volumes 12 --seed 0")  # fmt: skip
    phantom.add_argument("--out", required=True, type=Path, metavar="DIR")
    phantom.add_argument("--volumes", type=int, default=12, metavar="N", help="how many (%(default)s)")
    phantom.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (%(default)s)")
    slices = command(data, "slices", _data_slices, "write axial slices and masks as PNG",
                      "medkd data slices Task09_Spleen --out slices --window -125 275")  # fmt: skip
    slices.add_argument("folder", type=Path, metavar="DIR")
    slices.add_argument("--out", required=True, type=Path, metavar="DIR")
    slices.add_argument("--window", type=float, nargs=2, default=(-125.0, 275.0), metavar=("LOW", "HIGH"),
                        help="HU that become black and white (-125 275)")  # fmt: skip
    slices.add_argument("--size", type=int, metavar="N", help="resize to N x N; the scan's matrix by default")


def _data_info(options: argparse.Namespace) -> int:
    from medkd.data.inspect import format_inspection, inspect_task

    report = inspect_task(options.folder)
    print(json.dumps(report, indent=2) if options.json else format_inspection(report))
    return 0


def _data_phantom(options: argparse.Namespace) -> int:
    from medkd.data.phantom import write_phantom_task

    write_phantom_task(options.out, options.volumes, options.seed)
    print(f"{options.out}: {options.volumes} volumes")
    return 0


def _data_slices(options: argparse.Namespace) -> int:
    from medkd.data.png import export_slices

    export_slices(options.folder, options.out, tuple(options.window), options.size)
    print(f"{options.out}: images, masks and conversion.json")
    return 0
