from __future__ import annotations

import math
from typing import Any

import pytest

from medkd.inference.outliers import Flag, decimal, flags, summarise, usual

# Their median is 100, and the median of their distances from it is 1.
EIGHT = [98, 99, 99, 100, 100, 101, 101, 102]
# 3.5 * 1 / 0.6745
REACH = 5.18903


def label(**figures: Any) -> dict[str, Any]:
    """A spleen as others, but for ``figures``."""
    own = {"volume_ml": 200.0, "length_mm": 100.0, "mean_hu": 110.0, "sd_hu": 20.0}
    return {**own, "voxels": 20000, "touches_border": False, "components": 1, **figures}


EMPTY = label(volume_ml=0.0, length_mm=0.0, mean_hu=None, sd_hu=None, voxels=0, components=0)


@pytest.mark.parametrize(
    ("values", "median", "low", "high"),
    [
        (EIGHT, 100, 100 - REACH, 100 + REACH),
        # One more that is far off moves neither the median nor the MAD.
        ([*EIGHT, 1000], 100, 100 - REACH, 100 + REACH),
        # Distances from 4.5: 0.5, 0.5, 1.5, 1.5, 2.5, 2.5, 3.5, 3.5.
        ([1, 2, 3, 4, 5, 6, 7, 8], 4.5, 4.5 - 2 * REACH, 4.5 + 2 * REACH),
        # The MAD is 0, the mean distance 100 / 8: 3.5 * 1.253314 * 12.5.
        ([100] * 7 + [200], 100, 100 - 54.83249, 100 + 54.83249),
        ([100] * 8, 100, 100, 100),
        (EIGHT[:7], 100, -math.inf, math.inf),
        ([3], 3, -math.inf, math.inf),
    ],
)
def test_limits_by_hand(values: list[float], median: float, low: float, high: float) -> None:
    found = usual(values)
    assert (found.median, found.low, found.high) == pytest.approx((median, low, high), abs=1e-4)


def test_no_volume_can_be_below_nothing() -> None:
    assert usual([1, 2, 3, 4, 5, 6, 7, 8], lowest=0).low == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [(94, "low"), (95, None), (100, None), (105, None), (106, "high")],
)
@pytest.mark.parametrize(("key", "name"), [("volume_ml", "volume"), ("length_mm", "length"), ("mean_hu", "mean HU")])
def test_a_figure_beyond_a_modified_z_score_of_3_5_is_flagged(
    key: str, name: str, value: float, expected: str | None
) -> None:
    scans = [label(**{key: each}) for each in [*EIGHT, value]]
    found = flags(scans[-1], summarise(scans))
    assert found == ([Flag(f"{name} {expected}", "usual 94.8 to 105.2")] if expected else [])


def test_a_small_cohort_is_not_compared() -> None:
    scans = [label(volume_ml=volume) for volume in [*EIGHT[:6], 1000]]
    assert flags(scans[-1], summarise(scans)) == []


def test_scans_where_nothing_was_found_do_not_count() -> None:
    scans = [label(volume_ml=volume) for volume in [*EIGHT, 106]] + [EMPTY] * 20
    cohort = summarise(scans)
    assert (cohort.scans, cohort.found, cohort.usual["volume_ml"].median) == (29, 9, 100)
    assert [flag.name for flag in flags(scans[8], cohort)] == ["volume high"]
    few = summarise([*scans[:7], *[EMPTY] * 20])
    assert few.usual["volume_ml"].limits == ""


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (label(), []),
        (EMPTY, [Flag("nothing found")]),
        (label(touches_border=True), [Flag("touches border", "may be cut off")]),
        (label(components=5), []),
        (label(components=6), [Flag("many pieces", "6 before post-processing")]),
        (label(uncertainty=0.3), []),
        (label(uncertainty=0.31), [Flag("uncertain", "0.31")]),
        (label(uncertainty=None), []),
    ],
)
def test_what_is_flagged_in_a_cohort_of_one(figures: dict[str, Any], expected: list[Flag]) -> None:
    assert flags(figures, summarise([figures])) == expected


def test_a_label_that_no_scan_shows() -> None:
    cohort = summarise([EMPTY, EMPTY])
    assert (cohort.scans, cohort.found, cohort.usual) == (2, 0, {})
    assert flags(EMPTY, cohort) == [Flag("nothing found")]


@pytest.mark.parametrize(
    ("touching", "scans", "flagged"),
    [(4, 8, True), (5, 8, False), (7, 7, True), (8, 8, False), (1, 8, True)],
)
def test_touching_the_border_is_flagged_unless_most_do(touching: int, scans: int, flagged: bool) -> None:
    measured = [label(touches_border=scan < touching) for scan in range(scans)]
    assert bool(flags(measured[0], summarise(measured))) == flagged


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0.0"),
        (0.04, "0.04"),
        (0.994, "0.99"),
        (1.04, "1.0"),
        (-0.25, "−0.25"),
        (-12.36, "−12.4"),
        (203.06, "203.1"),
    ],
)
def test_decimals(value: float, words: str) -> None:
    assert decimal(value) == words
