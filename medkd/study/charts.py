"""Drawings of a report: curves as inline SVG, contours on a slice as PNG."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

# Colours of Okabe and Ito, which most colour-blind people tell apart; dashes and markers differ as well.
LINES: tuple[dict[str, Any], ...] = (
    {"color": "#4d4d4d", "linestyle": (0, (6, 1.5, 1.2, 1.5)), "marker": "s"},
    {"color": "#d55e00", "linestyle": (0, (3, 1.5)), "marker": "o"},
    {"color": "#0072b2", "linestyle": "solid", "marker": "^"},
)
TRUTH_COLOUR, MASK_COLOUR = "#00c8ff", "#ffb000"
MASK_DASHES = (3.0, 2.5)

# A power of two, so that inches times DPI is the exact number of pixels.
_DPI = 128
_PNG_PIXELS = 480
_MARKERS = 10
STEPS = [1, 2, 2.5, 5, 10]

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        line: index of its look in :data:`LINES`.
        epochs: one per value.
        values: any finite numbers.
    """

    line: int
    epochs: Sequence[int]
    values: Sequence[float]


def curves_svg(
    curves: Sequence[Curve], description: str, width: int = 340, height: int = 200, faint: Sequence[Curve] = ()
) -> str:
    """Draw curves over the epochs.

    Args:
        curves: to draw in one frame.
        description: of the chart, plain text, for readers who cannot see it.
        width: of the drawing in CSS pixels; it scales with the page.
        height: likewise.
        faint: curves drawn thin and without markers behind the others.

    Returns:
        An ``<svg>`` element that needs nothing from outside.
    """
    with own_style():
        figure, axes = frame(width, height)
        for curve in faint:
            look = LINES[curve.line] | {"marker": "", "alpha": 0.5}
            axes.plot(curve.epochs, curve.values, linewidth=0.8, **look)
        for curve in curves:
            every = max(1, round(len(curve.epochs) / _MARKERS))
            axes.plot(curve.epochs, curve.values, markevery=every, linewidth=1.6, markersize=4.5, **LINES[curve.line])
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.margins(x=0.03, y=0.08)
        return image_svg(figure, description)


def line_sample_svg(line: int) -> str:
    """A short piece of a line of :data:`LINES`, for a legend."""
    with own_style():
        figure = Figure(figsize=(44 / 72, 12 / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], linewidth=1.8, markersize=6, **LINES[line])
        axes.set_axis_off()
        return _inline_svg(figure, 'aria-hidden="true"')


def window_around(masks: Sequence[np.ndarray]) -> Window:
    """The square part of a slice that holds all masks with a margin, at least a third of the slice.

    Args:
        masks: boolean ``(H, W)``, one or more.

    Returns:
        Rows and columns; the whole slice where all masks are empty.
    """
    union = np.any(np.stack(masks), axis=0)
    height, width = union.shape
    if not union.any():
        return slice(0, height), slice(0, width)
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    side = max(round(extent * 1.5), max(union.shape) // 3)
    return _centred(rows, min(side, height), height), _centred(columns, min(side, width), width)


def _centred(occupied: np.ndarray, side: int, length: int) -> slice:
    start = (int(occupied[0]) + int(occupied[-1]) + 1 - side) // 2
    start = min(max(start, 0), length - side)
    return slice(start, start + side)


def slice_png(image: np.ndarray, truth: np.ndarray, window: Window) -> bytes:
    """The whole slice with the contour of the truth, a frame around ``window`` and the letters of the directions.

    Args:
        image: ``(H, W)`` of 0 to 1, row 0 anterior, column 0 the patient's right.
        truth: boolean ``(H, W)``.
        window: what :func:`mask_png` will show.

    Returns:
        A PNG file.
    """
    with own_style():
        figure, axes = _slice_axes(image, (slice(0, image.shape[0]), slice(0, image.shape[1])))
        _draw_contour(axes, truth, TRUTH_COLOUR, "solid")
        rows, columns = window
        size = (columns.stop - columns.start, rows.stop - rows.start)
        if size != image.shape[::-1]:
            corner = (columns.start - 0.5, rows.start - 0.5)
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=1, linestyle="dotted"))
        for letter, x, y in (("A", 0.5, 0.955), ("P", 0.5, 0.045), ("R", 0.045, 0.5), ("L", 0.955, 0.5)):
            text = axes.text(x, y, letter, transform=axes.transAxes, ha="center", va="center", color="white")
            text.set_path_effects([withStroke(linewidth=2, foreground="black")])
        return _png(figure)


def mask_png(image: np.ndarray, truth: np.ndarray, mask: np.ndarray, window: Window) -> bytes:
    """The part of a slice in ``window`` with the contours of truth (solid) and mask (dashed).

    Args:
        image: ``(H, W)`` of 0 to 1.
        truth: boolean ``(H, W)``.
        mask: boolean ``(H, W)``.
        window: rows and columns to show.

    Returns:
        A PNG file.
    """
    with own_style():
        figure, axes = _slice_axes(image, window)
        _draw_contour(axes, truth, TRUTH_COLOUR, "solid")
        _draw_contour(axes, mask, MASK_COLOUR, (0, MASK_DASHES))
        return _png(figure)


def _slice_axes(image: np.ndarray, window: Window) -> tuple[Figure, Axes]:
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    scale = max(1, round(_PNG_PIXELS / max(height, width)))
    figure = Figure(figsize=(width * scale / _DPI, height * scale / _DPI), dpi=_DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="bilinear", aspect="auto")
    axes.set_xlim(columns.start - 0.5, columns.stop - 0.5)
    axes.set_ylim(rows.stop - 0.5, rows.start - 0.5)
    return figure, axes


def _draw_contour(axes: Axes, mask: np.ndarray, colour: str, linestyle: Any) -> None:
    if not mask.any():
        return
    # Without a border of background a mask that touches the edge of the slice would stay open there.
    columns, rows = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    padded = np.pad(mask, 1).astype(float)
    axes.contour(columns, rows, padded, levels=[0.5], colors=[colour], linestyles=[linestyle], linewidths=2)


def frame(width: int, height: int) -> tuple[Figure, Axes]:
    """An empty chart of this size in CSS pixels, to be drawn in :func:`own_style`."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    axes = figure.subplots()
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa3ad")
    axes.tick_params(length=0, pad=5, labelcolor="#48525c")
    return figure, axes


def image_svg(figure: Figure, description: str) -> str:
    """A chart as an ``<svg>`` element, with what it shows in plain text for readers who cannot see it."""
    return _inline_svg(figure, f'role="img" aria-label="{html.escape(description)}"')


@contextmanager
def own_style() -> Iterator[None]:
    """Our look whatever the user's matplotlibrc says; the salt makes the ids in an SVG the same in every run."""
    own: Any = {"svg.hashsalt": "medkd", "svg.fonttype": "none", "font.size": 11.5, "axes.labelcolor": "#48525c"}
    with matplotlib.style.context("default"), matplotlib.rc_context(own):
        yield


def _inline_svg(figure: Figure, attributes: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True)
    svg = file.getvalue()
    view_box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    # Out goes what would reach beyond the drawing: rules for all elements, ids of groups that charts share, fonts.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'font-family: [^;"]*;? ?', "", body)
    return f"<svg {view_box[0] if view_box else ''} {attributes}>{body}"


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()
