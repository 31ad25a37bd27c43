"""The figures of a study's tables, beside the published ones, as plain numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medkd.metrics import PairedDifference, holm, one_way_anova, paired_difference, smallest_p

FIGURES = ("dice", "iou", "recall", "precision")
BETTER, WORSE, NOT_TOLD_APART = "better", "worse", "not told apart"
# Of an interval of one seed, which knows nothing of the chance of training.
ABOVE, BELOW = "above 0", "below 0"


@dataclass(frozen=True)
class FigureRow:
    """One run in a table. Figures are means over test volumes and finished seeds; None where nothing is finished.

    Attributes:
        run: its name.
        title: for people.
        seeds: how many are finished.
        planned_seeds: how many there will be.
        distilled: whether it was distilled from a teacher.
        dice: per volume, as are the next three.
        iou: intersection over union.
        recall: share of the truth that is found.
        precision: share of what is found that is true.
        seed_deviation: sample standard deviation over the seeds of the Dice; None with one.
        pooled_dice: of one count over all slices, as in the thesis, mean over the seeds.
        pooled_gain: that less the pooled Dice of the published control, over the seeds that both have; None for that
            control itself.
        gain: Dice less that of the control; None for the control itself, and where seeds or volumes do not pair.
        p_holm: p-value of the gain, adjusted over the rows of the table.
        verdict: whether the interval of the gain is above 0, below, or holds it; better or worse with two seeds.
        published: figures of the paper, by the names of :data:`FIGURES` as far as it gives them.
        published_gain: published Dice less that of the published control.
        parameters: of the network.
        macs: multiply-adds for one slice.
    """

    run: str
    title: str
    seeds: int
    planned_seeds: int
    distilled: bool
    dice: float | None
    iou: float | None
    recall: float | None
    precision: float | None
    seed_deviation: float | None
    pooled_dice: float | None
    pooled_gain: float | None
    gain: PairedDifference | None
    p_holm: float | None
    verdict: str | None
    published: Mapping[str, float] | None
    published_gain: float | None
    parameters: int | None
    macs: int | None


@dataclass(frozen=True)
class Anova:
    """One-way analysis of variance of a control's Dice against that of all distilled rows.

    Every seed is one value, its mean Dice over the volumes, and the distilled rows are one group, as in the thesis.

    Attributes:
        against: title of the control.
        statistic: F.
        p_value: of F.
        groups: number of values in the control and in the distilled rows.
    """

    against: str
    statistic: float
    p_value: float
    groups: tuple[int, int]


@dataclass(frozen=True)
class FigureTable:
    """One table of the report.

    Attributes:
        title: what it compares.
        source: where it is published; may be empty.
        note: for readers; may be empty.
        control: name of the run that the gains are counted from.
        control_title: of that run.
        published_control: name of the run that the published gains are counted from; may be empty.
        published_control_title: of that run; empty where there is none.
        missing: runs of one seed that are not finished, over all rows.
        volumes: tested in the control; 0 where it is not finished.
        smallest_p: adjusted p-value below which no row of this table can come, however it performs; None without gains.
        rows: in the order of the study.
        anova_alone: of the published control, as in the thesis; None where it cannot be computed.
        anova_control: of the control.
    """

    title: str
    source: str
    note: str
    control: str
    control_title: str
    published_control: str
    published_control_title: str
    missing: int
    volumes: int
    smallest_p: float | None
    rows: tuple[FigureRow, ...]
    anova_alone: Anova | None
    anova_control: Anova | None


def study_tables(results: Mapping[str, Any]) -> list[FigureTable]:
    """All tables of a study.

    Args:
        results: what :func:`medkd.study.results.gather` returns.
    """
    return [_table(table, results) for table in results["study"]["tables"]]


def _table(table: Mapping[str, Any], results: Mapping[str, Any]) -> FigureTable:
    titles = {run["name"]: run["title"] for run in results["study"]["runs"]}
    rows = _with_holm([_row(name, titles[name], table, results) for name in table["rows"]])
    tested = sum(row.gain is not None for row in rows)
    control, alone = table["control"], table["published_control"]
    control_runs = results["runs"].get(control, [])
    volumes = len(control_runs[0]["cases"]) if control_runs else 0
    return FigureTable(
        title=table["title"],
        source=table["source"],
        note=table["note"],
        control=control,
        control_title=titles[control],
        published_control=alone,
        published_control_title=titles.get(alone, alone),
        missing=sum(row.planned_seeds - row.seeds for row in rows),
        volumes=volumes,
        smallest_p=min(1.0, tested * smallest_p(volumes)) if tested else None,
        rows=tuple(rows),
        anova_alone=_anova(alone, titles, table, results),
        anova_control=_anova(control, titles, table, results),
    )


def _row(name: str, title: str, table: Mapping[str, Any], results: Mapping[str, Any]) -> FigureRow:
    label, runs = results["study"]["label"], results["runs"].get(name, [])
    means = {figure: _mean(runs, label, figure) if runs else None for figure in FIGURES}
    by_seed = _dice_by_seed(runs, label)
    gain = None if name == table["control"] else _gain(runs, results["runs"].get(table["control"], []), label)
    published = results["published"].get(name)
    return FigureRow(
        run=name,
        title=title,
        seeds=len(runs),
        planned_seeds=_planned_seeds(name, results["study"]),
        distilled=name in table["distilled"],
        **means,
        seed_deviation=statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        pooled_dice=statistics.fmean(_pooled(runs, label).values()) if runs else None,
        pooled_gain=_pooled_gain(name, table["published_control"], results),
        gain=gain,
        p_holm=None,
        verdict=None if gain is None else _verdict(gain),
        published=published,
        published_gain=_published_gain(name, table["published_control"], results["published"]),
        parameters=runs[0]["parameters"] if runs else None,
        macs=runs[0]["macs"] if runs else None,
    )


def _planned_seeds(name: str, study: Mapping[str, Any]) -> int:
    runs = {run["name"]: run for run in study["runs"]}
    trained = runs.get(runs[name].get("of"), runs[name])
    return 1 if trained.get("once") else len(study["seeds"])


def _with_holm(rows: Sequence[FigureRow]) -> list[FigureRow]:
    adjusted = iter(holm([row.gain.p_value for row in rows if row.gain is not None]))
    return [row if row.gain is None else replace(row, p_holm=next(adjusted)) for row in rows]


def _verdict(gain: PairedDifference) -> str:
    if gain.low <= 0 <= gain.high:
        return NOT_TOLD_APART
    above, below = (ABOVE, BELOW) if gain.seeds == 1 else (BETTER, WORSE)
    return above if gain.low > 0 else below


def _gain(
    runs: Sequence[Mapping[str, Any]], control: Sequence[Mapping[str, Any]], label: str
) -> PairedDifference | None:
    """Only seeds that both have finished are paired, and only where all were tested on the same volumes."""
    own, other = ({run["seed"]: _dice_by_volume(run, label) for run in side} for side in (runs, control))
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None
    volumes = own[seeds[0]].keys()
    if len(volumes) < 2 or any(side[seed].keys() != volumes for side in (own, other) for seed in seeds):
        return None
    figures, figures_of_control = (
        np.array([[side[seed][volume] for volume in volumes] for seed in seeds]) for side in (own, other)
    )
    return paired_difference(figures, figures_of_control)


def _pooled_gain(name: str, control: str, results: Mapping[str, Any]) -> float | None:
    if name == control:
        return None
    label = results["study"]["label"]
    own, other = (_pooled(results["runs"].get(run, []), label) for run in (name, control))
    seeds = own.keys() & other.keys()
    return statistics.fmean(own[seed] - other[seed] for seed in sorted(seeds)) if seeds else None


def _published_gain(name: str, control: str, published: Mapping[str, Mapping[str, float]]) -> float | None:
    own, other = published.get(name, {}).get("dice"), published.get(control, {}).get("dice")
    return None if own is None or other is None or name == control else own - other


def _anova(
    control: str, titles: Mapping[str, str], table: Mapping[str, Any], results: Mapping[str, Any]
) -> Anova | None:
    label = results["study"]["label"]
    alone = _dice_by_seed(results["runs"].get(control, []), label)
    distilled = [dice for name in table["distilled"] for dice in _dice_by_seed(results["runs"].get(name, []), label)]
    found = one_way_anova([alone, distilled])
    return None if found is None else Anova(titles[control], *found, groups=(len(alone), len(distilled)))


def _dice_by_seed(runs: Iterable[Mapping[str, Any]], label: str) -> list[float]:
    return [statistics.fmean(_dice_by_volume(run, label).values()) for run in runs]


def _dice_by_volume(run: Mapping[str, Any], label: str) -> dict[str, float]:
    return {case["name"]: case["labels"][label]["dice"] for case in run["cases"]}


def _pooled(runs: Iterable[Mapping[str, Any]], label: str) -> dict[int, float]:
    return {run["seed"]: run["pooled"][label]["dice"] for run in runs}


def _mean(runs: Iterable[Mapping[str, Any]], label: str, figure: str) -> float:
    return statistics.fmean(case["labels"][label][figure] for run in runs for case in run["cases"])
