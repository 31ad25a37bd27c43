from __future__ import annotations

import pytest

from medkd.data.natural_order import natural_order


@pytest.mark.parametrize(
    "expected",
    [
        ["spleen_1", "spleen_2", "spleen_10"],
        ["2", "10", "a"],
        ["scan 2b", "scan 02c", "scan 10a"],
        ["a01", "a1", "a2"],
        ["case", "case1", "case1b"],
    ],
)
def test_numbers_count_by_their_value(expected: list[str]) -> None:
    assert natural_order(reversed(expected)) == natural_order(expected) == expected
