from __future__ import annotations

from pathlib import Path

import pytest

from medkd.study.outcome import Failure, Outcome
from medkd.study.progress import format_outcome


@pytest.mark.parametrize(
    ("retriable", "last"),
    [
        ([True, True], "--retry tries them again."),
        ([True, False], "--retry tries 1 of them again."),
        ([False, False], "  run-1: why."),
    ],
)
def test_only_what_can_be_tried_again_is_offered_to_be(tmp_path: Path, retriable: list[bool], last: str) -> None:
    failed = {f"run-{number}": Failure("why.", tmp_path / "no.log", value) for number, value in enumerate(retriable)}
    assert format_outcome(Outcome(failed=failed)).splitlines()[-1] == last
