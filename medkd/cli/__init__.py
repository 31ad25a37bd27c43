"""The command line: parses, calls, prints. Everything it does can be done from Python too."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from medkd import __version__
from medkd.cli import data, infer, models, study, training
from medkd.cli.command import fail
from medkd.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words behind ``medkd``; those of the process by default.

    Returns:
        0 if all went well, 1 if some cases of several failed or medkd itself did, 2 if the input was wrong, 130 if
        interrupted.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if options.command == "infer" and not any(word.startswith("-") for word in rest):
        # argparse does not know the scans behind an option for more of those before it.
        options.words, rest = options.words + rest, []
    if rest and not options.overridable:
        parser.error(f"not understood: {' '.join(rest)}; see medkd {options.command} --help")
    # MONAI and ignite log each engine's life, errors with it; the user gets one bar and one sentence.
    logging.disable(logging.ERROR)
    try:
        if options.overridable:
            from medkd.recipes import parse_overrides

            options.overrides = parse_overrides(rest)
        return options.run(options)
    except UserError as error:
        return fail(str(error), 2)
    except KeyboardInterrupt:
        resume = " with --resume" if options.command == "infer" else ""
        return fail(f"interrupted: give the same command again{resume} to go on.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return fail(f"{error.filename or 'a file'} cannot be used ({error.strerror or error}).", 2)
    except Exception as error:
        if os.environ.get("MEDKD_DEBUG"):
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        return fail(f"failed inside ({type(error).__name__}: {reason}): MEDKD_DEBUG=1 shows where.", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medkd",
        description="Turn a large segmentation teacher into a tiny student.",
        epilog="Start with: medkd demo --out demo",
    )
    parser.add_argument("--version", action="version", version=f"medkd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (data, training, models, infer, study):
        group.add_commands(commands)
    return parser
