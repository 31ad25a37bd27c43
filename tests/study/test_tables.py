from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from medkd.study.tables import (
    ABOVE,
    BELOW,
    BETTER,
    NOT_TOLD_APART,
    WORSE,
    FigureRow,
    FigureTable,
    study_tables,
)
from medkd.study.wording import row_title


def table_of(results: dict[str, Any]) -> FigureTable:
    return study_tables(results)[0]


def row_of(results: dict[str, Any], run: str) -> FigureRow:
    return next(row for row in table_of(results).rows if row.run == run)


def forget(results: dict[str, Any], run: str, *seeds: int) -> None:
    results["runs"][run] = [result for result in results["runs"][run] if result["seed"] not in seeds]
    results["missing"] += [f"{run}-{seed}" for seed in seeds]
    if not results["runs"][run]:
        del results["runs"][run]


def test_figures_are_means_over_volumes_and_seeds(small_results: dict[str, Any]) -> None:
    row = row_of(small_results, "b")
    # 0.70 and 0.76: 0.73, each 0.03 away.
    assert (row.dice, row.seed_deviation) == pytest.approx((0.73, 0.03 * 2**0.5))
    assert (row.iou, row.recall, row.precision) == pytest.approx((0.5, 0.7, 0.8))
    assert (row.pooled_dice, row.seeds, row.title, row.distilled) == (pytest.approx(0.74), 2, "B", True)
    assert (row.parameters, row.macs) == (57_297, 213_000_000)


@pytest.mark.parametrize(
    ("run", "mean", "low", "high", "verdict"),
    [
        ("alone", -0.12, -0.14, -0.10, WORSE),
        ("b", 0.11, 0.10, 0.12, BETTER),
        # +0.02 with one seed and -0.04 with the other.
        ("pmd", -0.01, -0.04, 0.02, NOT_TOLD_APART),
    ],
)
def test_gains_are_counted_from_the_control(
    small_results: dict[str, Any], run: str, mean: float, low: float, high: float, verdict: str
) -> None:
    row = row_of(small_results, run)
    assert row.gain is not None
    assert (row.gain.mean, row.gain.low, row.gain.high) == pytest.approx((mean, low, high))
    assert row.verdict == verdict


@pytest.mark.parametrize(
    ("run", "verdict"),
    # Every volume alike: -0.10, +0.10 and, +0.02, of which one volume is 0.2 lower.
    [("alone", BELOW), ("b", ABOVE), ("pmd", NOT_TOLD_APART)],
)
def test_with_one_seed_no_row_is_better_or_worse(small_results: dict[str, Any], run: str, verdict: str) -> None:
    forget(small_results, "control", 1)
    small_results["runs"]["pmd"][0]["cases"][0]["labels"]["spleen"]["dice"] -= 0.2
    assert row_of(small_results, run).verdict == verdict


def test_p_is_adjusted_over_the_rows_of_the_table(small_results: dict[str, Any]) -> None:
    # All six volumes agree in all three rows: 2/64 each, three times that after Holm.
    rows = [row_of(small_results, run) for run in ("alone", "b", "pmd")]
    assert [row.gain.p_value for row in rows if row.gain] == pytest.approx([2 / 64] * 3)
    assert [row.p_holm for row in rows] == pytest.approx([6 / 64] * 3)
    assert table_of(small_results).smallest_p == pytest.approx(6 / 64)


def test_every_table_is_adjusted_on_its_own(small_results: dict[str, Any]) -> None:
    table = small_results["study"]["tables"][0]
    small_results["study"]["tables"] = [table, {**table, "rows": ("control", "b"), "distilled": ("b",)}]
    assert study_tables(small_results)[1].rows[1].p_holm == pytest.approx(2 / 64)


def test_the_control_has_no_gain(small_results: dict[str, Any]) -> None:
    row = row_of(small_results, "control")
    assert (row.gain, row.p_holm, row.verdict) == (None, None, None)
    assert row.dice == pytest.approx(0.62)


@pytest.mark.parametrize(
    ("run", "pooled_gain", "published_gain"),
    [
        # Pooled: 0.63, 0.74 and 0.62 less 0.51.
        ("alone", None, None),
        ("control", 0.12, None),
        ("b", 0.23, 0.048),
        ("pmd", 0.11, -0.012),
    ],
)
def test_gains_as_published_are_counted_from_the_published_control(
    small_results: dict[str, Any], run: str, pooled_gain: float | None, published_gain: float | None
) -> None:
    row = row_of(small_results, run)
    assert (row.pooled_gain, row.published_gain) == (pytest.approx(pooled_gain), pytest.approx(published_gain))


