"""How a command of the command line is declared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

RECIPE_NOTE = (
    "Any value of the recipe can be overridden with --name value; '::' goes deeper, as in --optimizer::lr 0.001. "
    "The recipe is {config}. A stopped run goes on where it was when the same command is given again."
)


def command(
    commands: Any, name: str, run: Callable[[Any], int], summary: str, example: str, config: str | None = None
) -> argparse.ArgumentParser:
    """Add a command: its name, what it runs, one line of summary, an example, and the recipe it takes overrides of."""
    note = f"\n\n{RECIPE_NOTE.format(config=config)}" if config else ""
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"Example: {example}.{note}",
        allow_abbrev=False,
    )  # fmt: skip
    parser.set_defaults(run=run, overridable=config is not None)
    return parser


def fail(sentence: str, code: int) -> int:
    """Print a sentence to standard error; returns the exit code."""
    print(f"medkd: {sentence}", file=sys.stderr)
    return code
