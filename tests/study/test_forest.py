from __future__ import annotations

import re

import pytest

from medkd.study.forest import ForestRow, forest_html

ROWS = [
    ForestRow("First", "a", (0.02, 0.01, 0.04), 0.05),
    ForestRow("Second", "b", (-0.01, -0.05, 0.03), None),
    ForestRow("Third", "c", (-0.03, -0.04, -0.02), -0.02),
    ForestRow("Fourth", "not finished", None, 0.01),
]


def strips(rows: list[ForestRow]) -> list[str]:
    plot = forest_html(rows, "a plot").partition('<div class="forest"')[2]
    return re.findall(r'<svg height="38">(.*?</svg>|.*?)</svg><span>', plot)


def values(strip: str, pattern: str) -> list[float]:
    return [float(place) for place in re.findall(pattern, strip)]


def test_marks_are_drawn_to_scale() -> None:
    drawn = strips(ROWS)
    assert len(drawn) == 4

    # From -0.05 to 0.05, with 6 % of that at both ends.
    def place(value: float) -> float:
        return 100 * (value + 0.056) / 0.112

    for row, strip in zip(ROWS, drawn, strict=True):
        assert values(strip, r'<line x1="([\d.]+)%" x2="\1%" y1="0" y2="100%" stroke="#48525c"') == [50.0]
        published = [] if row.published is None else [pytest.approx(place(row.published), abs=0.01)]
        assert values(strip, r'class="theirs" x="([\d.]+)%"') == published
        if row.gain is None:
            assert "circle" not in strip
            continue
        mean, low, high = row.gain
        assert values(strip, r'<circle cx="([\d.]+)%"') == [pytest.approx(place(mean), abs=0.01)]
        ends = re.search(r'<line x1="([\d.]+)%" x2="([\d.]+)%" y1="0" y2="0"', strip)
        assert ends is not None
        assert [float(end) for end in ends.groups()] == [pytest.approx(place(end), abs=0.01) for end in (low, high)]


def test_a_point_is_filled_where_its_interval_does_not_hold_0() -> None:
    fills = [re.findall(r'r="5" fill="([^"]*)"', strip) for strip in strips(ROWS)]
    assert fills == [["#0072b2"], ["#fff"], ["#0072b2"], []]


def test_the_axis_has_0_and_signs() -> None:
    axis = forest_html(ROWS, "a plot").partition('<div class="axis">')[2]
    assert re.findall(r"<text[^>]*>([^<]*)</text>", axis) == ["−0.05", "−0.025", "0", "+0.025", "+0.05"]
    assert re.search(r'x="50.00%"[^>]*>0<', axis)


def test_text_and_description() -> None:
    plot = forest_html([ForestRow("a < b", "1 & 2", (0.0, 0.0, 0.0), None)], 'Gains "over" <x>')
    assert 'role="img" aria-label="Gains &quot;over&quot; &lt;x&gt;"' in plot
    assert '<span class="title">a &lt; b</span>' in plot and "<span>1 &amp; 2</span>" in plot
    assert "published" not in plot


def test_nothing_to_draw_without_a_gain() -> None:
    assert forest_html([], "a plot") == forest_html(ROWS[3:], "a plot") == ""
