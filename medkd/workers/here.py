"""No workers: this process does the tasks itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from medkd.workers.protocol import Result, Task


class Here(Generic[Task, Result]):
    """Does one task at a time in this process, while it is waited for.

    Args:
        do: what is done with a task.
    """

    def __init__(self, do: Callable[[Task], Result]) -> None:
        self.size = 1
        self._do = do
        self._tasks: list[Task] = []

    def start(self, task: Task) -> None:
        """See :class:`medkd.workers.Workers`."""
        self._tasks.append(task)

    def wait(self) -> tuple[Task, Result]:
        """See :class:`medkd.workers.Workers`."""
        task = self._tasks.pop()
        return task, self._do(task)

    def stop(self) -> None:
        """See :class:`medkd.workers.Workers`."""
        self._tasks.clear()
