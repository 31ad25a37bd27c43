"""Numbers and findings of a study in plain text, so that its Markdown and HTML reports say the same."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from medkd.metrics import PairedDifference
from medkd.study.networks import NetworkRow
from medkd.study.tables import ABOVE, BELOW, BETTER, NOT_TOLD_APART, WORSE, FigureRow, FigureTable

NOTHING = "–"
HOLDS_ZERO = "interval holds 0"
# Above this, readers are told that no p-value of the table can say anything.
_LEVEL = 0.05
# Of 20 rows without any effect, by the number of seeds; simulated with 6 volumes and one variance for seed, volume and
# the rest of a difference: 8.4, 3.4, 2.3, and between 1.4 and 2 with 4 to 20 seeds.
_MISSES, _MISSES_OF_MANY = {1: "about 8", 2: "3 or 4", 3: "2 or 3"}, "1 or 2"
_PUBLISHED = (
    " Published figures are of other data or another split: compare the direction and the size of the gains, not the "
    "figures themselves."
)


def figure(value: float | None, deviation: float | None = None) -> str:
    """``0.612``, with a standard deviation ``0.612 ± 0.010``; a dash for None."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if deviation is None else f"{value:.3f} ± {deviation:.3f}"


def signed(value: float | None) -> str:
    """``+0.032``, ``−0.010``, ``0.000``; a dash for None."""
    if value is None:
        return NOTHING
    printed = f"{value:+.3f}".replace("-", "−")
    return printed if printed.strip("+−0.") else printed[1:]


def with_gain(value: float | None, gain: float | None) -> str:
    """``0.763 (+0.048)``, without brackets where there is no gain."""
    return figure(value) if gain is None else f"{figure(value)} ({signed(gain)})"


def interval(row: FigureRow) -> str:
    """The gain, its deviation between seeds and its 95 % interval, ``+0.032 ± 0.011 [−0.010, +0.071]``; or a dash."""
    if row.gain is None:
        return NOTHING
    spread = "" if row.gain.seed_deviation is None else f" ± {row.gain.seed_deviation:.3f}"
    return f"{signed(row.gain.mean)}{spread} [{signed(row.gain.low)}, {signed(row.gain.high)}]"


def p_value(p: float | None) -> str:
    """``0.031``, ``< 0.001``, ``1``; a dash for None."""
    if p is None:
        return NOTHING
    if p < 0.001:
        return "< 0.001"
    return "1" if p > 0.9995 else f"{p:.3f}"


def verdict(row: FigureRow, table: FigureTable) -> str:
    """``better``, ``worse`` or ``interval holds 0``; with one seed ``above 0`` or ``below 0`` in place of the first.

    The control is called so, and a row without a gain has a dash.
    """
    if row.run == table.control:
        return "control"
    return NOTHING if row.verdict is None else {NOT_TOLD_APART: HOLDS_ZERO}.get(row.verdict, row.verdict)


def published_dice(row: FigureRow) -> float | None:
    """Of the paper, if it gives one."""
    return None if row.published is None else row.published.get("dice")


def row_title(row: FigureRow) -> str:
    """The row's title, with the number of seeds where some are not finished."""
    if row.seeds == row.planned_seeds:
        return row.title
    return f"{row.title} ({row.seeds} of {count(row.planned_seeds, 'seed')})"


def whole(number: int | None) -> str:
    """``57,297``; a dash for None."""
    return NOTHING if number is None else f"{number:,}"


def millions(number: int | None) -> str:
    """``213`` of 213,000,000; a dash for None."""
    return NOTHING if number is None else f"{number / 1e6:,.0f}"


def milliseconds(seconds: float | None) -> str:
    """``12.3``; a dash for None."""
    return NOTHING if seconds is None else f"{seconds * 1000:.1f}"


