"""A forest plot as HTML: gains with their intervals, one row under the other, on one scale.

Each row is text beside a strip of SVG whose places are percentages: on a telephone the strip gets narrower, and neither
the text nor the marks get smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from medkd.study.charts import LINES, STEPS
from medkd.study.page import text

_OWN_COLOUR, _PUBLISHED_COLOUR = LINES[2]["color"], "#b34700"

# Height of a strip in CSS pixels, and where in it the own and the published figure lie.
_HEIGHT, _OWN_Y, _PUBLISHED_Y = 38, "36%", "70%"


@dataclass(frozen=True)
class ForestRow:
    """One row of a forest plot.

    Attributes:
        title: plain text.
        words: its figures, plain text.
        gain: mean, lower and upper end of the interval; None where there is none.
        published: the gain in a paper; None where there is none.
    """

    title: str
    words: str
    gain: tuple[float, float, float] | None
    published: float | None


def forest_html(rows: Sequence[ForestRow], description: str) -> str:
    """Draw gains with their intervals, and the published gains below them.

    Args:
        rows: from top to bottom.
        description: plain text, for readers who cannot see the plot.

    Returns:
        HTML with :data:`FOREST_CSS` as its rules; empty where no row has a gain.
    """
    own = [value for row in rows if row.gain is not None for value in row.gain]
    if not own:
        return ""
    published = [row.published for row in rows if row.published is not None]
    scale = _Scale.of([0.0, *own, *published])
    lines = "".join(
        f'<div><span class="title">{text(row.title)}</span>{_strip(row, scale)}<span>{text(row.words)}</span></div>'
        for row in rows
    )
    axis = f'<div class="axis"><span class="title"></span>{_axis(scale)}<span></span></div>'
    plot = f'<div class="forest" role="img" aria-label="{text(description)}">{lines}{axis}</div>'
    return _legend(bool(published)) + plot


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        """Holds all values, with room at both ends for the marks."""
        room = 0.06 * (max(values) - min(values)) or 0.01
        return cls(min(values) - room, max(values) + room)

    @property
    def ticks(self) -> list[float]:
        ticks = MaxNLocator(5, steps=STEPS).tick_values(self.low, self.high)
        return [round(float(tick), 9) for tick in ticks if self.low <= tick <= self.high]

    def place(self, value: float) -> str:
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def _strip(row: ForestRow, scale: _Scale) -> str:
    marks = [_upright(scale.place(tick), "#e3e6ea", 1) for tick in scale.ticks]
    marks.append(_upright(scale.place(0), "#48525c", 1.5))
    if row.published is not None:
        marks.append(_diamond(scale.place(row.published), _PUBLISHED_Y))
    if row.gain is not None:
        mean, low, high = row.gain
        is_filled = low > 0 or high < 0
        marks.append(_own(scale.place(mean), scale.place(low), scale.place(high), is_filled))
    return f'<svg height="{_HEIGHT}">{"".join(marks)}</svg>'


def _axis(scale: _Scale) -> str:
    labels = (
        f'<text x="{scale.place(tick)}" y="13" text-anchor="middle">{_short(tick)}</text>' for tick in scale.ticks
    )
    return f'<svg height="18">{"".join(labels)}</svg>'


def _short(tick: float) -> str:
    return f"{tick:+g}".replace("-", "−") if tick else "0"


def _legend(has_published: bool) -> str:
    samples = [
        (_own("50%", "10%", "90%", True), "gain with its 95 % interval, which does not hold 0"),
        (_own("50%", "10%", "90%", False), "the interval holds 0"),
    ]
    if has_published:
        samples.append((_diamond("50%", _OWN_Y), "published gain"))
    items = (
        f'<li><svg width="40" height="26" aria-hidden="true">{drawing}</svg>{words}</li>' for drawing, words in samples
    )
    return f'<ul class="forest-keys">{"".join(items)}</ul>'


def _upright(x: str, colour: str, width: float) -> str:
    return f'<line x1="{x}" x2="{x}" y1="0" y2="100%" stroke="{colour}" stroke-width="{width}"/>'


def _own(mean: str, low: str, high: str, is_filled: bool) -> str:
    ends = "".join(f'<line x1="{x}" x2="{x}" y1="-4" y2="4"/>' for x in (low, high))
    interval = f'<line x1="{low}" x2="{high}" y1="0" y2="0"/>{ends}'
    point = f'<circle cx="{mean}" cy="0" r="5" fill="{_OWN_COLOUR if is_filled else "#fff"}"/>'
    # A drawing of its own, so that the ends can reach from its middle by pixels.
    place = f'y="{_OWN_Y}" overflow="visible"'
    return f'<svg class="own" {place} stroke="{_OWN_COLOUR}" stroke-width="2">{interval}{point}</svg>'


def _diamond(x: str, y: str) -> str:
    # Likewise, since a path takes no percentages.
    path = f'<path d="M0-6L6 0 0 6-6 0Z" fill="#fff" stroke="{_PUBLISHED_COLOUR}" stroke-width="2"/>'
    return f'<svg class="theirs" x="{x}" y="{y}" overflow="visible">{path}</svg>'


FOREST_CSS = """
.forest { margin: 0 0 20px; font-size: 14px; line-height: 1.35; font-variant-numeric: tabular-nums lining-nums; }
.forest > div { display: grid; grid-template-columns: 24% 1fr 17.5em; column-gap: 16px; align-items: center;
  break-inside: avoid; }
.forest > div > span:last-child { color: var(--muted); white-space: nowrap; }
.forest .title { overflow-wrap: anywhere; padding: 3px 0; }
.forest > div > svg { height: auto; min-height: 100%; overflow: visible; }
.forest .axis { margin-top: 2px; border-top: 1px solid var(--line); }
.forest text { fill: #48525c; font-size: 12px; }
.forest-keys { display: flex; flex-wrap: wrap; gap: 2px 24px; max-width: none; margin: 0 0 8px; padding: 0;
  list-style: none; color: var(--muted); font-size: 14px; }
.forest-keys li { display: flex; gap: 8px; align-items: center; }
.forest-keys svg { flex: none; width: 40px; height: 26px; }
@media (max-width: 800px) {
  .forest > div { grid-template-columns: 1fr max-content; column-gap: 12px; }
  .forest > div > svg { grid-area: 2 / 1 / 3 / 3; }
}
@media print {
  .forest { font-size: 9pt; }
  .forest > div { grid-template-columns: 24% 1fr 17.5em; column-gap: 10px; }
  .forest > div > svg { grid-area: auto; }
}
"""
