"""The processes that do the jobs of a study."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from medkd.errors import UserError
from medkd.study.job import FAILED_FILE, Job, read_result, run_job
from medkd.study.lock import lock


class Workers(Protocol):
    """What the runner asks of those who do the jobs.

    Attributes:
        size: how many jobs they do at a time.
    """

    size: int

    def start(self, job: Job, log: Path) -> None:
        """Begin a job; the runner begins no more than ``size`` at a time."""

    def wait(self) -> tuple[Job, str | None]:
        """Wait until one of the jobs under way ends; the sentence says why it failed, None that it has not."""

    def stop(self) -> None:
        """End all that is under way, at once."""


def do_job(job: Job, log: Path) -> str | None:
    """Do a job in this process; all that is printed meanwhile, by C code too, goes to its log.

    The figures depend on the job alone, not on what the process has done before.

    Args:
        job: what to do.
        log: file to append to. Who writes to it holds its lock, so that a job has one worker at a time even where
            that of a killed study has not ended yet.

    Returns:
        Why the job failed, in a sentence; None if it has not.
    """
    try:
        with _output_to(log):
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {job.id}", flush=True)
            return _try(job)
    except OSError as error:
        return f"{log} cannot be written ({error.strerror or error})."


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


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Job | None = None


class LocalWorkers:
    """Processes of this machine. Each imports torch and MONAI once, does job after job, and ends with its parent.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._workers: list[_Worker] = []

    def start(self, job: Job, log: Path) -> None:
        """See :class:`Workers`; a process is started where none is idle."""
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            worker = _start_worker()
            self._workers.append(worker)
        worker.job = job
        with contextlib.suppress(OSError):  # It has died meanwhile: wait() tells.
            worker.connection.send((job, log))

    def wait(self) -> tuple[Job, str | None]:
        """See :class:`Workers`; one that died fails its job and is replaced by the next start."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        worker = busy[wait(list(busy))[0]]  # type: ignore[index]
        job, worker.job = worker.job, None
        assert job is not None
        try:
            return job, worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            return job, _how_it_ended(worker)

    def stop(self) -> None:
        """See :class:`Workers`."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()


def _start_worker() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,))
    with _without_interrupts():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here never sees Ctrl-C, which the terminal sends to all: the study stops its workers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection) -> None:
    """What a worker process does all its life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # Its own lock is of the system and would outlive this process where that is killed.
    tqdm.set_lock(threading.RLock())
    with contextlib.suppress(EOFError, OSError):  # The parent is gone.
        while True:
            job, log = connection.recv()
            connection.send(do_job(job, log))


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _how_it_ended(worker: _Worker) -> str:
    worker.process.join()
    worker.connection.close()
    code = worker.process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"code {code}"
    hint = "if memory ran out, give fewer --jobs" if how == "SIGKILL" else "see its log"
    return f"its process ended with {how}: {hint}."
