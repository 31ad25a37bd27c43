"""The studies that come with medkd, for people."""

from __future__ import annotations

from medkd.study.study_file import SCALES, count_runs, ready_studies, study_title


def format_ready_studies() -> str:
    """The studies that come with medkd, and how many runs they have at each scale, in 80 columns."""
    lines = [f"{'runs at scale':<20}" + "".join(f"{scale:>8}" for scale in SCALES)]
    for name in ready_studies():
        lines.append(f"{name:<20}" + "".join(f"{count_runs(name, scale):>8}" for scale in SCALES))
        lines.append(f"  {study_title(name)}")
    return "\n".join(lines)
