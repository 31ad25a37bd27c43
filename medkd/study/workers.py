"""What workers do with the jobs of a study."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from medkd.errors import UserError
from medkd.lock import lock
from medkd.study.job import FAILED_FILE, Job, read_result, run_job
from medkd.workers import Died

Task = tuple[Job, Path]
"""A job and the file to append its log to."""


def do_job(task: Task) -> str | None:
    """Do a job in this process; all that is printed meanwhile, by C code too, goes to its log.

    The figures depend on the job alone, not on what the process has done before.

    Args:
        task: what to do. Who writes to its log holds the lock of that, so that a job has one worker at a time even
            where that of a killed study has not ended yet.

    Returns:
        Why the job failed, in a sentence; None if it has not.
    """
    job, log = task
    try:
        with _output_to(log):
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job.id}", flush=True)
            return _try(job)
    except OSError as error:
        return f"{log} cannot be written ({error.strerror or error})."


def do_job_on_node(task: Task) -> str | None:
    """Do a job on a node of a cluster if that sees the log, which the study has made: see :func:`do_job`."""
    _, log = task
    if not log.is_file():
        return (
            f"{socket.gethostname()} does not see {log}: choose an --out on a file system that all nodes of the "
            "cluster share."
        )
    return do_job(task)


def _try(job: Job) -> str | None:
    try:
        if read_result(job) is None:
            _run(job)
        return None
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, UserError):
            return str(error)
        reason = (str(error).strip().splitlines() or [""])[0]
        return f"failed inside ({type(error).__name__}: {reason})."


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        lock(stream, wait=True)
        kept = {number: os.dup(number) for number in (1, 2)}
        try:
            _flush()
            for number in kept:
                os.dup2(stream.fileno(), number)
            yield
        finally:
            with contextlib.suppress(OSError):  # The disk is full.
                _flush()
            for number, own in kept.items():
                os.dup2(own, number)
                os.close(own)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _run(job: Job) -> None:
    _clear(job.out)
    _set_up(job)
    try:
        run_job(job)
    finally:
        _free_memory()


def _clear(folder: Path) -> None:
    """Remove what an earlier try has left in a run's folder but for what it goes on from."""
    if folder.is_dir():
        for file in (folder / FAILED_FILE, *folder.glob(".writing-*")):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # It holds a training.
            folder.rmdir()


def _set_up(job: Job) -> None:
    # Read by the libraries that torch brings along when they are loaded.
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    import numpy as np
    import torch

    torch.set_num_threads(job.threads)
    # The recipe seeds torch, and in every epoch all three; nothing before that may tell what the process did before.
    random.seed(job.seed)
    np.random.seed(job.seed)
    torch.manual_seed(job.seed)


def _free_memory() -> None:
    """Return to the system what the job has left, which its recipe keeps for itself (:mod:`medkd.memory`)."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # Not glibc.
        ctypes.CDLL(None).malloc_trim(0)


def how_it_failed(died: Died) -> str:
    """Why a job has failed whose worker died, in a sentence."""
    hint = "if memory ran out, give fewer --jobs" if died.memory else "see its log"
    return f"{died.how}: {hint}."
