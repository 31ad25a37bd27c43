"""Two processes that all tests of a session share, since each takes seconds to import torch and MONAI."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COUNT = 2


class Processes:
    """Runs a function of a test file in two processes of one group, and gives what it returns in either.

    Args:
        folder: where they meet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0
        self.running: list[subprocess.Popen[bytes]] = []

    def __call__(self, body: Callable[..., Any], *arguments: Any) -> list[Any]:
        if not self.running:
            self._start()
        for process in self.running:
            pickle.dump((inspect.getfile(body), body.__name__, arguments), process.stdin)
            process.stdin.flush()
        answers = []
        for rank, process in enumerate(self.running):
            try:
                answers.append(pickle.load(process.stdout))
            except EOFError:
                answers.append((None, f"process {rank} ended"))
        errors = [error for _, error in answers if error is not None]
        if errors:
            self.stop()
            raise AssertionError("\n".join(errors))
        return [value for value, _ in answers]

    def stop(self) -> None:
        """End both processes."""
        for process in self.running:
            process.kill()
            process.communicate()
        self.running = []

    def _start(self) -> None:
        self.starts += 1
        words = [sys.executable, str(Path(__file__).with_name("worker.py"))]
        for rank in range(COUNT):
            command = [*words, str(rank), str(COUNT), str(self.folder / f"group-{self.starts}")]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            self.running.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
            )


@pytest.fixture(scope="session")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """See :class:`Processes`."""
    processes = Processes(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop()
