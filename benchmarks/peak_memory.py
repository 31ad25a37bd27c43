"""How much memory a piece of work takes at its peak (Linux)."""

from __future__ import annotations

from collections.abc import Callable

from medkd.memory import PeakMemory, process_memory


def peak_mib(work: Callable[[], object]) -> tuple[float, float]:
    """How many MiB the process has before ``work`` runs, and at most while it runs."""
    PeakMemory()
    before = _told("VmRSS")
    work()
    return before, process_peak_mib()


def process_peak_mib() -> float:
    """How many MiB this process has taken at most since it began, or since :class:`~medkd.memory.PeakMemory`."""
    return _told("VmHWM")


def _told(field: str) -> float:
    kibibytes = process_memory(field)
    if kibibytes is None:
        raise OSError(f"the kernel does not tell {field}")
    return kibibytes / 1024
