"""medkd infer: segment new scans."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from medkd.bundle import STUDENT, bundle_folder
from medkd.cli.command import command
from medkd.errors import UserError
from medkd.run_folder import is_run_or_bundle


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    infer = command(
        commands, "infer", _infer, "segment new scans",
        "medkd infer scan.nii.gz series_folder --out masks",
    )  # fmt: skip
    infer.usage = "medkd infer [RUN] INPUT [INPUT ...] --out DIR [options]"
    infer.add_argument(
        "words",
        nargs="+",
        metavar="INPUT",
        help="scans (NIfTI, NRRD, MetaImage), folders of them or of DICOM series, task folders, or a .txt of paths; "
        "before them the RUN folder of a model, or a bundle (the spleen model that comes with medkd)",
    )
    infer.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for masks, tables and report")
    cohort = infer.add_argument_group("many scans")
    cohort.add_argument("--resume", action="store_true", help="leave out what an earlier run in DIR has finished")
    cohort.add_argument(
        "--workers", type=int, metavar="N", help="scans at a time (1; with Ray as many as it has room for)"
    )
    cohort.add_argument("--shard", type=_shard, metavar="I/N", help="only every Nth scan, from the Ith on")
    cohort.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="let Ray do the work, on the cluster at ADDRESS, whose nodes must all see RUN, INPUT and DIR under the "
        "same path, or on this machine",
    )
    how = infer.add_argument_group("how to segment")
    how.add_argument("--all-pieces", action="store_true", help="keep more than the largest piece of a label")
    how.add_argument("--keep-holes", action="store_true", help="leave holes in a label as they are")
    how.add_argument("--flips", action="store_true", help="mean of four flipped copies, for models trained on such")
    how.add_argument("--uncertainty", action="store_true", help="also measure how unsure the network is")
    how.add_argument(
        "--backend",
        choices=("auto", "openvino", "onnx", "torch"),
        default="auto",
        help="what runs the network (%(default)s: the fastest that is installed and agrees with torch)",
    )
    how.add_argument("--device", metavar="NAME", help="of torch, such as cuda:1; a GPU if there is one by default")
    how.add_argument("--threads", type=int, metavar="N", help="of each worker; the cores are shared, with Ray one each")
    written = infer.add_argument_group("what to write besides masks and tables")
    written.add_argument("--no-preview", action="store_true", help="no pictures")
    written.add_argument("--no-dicom-seg", action="store_true", help="no DICOM SEG for DICOM series")


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard: give such as 1/4, the first of four")
    return int(match[1]), int(match[2])


def _model_and_inputs(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The model to use, the shipped one where none is named, and what to segment."""
    from medkd.inference.inputs import find_scans

    first, others = Path(words[0]), list(words[1:])
    for word in others:
        if is_run_or_bundle(Path(word)):
            raise UserError(f"{word} is the folder of a model: name one alone, and before the scans.")
    if is_run_or_bundle(first):
        if not others:
            raise UserError(f"{first} is the folder of a model: give the scans that it shall segment behind it.")
        return first, others
    if first.is_dir() and others:
        find_scans([first])  # what holds neither a model nor a scan is no folder to go on without
    return bundle_folder(STUDENT), list(words)


def _infer(options: argparse.Namespace) -> int:
    # numpy's small products need no threads of their own, which would fight for the cores with those of the network.
    # It reads this when it is first imported, here and in the workers.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from medkd.inference.cohort import run_cohort
    from medkd.inference.cohort_case import CohortSettings
    from medkd.inference.inputs import find_scans
    from medkd.inference.options import Options

    model, inputs = _model_and_inputs(options.words)
    settings = CohortSettings(
        model=str(model),
        backend=options.backend,
        device=options.device,
        threads=options.threads,
        options=Options(
            largest_component=not options.all_pieces,
            fill_holes=not options.keep_holes,
            flips=options.flips,
            uncertainty=options.uncertainty,
        ),
        preview=not options.no_preview,
        dicom_seg=not options.no_dicom_seg,
    )
    scans = find_scans(inputs)
    if model == bundle_folder(STUDENT):
        _say(f"medkd: segmenting with {STUDENT}, the model that comes with medkd, for research use only.", sys.stderr)
    # A process of its own is what a scan can crash without harm to the others.
    workers = 1 if options.workers is None and options.ray is None and len(scans) > 1 else options.workers
    done = failed = 0
    with _ended_by_sigterm():
        for row in run_cohort(
            settings, scans, options.out, workers, options.shard, options.ray, options.resume, progress=True
        ):
            if row["state"] == "failed":
                failed += 1
                _say(f"medkd: {row['error']}", sys.stderr)
                continue
            done += 1
            if row["note"]:
                _say(f"medkd: {row['note']}", sys.stderr)
            figures = row["measurements"]["labels"].items()
            volumes = ", ".join(f"{name} {label['volume_ml']:.1f} ml" for name, label in figures)
            _say(f"{options.out / row['mask']}: {volumes}", sys.stdout)
    if done + failed != 1:
        nothing = "nothing was left to do" if done + failed == 0 else f"{done} done, {failed} failed"
        _say(f"{nothing}: {options.out / 'report.html'}", sys.stdout)
    return 1 if failed else 0


def _say(line: str, stream: TextIO) -> None:
    """Print a line above the progress bar; that nobody reads it, or it cannot be shown, does not stop the work."""
    from tqdm import tqdm

    encoding = stream.encoding or "utf-8"
    try:
        tqdm.write(line.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, which batch systems send before their time limit, end the work as Ctrl-C does."""

    def end(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
