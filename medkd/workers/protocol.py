"""What is asked of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True)
class Died:
    """What is left of a task whose worker died.

    Attributes:
        how: for people, such as ``its process ended with SIGSEGV``.
        memory: whether the system ends in this way who takes too much memory.
    """

    how: str
    memory: bool = False


class Workers(Protocol[Task, Result_co]):
    """Do tasks by a function that can be pickled and that raises nothing.

    Attributes:
        size: how many tasks they do at a time.
    """

    size: int

    def start(self, task: Task) -> None:
        """Begin a task; the caller begins no more than ``size`` at a time."""

    def wait(self) -> tuple[Task, Result_co | Died]:
        """Wait until one of the tasks under way ends; what the function returned, or how its worker died."""

    def stop(self) -> None:
        """End all that is under way, at once."""
