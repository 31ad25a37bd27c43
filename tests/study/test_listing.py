"""The list of ready studies."""

from __future__ import annotations

from medkd.study.listing import format_ready_studies
from medkd.study.study_file import ready_studies


def test_every_ready_study_is_listed_with_its_runs_at_each_scale():
    lines = format_ready_studies().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["runs", "at", "scale", "smoke", "small", "full"]
    counts = {line.split()[0]: [int(word) for word in line.split()[1:]] for line in lines[1::2]}
    assert list(counts) == ready_studies()
    # More seeds at larger scales.
    assert all(0 < smoke <= small <= full for smoke, small, full in counts.values())
