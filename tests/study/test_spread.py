from __future__ import annotations

import re

import pytest

from medkd.study.spread import Spread, spread_svg

LABELS = ("cost", "Dice")
Box = tuple[float, float, float, float]


def draw(*spreads: Spread) -> str:
    return spread_svg(spreads, LABELS, "a chart")


def marks(svg: str) -> list[tuple[float, float]]:
    """Places of the marks; the first two of a network are its worst and its best run."""
    return [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg)]


def boxes(svg: str, names: list[str]) -> dict[str, Box]:
    """Left, upper, right and lower end of each name, with narrow letters of 6 by 9 pixels."""
    found = {}
    for attributes, name in re.findall(r"<text ([^>]*)>([^<]*)</text>", svg):
        if name in names:
            place = re.search(r'x="([-\d.]+)" y="([-\d.]+)"', attributes)
            assert place is not None
            x, y, width = float(place[1]), float(place[2]), 6 * len(name)
            left = {"middle": x - width / 2, "end": x - width}.get(anchor(attributes), x)
            found[name] = (left, y - 9, left + width, y)
    return found


def anchor(attributes: str) -> str:
    found = re.search(r"text-anchor: (\w+)", attributes)
    return found[1] if found else "start"


def overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def test_costs_are_on_a_logarithmic_scale() -> None:
    places = marks(draw(*(Spread(name, cost, 0.5, 0.7, False) for name, cost in (("a", 1e7), ("b", 1e8), ("c", 1e10)))))
    (first, high), (second, _), (third, _) = places[:2], places[2:4], places[4:]
    assert (third[0] - second[0]) / (second[0] - first[0]) == pytest.approx(2, abs=1e-3)
    assert high[0] == first[0] and high[1] < first[1]  # SVG counts rows downwards


def test_squares_and_circles_filled_and_hollow() -> None:
    looks = set()
    for square in (False, True):
        svg = draw(Spread("a", 1e7, 0.5, 0.7, square), Spread("b", 1e8, 0.5, 0.7, square))
        shapes = re.findall(r'<defs>\s*<path id="[^"]*" d="([^"]*)" style="([^"]*)"', svg)
        looks |= {(shape, "fill: #ffffff" in style) for shape, style in shapes if "stroke: #0072b2" in style}
        fills = re.findall(r'<use [^>]*style="fill: (#\w+)', svg)
        assert fills == ["#ffffff", "#0072b2"] * 2
    assert len({shape for shape, _ in looks}) == 2


@pytest.mark.parametrize(
    "costs",
    [
        {"unet": 1e8, "raunet": 1e9},
        {"unet": 1e8, "raunet": 1e8, "pspnet": 1e8},
        {"a_long_name_of_a_network": 1e8, "another_long_name": 1.2e8, "the_third_long_name": 1.5e8, "short": 1e10},
        {"one (channels [16, 32, 64])": 5e10, "two (channels [32, 64, 128])": 6e10, "small": 1e8},
    ],
)
def test_names_hit_neither_each_other_nor_marks(costs: dict[str, float]) -> None:
    spreads = [Spread(name, cost, 0.70 + number / 100, 0.75 + number / 100, False)
               for number, (name, cost) in enumerate(costs.items())]  # fmt: skip
    svg = draw(*spreads)
    found = boxes(svg, list(costs))
    assert list(found) == list(costs)
    for number, (name, box) in enumerate(found.items()):
        assert box[0] >= 0 and box[2] <= 420 and box[1] >= 0 and box[3] <= 300
        others = [other for other_name, other in found.items() if other_name != name]
        points = [(x - 3, y - 3, x + 3, y + 3) for x, y in marks(svg)]
        assert not any(overlap(box, other) for other in others + points), (number, name)


def test_names_are_plain_text() -> None:
    svg = draw(Spread("$\\frac{1 <b>", 1e7, 0.5, 0.7, False), Spread("b", 1e8, 0.5, 0.7, False))
    assert "$\\frac{1 &lt;b&gt;</text>" in svg
    assert svg.startswith('<svg viewBox="0 0 420 300" role="img" aria-label="a chart">')
    for unwanted in ("<style", "metadata", "http", "font-family", "<g id"):
        assert unwanted not in svg