def test_without_published_figures_there_are_none(small_results: dict[str, Any]) -> None:
    small_results["published"] = {}
    small_results["study"]["tables"][0]["published_control"] = ""
    table = table_of(small_results)
    assert {(row.published, row.published_gain, row.pooled_gain) for row in table.rows} == {(None, None, None)}
    assert (table.published_control_title, table.anova_alone) == ("", None)


def test_anova_of_the_seeds_by_hand(small_results: dict[str, Any]) -> None:
    table = table_of(small_results)
    assert table.anova_alone and table.anova_control
    # Distilled 0.70, 0.76, 0.62, 0.60: mean 0.67, squares 0.0164. Alone 0.50 twice, all together 0.61333: between
    # 2 x 0.11333^2 + 4 x 0.05667^2 = 0.038533, over 0.0164 / 4.
    assert table.anova_alone.statistic == pytest.approx(0.0385333 / 0.0041, rel=1e-4)
    assert table.anova_alone.p_value == pytest.approx(stats.f.sf(0.0385333 / 0.0041, 1, 4), rel=1e-4)
    # Control 0.60, 0.64, all together 0.65333: 2 x 0.03333^2 + 4 x 0.016667^2, over (0.0164 + 0.0008) / 4.
    assert table.anova_control.statistic == pytest.approx(0.0033333 / 0.0043, rel=1e-4)
    assert (table.anova_alone.against, table.anova_control.groups) == ("S1 alone", (2, 4))


def test_only_seeds_that_both_have_are_paired(small_results: dict[str, Any]) -> None:
    forget(small_results, "control", 1)
    row = row_of(small_results, "b")
    assert row.gain is not None
    # Seed 0 alone: 0.70 less 0.60, though the Dice is of both seeds.
    assert (row.gain.mean, row.gain.seeds, row.gain.seed_deviation) == (pytest.approx(0.10), 1, None)
    assert row.dice == pytest.approx(0.73)


def test_without_a_shared_seed_there_is_no_gain(small_results: dict[str, Any]) -> None:
    forget(small_results, "control", 1)
    forget(small_results, "b", 0)
    row = row_of(small_results, "b")
    assert (row.gain, row.verdict, row.seeds, row.seed_deviation) == (None, None, 1, None)
    # The two others that have a gain are what is adjusted for.
    assert row_of(small_results, "pmd").p_holm == pytest.approx(4 / 64)


def test_other_volumes_are_not_paired(small_results: dict[str, Any]) -> None:
    for result in small_results["runs"]["b"]:
        result["cases"][0]["name"] = "volume_of_another_split"
    assert row_of(small_results, "b").gain is None


def test_volumes_are_paired_by_name(small_results: dict[str, Any]) -> None:
    for result in small_results["runs"]["b"]:
        result["cases"].reverse()
    gain = row_of(small_results, "b").gain
    assert gain is not None and (gain.low, gain.high) == pytest.approx((0.10, 0.12))


def test_one_volume_gives_figures_without_a_gain(small_results: dict[str, Any]) -> None:
    for results in small_results["runs"].values():
        for result in results:
            del result["cases"][1:]
    table = table_of(small_results)
    assert [row.gain for row in table.rows] == [None] * 4
    assert (table.rows[2].dice, table.smallest_p) == (pytest.approx(0.73 - 0.05), None)


def test_a_run_of_one_seed_is_finished_with_one(small_results: dict[str, Any]) -> None:
    forget(small_results, "b", 1)
    next(run for run in small_results["study"]["runs"] if run["name"] == "b")["once"] = True
    table = table_of(small_results)
    assert (table.missing, [row.planned_seeds for row in table.rows]) == (0, [2, 2, 1, 2])
    assert [row_title(row) for row in table.rows][2] == table.rows[2].title
    gain = table.rows[2].gain
    assert gain is not None and gain.seeds == 1


def test_unfinished_rows_are_there_without_figures(small_results: dict[str, Any]) -> None:
    forget(small_results, "b", 0, 1)
    forget(small_results, "pmd", 0)
    table = table_of(small_results)
    assert (table.missing, {row.planned_seeds for row in table.rows}) == (3, {2})
    row = table.rows[2]
    assert (row.run, row.seeds) == ("b", 0)
    assert {row.dice, row.iou, row.pooled_dice, row.pooled_gain, row.gain, row.p_holm, row.parameters} == {None}
    assert row.published_gain == pytest.approx(0.048)
