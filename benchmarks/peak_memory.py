"""How much memory a piece of work takes at its peak (Linux)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_mib(work: Callable[[], object]) -> tuple[float, float]:
    """How many MiB the process has before ``work`` runs, and at most while it runs."""
    (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # the peak starts anew from what is in use now
    before = _status("VmRSS")
    work()
    return before / 1024, process_peak_mib()


def process_peak_mib() -> float:
    """How many MiB this process has taken at most since it began."""
    return _status("VmHWM") / 1024


def _status(field: str) -> int:
    for line in (_PROCESS / "status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"the kernel does not tell {field}")
