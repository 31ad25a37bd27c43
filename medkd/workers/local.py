"""Workers that are processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic

from tqdm import tqdm

from medkd.workers.protocol import Died, Result, Task


@dataclass
class _Worker(Generic[Task]):
    process: SpawnProcess
    connection: Connection
    task: Task | None = None


class LocalWorkers(Generic[Task, Result]):
    """Processes that do task after task, and end with their parent.

    They import the program that calls this: call it under ``if __name__ == "__main__":``.

    Args:
        do: what is done with a task.
        size: how many processes.
    """

    def __init__(self, do: Callable[[Task], Result], size: int) -> None:
        self.size = size
        self._do = do
        self._workers: list[_Worker[Task]] = []

    def start(self, task: Task) -> None:
        """See :class:`medkd.workers.Workers`; a process is started where none is idle."""
        worker = next((worker for worker in self._workers if worker.task is None), None)
        if worker is None:
            worker = self._hire()
            self._workers.append(worker)
        worker.task = task
        with contextlib.suppress(OSError):  # It has died meanwhile: wait() tells.
            worker.connection.send(task)

    def wait(self) -> tuple[Task, Result | Died]:
        """See :class:`medkd.workers.Workers`; one that died is replaced by the next start."""
        busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
        worker = busy[wait(list(busy))[0]]  # type: ignore[index]
        task, worker.task = worker.task, None
        assert task is not None
        try:
            return task, worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            return task, _how_it_died(worker)

    def stop(self) -> None:
        """See :class:`medkd.workers.Workers`."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _hire(self) -> _Worker[Task]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(self._do, theirs))
        with _without_interrupts():
            process.start()
        theirs.close()
        return _Worker(process, ours)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started here never sees Ctrl-C, which the terminal sends to all: the parent stops its workers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(do: Callable[[Any], Any], connection: Connection) -> None:
    """What a worker process does all its life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # Its own lock is of the system and would outlive this process where that is killed.
    tqdm.set_lock(threading.RLock())
    with contextlib.suppress(EOFError, OSError):  # The parent is gone.
        while True:
            connection.send(do(connection.recv()))


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _how_it_died(worker: _Worker[Any]) -> Died:
    worker.process.join()
    worker.connection.close()
    code = worker.process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"code {code}"
    return Died(f"its process ended with {how}", memory=how == "SIGKILL")
