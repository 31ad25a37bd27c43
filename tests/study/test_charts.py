from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from medkd.study.charts import (
    MASK_COLOUR,
    TRUTH_COLOUR,
    Curve,
    curves_svg,
    line_sample_svg,
    mask_png,
    slice_png,
    window_around,
)

SIZE, SCALE = 48, 10  # 480 pixels a side
WHOLE = (slice(0, SIZE), slice(0, SIZE))
EMPTY = np.zeros((SIZE, SIZE), dtype=bool)
BLACK = np.zeros((SIZE, SIZE))


def square(rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    mask = EMPTY.copy()
    mask[slice(*rows), slice(*columns)] = True
    return mask


def decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def drawn(png: bytes, colour: str) -> np.ndarray:
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return np.abs(decode(png) - wanted).max(axis=2) < 60


def bounds(pixels: np.ndarray) -> Sequence[int]:
    rows, columns = np.nonzero(pixels)
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize(
    ("rows", "columns", "window"),
    [
        ((10, 20), (24, 40), WHOLE),
        ((0, 5), (40, 48), WHOLE),
        ((20, 26), (30, 36), (slice(12, 36), slice(16, 40))),
    ],
)
def test_contours_run_along_the_voxel_edges(
    rows: tuple[int, int], columns: tuple[int, int], window: tuple[slice, slice]
) -> None:
    mask = square(rows, columns)
    scale = 480 // (window[0].stop - window[0].start)
    edges = [(edge - window[0].start) * scale for edge in rows] + [(edge - window[1].start) * scale for edge in columns]
    for truth, model, colour in ((mask, EMPTY, TRUTH_COLOUR), (EMPTY, mask, MASK_COLOUR)):
        pixels = drawn(mask_png(BLACK, truth, model, window), colour)
        assert pixels.shape == (480, 480)
        np.testing.assert_allclose(bounds(pixels), edges, atol=3)
        inside = pixels[edges[0] + 4 : edges[1] - 4, edges[2] + 4 : edges[3] - 4]
        # Half a voxel is cut off at the corners.
        assert not inside[scale:-scale, scale:-scale].any()


def test_truth_is_solid_and_mask_is_dashed() -> None:
    mask = square((10, 30), (10, 30))
    shares = {}
    for truth, model, colour in ((mask, EMPTY, TRUTH_COLOUR), (EMPTY, mask, MASK_COLOUR)):
        pixels = drawn(mask_png(BLACK, truth, model, WHOLE), colour)
        shares[colour] = pixels[97:103, 110:290].any(axis=0).mean()
    assert shares[TRUTH_COLOUR] == 1.0
    assert 0.4 < shares[MASK_COLOUR] < 0.7


def test_empty_masks_draw_nothing() -> None:
    assert decode(mask_png(BLACK, EMPTY, EMPTY, WHOLE)).max() == 0


def test_image_is_not_flipped() -> None:
    image = BLACK.copy()
    image[:8, :16] = 1.0
    pixels = decode(mask_png(image, EMPTY, EMPTY, WHOLE))
    assert (pixels[10:70, 10:150] == 255).all()
    assert (pixels[90:] == 0).all()
    assert (pixels[:, 170:] == 0).all()


def test_slice_has_truth_frame_and_letters() -> None:
    truth = square((20, 26), (30, 36))
    window = (slice(12, 36), slice(16, 40))
    png = slice_png(BLACK, truth, window)
    np.testing.assert_allclose(bounds(drawn(png, TRUTH_COLOUR)), (200, 260, 300, 360), atol=3)
    white = decode(png).min(axis=2) > 100
    for letter in (white[:60, 220:260], white[420:, 220:260], white[220:260, :60], white[220:260, 420:]):
        assert letter.any()
    white[:60] = white[420:] = white[:, :60] = white[:, 420:] = False
    np.testing.assert_allclose(bounds(white), (120, 360, 160, 400), atol=3)
    whole = decode(slice_png(BLACK, truth, WHOLE)).min(axis=2) > 100
    assert not whole[60:420, 60:420].any()


@pytest.mark.parametrize(
    ("masks", "window"),
    [
        ([square((20, 24), (20, 24))], ((14, 30), (14, 30))),  # a third of the slice at least
        ([square((20, 24), (20, 24)), square((22, 40), (30, 34))], ((15, 45), (12, 42))),  # 1.5 times 20 rows
        ([square((0, 4), (44, 48))], ((0, 16), (32, 48))),  # moved inside
        ([square((1, 47), (2, 4))], ((0, 48), (0, 48))),
        ([EMPTY], ((0, 48), (0, 48))),
    ],
)
def test_window(masks: list[np.ndarray], window: tuple[tuple[int, int], tuple[int, int]]) -> None:
    rows, columns = window_around(masks)
    assert ((rows.start, rows.stop), (columns.start, columns.stop)) == window


def test_window_of_a_wide_slice() -> None:
    mask = np.zeros((20, 60), dtype=bool)
    mask[5:8, 10:40] = True
    rows, columns = window_around([mask])
    assert (rows, columns) == (slice(0, 20), slice(2, 47))


def points(svg: str) -> list[tuple[float, float]]:
    """Of the one curve: the path that is clipped to the frame and has its colour."""
    (path,) = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="[^"]*stroke: #0072b2', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]


def test_curve_is_drawn_to_scale() -> None:
    (x1, y1), (x2, y2), (x3, y3) = points(curves_svg([Curve(2, [1, 2, 4], [0.5, 0.2, 0.3])], "a chart"))
    assert (x3 - x2) / (x2 - x1) == pytest.approx(2, abs=1e-4)
    assert (y2 - y1) / (y2 - y3) == pytest.approx(3, abs=1e-4)  # SVG counts rows downwards
    assert y2 > y1


def test_lines_differ_without_colour() -> None:
    looks = set()
    for line in range(3):
        svg = line_sample_svg(line)
        dashes = re.search(r"stroke-dasharray: ([^;]*)", svg)
        marker = re.search(r'<defs>\s*<path id="[^"]*" d="([^"]*)"', svg)
        assert marker is not None
        looks.add((dashes[1] if dashes else "", marker[1]))
    assert len({dashes for dashes, _ in looks}) == len({marker for _, marker in looks}) == 3


def test_svg_is_small_and_says_what_it_shows() -> None:
    svg = curves_svg([Curve(line, [1, 2], [0.1, 0.2]) for line in range(3)], 'Dice & "more" <b>')
    assert svg.startswith('<svg viewBox="0 0 340 200" role="img" aria-label="Dice &amp; &quot;more&quot; &lt;b&gt;">')
    assert ">epoch</text>" in svg
    for unwanted in ("<style", "metadata", "http", "font-family", "<g id"):
        assert unwanted not in svg
    assert 'aria-hidden="true"' in line_sample_svg(0)
