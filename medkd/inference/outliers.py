"""Which measurements of a cohort deserve a look: the rule behind the flags of its report.

A flag says "look at this scan", not "this is wrong". One label at a time:

- Against the other scans, once :data:`FEWEST` of them show the label: a volume, length or mean HU stands out where its
  modified z-score, 0.6745 |x - median| / MAD, exceeds :data:`CUTOFF`. MAD is the median absolute deviation from the
  median. Where it is 0, since more than half of the figures are equal, the mean absolute deviation takes its place and
  1 / 1.253314 that of 0.6745. Scans where nothing was found have no say in medians.
- By itself, in a cohort of any size: nothing was found; the mask touches the border of the scan, so the structure may
  be cut off; the network found more than :data:`MOST_PIECES` pieces; the uncertainty exceeds :data:`UNCERTAIN`.
- Touching the border is no news of a label that does so in more than half of at least :data:`FEWEST` scans, as the
  aorta does. It is not flagged then.

Reference:
    B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, ASQC, 1993.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST = 8
CUTOFF = 3.5
MOST_PIECES = 5
UNCERTAIN = 0.3
# What is compared between scans: key of the measurement -> how a flag calls it.
COMPARED = {"volume_ml": "volume", "length_mm": "length", "mean_hu": "mean HU"}


@dataclass(frozen=True)
class Flag:
    """A reason to look at a scan: a few words, and what they rest on (may be empty)."""

    name: str
    detail: str = ""


@dataclass(frozen=True)
class Usual:
    """What is usual for a figure: its median, and the limits beyond which it is flagged (infinite in small cohorts)."""

    median: float
    low: float
    high: float

    @property
    def limits(self) -> str:
        """The limits for people; empty where there are none."""
        return f"{decimal(self.low)} to {decimal(self.high)}" if math.isfinite(self.high) else ""


@dataclass(frozen=True)
class LabelSummary:
    """One label over a cohort.

    Attributes:
        scans: that were segmented for it.
        found: in how many of them there is any of it.
        touching: in how many of them it touches the border.
        usual: for each of :data:`COMPARED`; a figure that no scan has is left out.
    """

    scans: int
    found: int
    touching: int
    usual: dict[str, Usual]

    @property
    def often_touches(self) -> bool:
        """Whether this label runs out of most scans."""
        return self.found >= FEWEST and self.touching > self.found / 2


def decimal(value: float) -> str:
    """A figure for people: one decimal, two below 1, where small structures are told apart by hundredths of a ml."""
    return f"{value:.{2 if 0 < abs(value) < 1 else 1}f}".replace("-", "−")


def usual(values: Sequence[float], lowest: float = -math.inf) -> Usual:
    """Median and limits of at least one value; no limit lies below ``lowest``."""
    median = statistics.median(values)
    if len(values) < FEWEST:
        return Usual(median, -math.inf, math.inf)
    deviations = [abs(value - median) for value in values]
    mad = statistics.median(deviations)
    reach = CUTOFF * (mad / 0.6745 if mad else 1.253314 * statistics.fmean(deviations))
    return Usual(median, max(median - reach, lowest), median + reach)


def summarise(measurements: Sequence[Mapping[str, Any]]) -> LabelSummary:
    """Sum up one label.

    Args:
        measurements: of the label in each scan, as in the manifest.
    """
    found = [figures for figures in measurements if figures["volume_ml"] > 0]
    compared = {}
    for key in COMPARED:
        values = [figures[key] for figures in found if figures[key] is not None]
        if values:
            compared[key] = usual(values, lowest=-math.inf if key == "mean_hu" else 0.0)
    return LabelSummary(len(measurements), len(found), sum(figures["touches_border"] for figures in found), compared)


def flags(figures: Mapping[str, Any], cohort: LabelSummary) -> list[Flag]:
    """Why one label of one scan deserves a look.

    Args:
        figures: its measurements, as in the manifest.
        cohort: the label over all scans, this one included.
    """
    if figures["volume_ml"] <= 0:
        return [Flag("nothing found")]
    found = []
    for key, name in COMPARED.items():
        value, range_ = figures[key], cohort.usual.get(key)
        if value is None or range_ is None:
            continue
        if not range_.low <= value <= range_.high:
            found.append(Flag(f"{name} {'high' if value > range_.median else 'low'}", f"usual {range_.limits}"))
    if figures["touches_border"] and not cohort.often_touches:
        found.append(Flag("touches border", "may be cut off"))
    if figures["components"] > MOST_PIECES:
        found.append(Flag("many pieces", f"{figures['components']} before post-processing"))
    if (figures.get("uncertainty") or 0.0) > UNCERTAIN:
        found.append(Flag("uncertain", f"{figures['uncertainty']:.2f}"))
    return found