def count(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def dice_range(row: NetworkRow) -> str:
    """Dice of the network's worst and best run, ``0.612 to 0.705``; one figure where it has one run."""
    return figure(row.highest) if len(row.runs) == 1 else f"{figure(row.lowest)} to {figure(row.highest)}"


def networks(results: Mapping[str, Any]) -> str:
    """What the table of networks shows."""
    threads = count(results["latency_threads"], "thread")
    return (
        "Multiply-adds and time are those of one slice of the size that the network is trained with, the time on the "
        f"processor with {threads}. Dice is the mean over volumes and seeds, of the worst and the best "
        "run with the network."
    )


def progress(results: Mapping[str, Any]) -> str:
    """How much of the study the figures are of; empty where all of it is finished."""
    finished, failed = sum(map(len, results["runs"].values())), len(results["failed"])
    planned = finished + failed + len(results["missing"])
    if finished == planned:
        return ""
    return (
        f"The study is not finished: of {count(planned, 'run')} {_do(finished, 'is', 'are')} done, and "
        f"{failed or 'none'} failed. Every figure is of what is done."
    )


def reading(results: Mapping[str, Any], tables: Sequence[FigureTable]) -> list[str]:
    """How to read the tables, in paragraphs."""
    seeds = len(results["study"]["seeds"])
    volumes = max((table.volumes for table in tables), default=0)
    spread = "; ± is the standard deviation between seeds" if seeds > 1 else ""
    gains = [row.gain for table in tables for row in table.rows if row.gain is not None]
    sides = ""
    if any(gain.seeds == 1 for gain in gains):
        sides = "A row with one seed is only said to lie above or below 0, and never to be better or worse. "
    once = ""
    if any(run.get("once") for run in results["study"]["runs"]):
        once = " What was trained once has one seed: intervals know nothing of the chance of its training."
    return [
        f"Dice, IoU, recall and precision of the {results['study']['label']} are those of a volume on the grid of the "
        f"original scan, means over the test volumes ({volumes or NOTHING}) and the seeds ({seeds}){spread}.{once}",
        "A gain is the Dice of a row less that of the control of its table, volume by volume and seed by seed. In "
        "brackets stands its 95 % interval, from a bootstrap that draws the volumes and the seeds anew. Where the "
        f"interval holds 0, the row cannot be told apart from the control. {_width(seeds)} {sides}All gains of a table "
        "are counted from the same trainings of the control: where those went badly by chance, every row looks better. "
        "Intervals are not adjusted for the number of rows: in simulated studies with six volumes and "
        f"{count(seeds, 'seed')}, in which seed, volume and the rest change a difference alike, "
        f"{_MISSES.get(seeds, _MISSES_OF_MANY)} of 20 rows without any effect miss 0.",
        "p is that of the Wilcoxon signed-rank test over the volumes, each with its mean over the seeds, adjusted for "
        "the number of rows of the table (Holm). It speaks of other volumes, not of training again.",
        "Pooled Dice makes one count of all slices of all test volumes, foreground where the logit exceeds 0.5, as the "
        f"thesis on MTMS-KD does.{_PUBLISHED if results['published'] else ''}",
    ]


def _width(seeds: int) -> str:
    if seeds == 1:
        return "With one seed it knows nothing of the chance of training: read it as a hint."
    if seeds > 3:
        return "With few volumes and seeds it is rather too narrow."
    # So few draws often hit one seed only: the interval then ends at the seeds themselves, and all of them fall on one
    # side of the true gain once in 2^(seeds - 1).
    return (
        f"With {seeds} seeds it is too narrow where training moves the Dice more than the volumes do, and at worst "
        f"misses the true gain in {100 // 2 ** (seeds - 1)} of 100 such studies instead of 5: read it as a hint."
    )


def unfinished(table: FigureTable) -> str:
    """How many runs of the table are missing; empty where none is."""
    if not table.missing:
        return ""
    planned = sum(row.planned_seeds for row in table.rows)
    return f"Not finished: {table.missing} of the {count(planned, 'run')} of this table."


def findings(table: FigureTable) -> list[str]:
    """What a table shows, in sentences that follow from its numbers."""
    compared = _compared(table)
    if not compared and any(row.gain for row in table.rows):
        return ["None of the distilled rows can be compared with the control yet."]
    if not compared:
        return [
            f"No row can be compared with the control ({table.control_title}): that takes a seed that both have "
            "finished and two test volumes."
        ]
    counts = _counts(compared, table)
    sentences = [counts, _largest(compared, table), _against_published(compared, table)]
    if table.smallest_p is not None and table.smallest_p > _LEVEL:
        tested = sum(row.gain is not None for row in table.rows)
        sentences.append(
            f"With {count(table.volumes, 'volume')} and {count(tested, 'comparison')} no adjusted p can fall below "
            f"{p_value(table.smallest_p)}, whatever the figures: a large p says nothing here."
        )
    return [sentence for sentence in sentences if sentence]


def anova(table: FigureTable) -> list[str]:
    """The analyses of variance of a table, as in the thesis and with the control; empty where there is none."""
    analyses = [table.anova_alone, table.anova_control if table.control != table.published_control else None]
    sentences = [
        f"One-way ANOVA of {found.against} ({count(found.groups[0], 'training')}) against the distilled rows together "
        f"({found.groups[1]}): F {found.statistic:.2f}, p {p_value(found.p_value)}."
        for found in analyses
        if found is not None
    ]
    if sentences:
        sentences.append("It takes the mean Dice of each training for an independent draw, as the thesis does.")
    return sentences


def _compared(table: FigureTable) -> list[tuple[FigureRow, PairedDifference]]:
    """The distilled rows that have a gain; all that have one where none of the table is distilled."""
    distilled = any(row.distilled for row in table.rows)
    return [(row, row.gain) for row in table.rows if row.gain is not None and row.distilled == distilled]


def _counts(compared: list[tuple[FigureRow, PairedDifference]], table: FigureTable) -> str:
    rows = [row for row, _ in compared]
    kind = "distilled row" if rows[0].distilled else "row"
    if any(gain.seeds == 1 for _, gain in compared):
        return _sides(rows, kind, table)
    if len(rows) == 1:
        said = {BETTER: "is better than", WORSE: "is worse than"}.get(str(rows[0].verdict), "cannot be told apart from")
        return f"The one {kind} beside the control {said} it ({table.control_title})."
    better, worse = (_do(sum(row.verdict == name for row in rows), "is", "are") for name in (BETTER, WORSE))
    alike = sum(row.verdict == NOT_TOLD_APART for row in rows) or "none"
    return (
        f"Of {len(rows)} {kind}s {better} better than the control ({table.control_title}), {worse} worse, and the "
        f"interval of {alike} holds 0."
    )


def _sides(rows: list[FigureRow], kind: str, table: FigureTable) -> str:
    """Where the intervals lie, and no more: those of one seed know nothing of the chance of training."""
    control = f"the control ({table.control_title})"
    above, below = (sum(row.verdict in names for row in rows) for names in ((BETTER, ABOVE), (WORSE, BELOW)))
    if len(rows) == 1:
        lies = "lies above 0" if above else "lies below 0" if below else "holds 0"
        return f"The interval of the one {kind} beside {control} {lies}."
    return (
        f"Of the intervals of {len(rows)} {kind}s beside {control} {_do(above, 'lies', 'lie')} above 0, "
        f"{_do(below, 'lies', 'lie')} below, and {_do(len(rows) - above - below, 'holds', 'hold')} it."
    )


def _largest(rows: list[tuple[FigureRow, PairedDifference]], table: FigureTable) -> str:
    best, gain = max(rows, key=lambda pair: pair[1].mean)
    published = ""
    if best.published_gain is not None:
        published = f"; published, it gains {signed(best.published_gain)} over {table.published_control_title}"
    kind = "largest gain" if gain.mean > 0 else "smallest loss"
    return f"The {kind} is that of {best.title}: {interval(best)}{published}."


def _against_published(rows: list[tuple[FigureRow, PairedDifference]], table: FigureTable) -> str:
    """Means over the rows that have all three gains: here, here counted as in the paper, and published."""
    gains = [
        (gain.mean, row.pooled_gain, row.published_gain)
        for row, gain in rows
        if row.pooled_gain is not None and row.published_gain is not None
    ]
    if len(gains) < 2:
        return ""
    ours, pooled, published = (signed(statistics.fmean(column)) for column in zip(*gains, strict=True))
    over = f"over {table.published_control_title}"
    return (
        f"On average the {len(gains)} of them with a published figure gain {ours} over the control and, in pooled "
        f"Dice, {pooled} {over}; published, they gain {published} {over}."
    )


def _do(number: int, singular: str, plural: str) -> str:
    """``none is``, ``1 is``, ``2 are``."""
    return f"{number} {plural}" if number > 1 else f"{number or 'none'} {singular}"
