"""A chart of what networks cost and how good they are, with their names beside their marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from medkd.study.charts import LINES, STEPS, frame, image_svg, own_style

_COLOUR = LINES[2]["color"]
# Where a name may stand beside its mark, the best first: right is 1, left -1, up 1, down -1.
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


@dataclass(frozen=True)
class Spread:
    """What a network costs and how far its runs go.

    Attributes:
        name: plain text.
        cost: above 0.
        low: figure of the worst run.
        high: of the best.
        square: whether its marks are squares; circles otherwise.
    """

    name: str
    cost: float
    low: float
    high: float
    square: bool


def spread_svg(spreads: Sequence[Spread], labels: tuple[str, str], description: str) -> str:
    """Draw how far a figure goes at each cost, with the name beside each point.

    Args:
        spreads: to draw in one frame.
        labels: of cost and figure.
        description: of the chart, plain text, for readers who cannot see it.

    Returns:
        An ``<svg>`` element that needs nothing from outside.
    """
    with own_style():
        figure, axes = frame(420, 300)
        axes.set_xscale("log")
        for spread in spreads:
            ends = [spread.low, spread.high]
            look: dict[str, Any] = {"color": _COLOUR, "marker": "s" if spread.square else "o", "markersize": 7}
            axes.plot([spread.cost] * 2, ends, color=_COLOUR, linewidth=1.4)
            axes.plot([spread.cost], ends[:1], markerfacecolor="white", markeredgewidth=1.4, **look)
            axes.plot([spread.cost], ends[1:], **look)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.margins(x=0.15, y=0.12)
        costs = [spread.cost for spread in spreads]
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if max(costs) > 30 * min(costs) else (1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        _name_spreads(figure, axes, spreads)
        return image_svg(figure, description)


def _name_spreads(figure: Figure, axes: Axes, spreads: Sequence[Spread]) -> None:
    """Put each name where it hits the fewest marks and names; a thin line leads to one that is not beside its mark."""
    figure.draw_without_rendering()
    width = figure.bbox.width
    ends = [axes.transData.transform([(spread.cost, spread.low), (spread.cost, spread.high)]) for spread in spreads]
    marks = [Bbox([points.min(axis=0) - 5, points.max(axis=0) + 5]) for points in ends]
    taken = list(marks)
    for spread, mark in zip(spreads, marks, strict=True):
        tries = [_name(axes, spread.name, mark, x, y, far) for far in (3, 16, 30) for x, y in _SIDES]
        boxes = [Text.get_window_extent(name) for name in tries]
        lines = [Bbox(np.sort([name.xy, name.xyann], axis=0)) for name in tries]
        others = [box for box in taken if box is not mark]
        hits = [
            box.count_overlaps(others) + line.count_overlaps(others) + 9 * (box.x0 < axes.bbox.x0 or box.x1 > width)
            for box, line in zip(boxes, lines, strict=True)
        ]
        best = hits.index(min(hits))
        taken += [boxes[best], lines[best]]
        for name in tries[:best] + tries[best + 1 :]:
            name.remove()


def _name(axes: Axes, name: str, mark: Bbox, x: int, y: int, far: int) -> Annotation:
    """A name at one of the sides of a mark, ``far`` pixels from it."""
    start = ((mark.x0, (mark.x0 + mark.x1) / 2, mark.x1)[x + 1], (mark.y0, (mark.y0 + mark.y1) / 2, mark.y1)[y + 1])
    return axes.annotate(
        name,
        start,
        (start[0] + far * x, start[1] + far * y),
        xycoords="figure pixels",
        textcoords="figure pixels",
        horizontalalignment=("right", "center", "left")[x + 1],
        verticalalignment=("top", "center", "bottom")[y + 1],
        arrowprops={"arrowstyle": "-", "color": "#9aa3ad", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        if far > 3
        else None,
        # Otherwise the layout would make room for the name and move the marks away from it.
        in_layout=False,
        parse_math=False,
    )
