"""One small picture of a segmented scan: three planes through the structure with its contour."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from medkd.data.volume import Volume, format_shape
from medkd.errors import UserError
from medkd.files import atomic_write

# Radiological display: the first axis runs to the patient's left, the second to the back, the third to the head.
DISPLAY = ("L", "P", "S")
# Pixels that a plane may fill; letters stand in the margin around it, so that they hide nothing.
HEIGHT = 288
MAX_WIDTH = 432
MARGIN = 18
# Left, right, top and bottom of the axial, the coronal and the sagittal plane.
LETTERS = ("RLAP", "RLHF", "APHF")
# The palette of Okabe and Ito without black, which darkness would hide; dashes tell the next seven labels from these.
COLOURS = ((230, 159, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115), (204, 121, 167), (213, 94, 0), (0, 114, 178))
TEXT = (225, 225, 225)
# Contours are drawn this much larger and averaged, which makes them smooth; width and dash count the larger pixels.
SHARPER, CONTOUR, DASH = 2, 3, 12


def write_preview(
    scan: Volume, mask: np.ndarray, labels: dict[int, str], window: tuple[float, float] | None, path: str | Path
) -> None:
    """Write the picture of `draw_preview` as PNG, atomically.

    Args:
        scan: the scan, of any orientation.
        mask: label values `(X, Y, Z)` in uint8 on the grid of the scan.
        labels: name of each label value; 0 is background.
        window: HU shown black and white; None takes them from the planes.
        path: the PNG file.

    Raises:
        UserError: the mask is not on the grid of the scan, or the file cannot be written.
    """
    picture = draw_preview(scan, mask, labels, window).quantize(palette=_palette(), dither=Image.Dither.NONE)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def draw_preview(
    scan: Volume, mask: np.ndarray, labels: dict[int, str], window: tuple[float, float] | None = None
) -> Image.Image:
    """Draw the axial, the coronal and the sagittal plane with the largest cross-sections of the largest structure.

    Planes are in radiological display (patient's right at the left edge, front or head on top, the sagittal one seen
    from the left) and in true proportions, each as large as its box allows. An oblique grid is shown along its nearest
    axes, without interpolation between planes. Names of the labels in sight stand below. Of the volume only the three
    planes are copied.

    Args:
        scan: the scan, of any orientation.
        mask: label values `(X, Y, Z)` in uint8 on the grid of the scan; where it is empty, the planes are the middle
            ones.
        labels: name of each label value; 0 is background.
        window: HU shown black and white; None takes the percentiles 1 and 99 of the three planes.

    Returns:
        An RGB picture.

    Raises:
        UserError: the mask is not on the grid of the scan.
    """
    if mask.shape != scan.array.shape:
        shapes = f"{format_shape(mask.shape)}, the scan {format_shape(scan.array.shape)}"
        raise UserError(f"the mask for {scan.path} is {shapes}: give the mask on the grid of the scan.")
    turn = ornt_transform(io_orientation(scan.affine), axcodes2ornt(DISPLAY))
    axes = turn[:, 0].astype(int).tolist()
    x_mm, y_mm, z_mm = (scan.spacing[axes.index(axis)] for axis in range(3))
    turned = apply_orientation(mask, turn)
    centre = _largest_sections(turned)
    planes = _planes(apply_orientation(scan.array, turn), centre)
    masks = _planes(turned, centre)

    low, high = window or np.percentile(np.concatenate([plane.ravel() for plane in planes]), (1, 99))
    scale = 255.0 / max(high - low, 1e-6)
    values = sorted(value for value in labels if value > 0)
    panels = []
    for plane, inside, spacing, letters in zip(
        planes, masks, ((y_mm, x_mm), (z_mm, x_mm), (z_mm, y_mm)), LETTERS, strict=True
    ):
        grey = np.rint(np.clip((plane.astype(np.float32) - low) * scale, 0, 255)).astype(np.uint8)
        panels.append(_panel(grey, inside, spacing, values, letters))
    seen = [value for value in values if any((inside == value).any() for inside in masks)]
    return _joined(panels, [(values.index(value), labels[value]) for value in seen])


def _palette() -> Image.Image:
    """256 colours, for files of half the size: greys, and each contour colour at each strength over a few greys.

    A palette chosen from the picture would turn the contours of small structures grey.
    """
    steps = SHARPER**2
    colours = [(level, level, level) for level in np.linspace(0, 255, 81).round().astype(int).tolist()]
    for colour in COLOURS:
        colours.append(colour)
        for grey in np.linspace(0, 255, 8):
            for step in range(1, steps):
                colours.append(tuple(round(grey + step / steps * (part - grey)) for part in colour))
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.asarray(colours, np.uint8).tobytes())
    return palette


def _largest_sections(mask: np.ndarray) -> tuple[int, ...]:
    """Index of the largest cross-section of the largest structure along each axis; of the middle in an empty mask."""
    # Slab by slab along the axis that is slowest in memory, so that no volume is copied.
    slow = int(np.argmax(np.abs(mask.strides)))
    slabs = np.moveaxis(mask, slow, 0)
    shadow = slabs.max(axis=0)
    if not shadow.any():
        return tuple(size // 2 for size in mask.shape)
    occupied = [np.flatnonzero([slab.max() for slab in slabs])]
    occupied += [np.flatnonzero(shadow.max(axis=axis)) for axis in (1, 0)]
    box = slabs[tuple(slice(indices[0], indices[-1] + 1) for indices in occupied)]
    counts = np.zeros(256, np.int64)
    for slab in box:
        counts += np.bincount(slab.ravel("K"), minlength=256)
    largest = int(counts[1:].argmax()) + 1
    areas = [np.zeros(size, np.int64) for size in box.shape]
    for index, slab in enumerate(box):
        inside = slab == largest
        areas[0][index] = np.count_nonzero(inside)
        areas[1] += np.count_nonzero(inside, axis=1)
        areas[2] += np.count_nonzero(inside, axis=0)
    centre = []
    for area, indices in zip(areas, occupied, strict=True):
        widest = np.flatnonzero(area == area.max())
        centre.append(int(indices[0] + widest[len(widest) // 2]))
    centre.insert(slow, centre.pop(0))
    return tuple(centre)


def _planes(volume: np.ndarray, centre: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The axial, the coronal and the sagittal plane as rows and columns of the display."""
    x, y, z = centre
    return volume[:, :, z].T, volume[:, y, ::-1].T, volume[x, :, ::-1].T


def _panel(
    grey: np.ndarray, mask: np.ndarray, spacing: tuple[float, float], values: list[int], letters: str
) -> Image.Image:
    """One plane at square pixels, with the contours of its labels and letters around it."""
    height_mm, width_mm = grey.shape[0] * spacing[0], grey.shape[1] * spacing[1]
    scale = min(HEIGHT / height_mm, MAX_WIDTH / width_mm)
    width, height = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    picture = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC))
    colours = np.repeat(picture[:, :, None], 3, axis=2)
    for index, value in enumerate(values):
        inside = mask == value
        if inside.any():
            window, strength = _contour(inside, (width, height), dashed=_is_dashed(index))
            under = colours[window].astype(np.float32)
            colours[window] = np.rint(under + strength[:, :, None] * (np.array(_colour(index), np.float32) - under))

    panel = Image.new("RGB", (max(width, MARGIN) + 2 * MARGIN, HEIGHT + 2 * MARGIN))
    left, top = (panel.width - width) // 2, (panel.height - height) // 2
    panel.paste(Image.fromarray(colours), (left, top))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(size=13)
    middle = MARGIN // 2
    places = (
        (left - middle, panel.height // 2),
        (left + width + middle, panel.height // 2),
        (panel.width // 2, top - middle),
        (panel.width // 2, top + height + middle),
    )
    for letter, place in zip(letters, places, strict=True):
        draw.text(place, letter, fill=TEXT, font=font, anchor="mm")
    return panel


def _contour(inside: np.ndarray, size: tuple[int, int], dashed: bool) -> tuple[tuple[slice, slice], np.ndarray]:
    """A contour along the inner side of a region's border, in a picture of `size` (width, height).

    Returns:
        The rows and columns of the picture that hold the region, and the strength 0..1 of the contour in them.
    """
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, bottom = _span(rows, size[1] / inside.shape[0], size[1])
    left, right = _span(columns, size[0] / inside.shape[1], size[0])
    to_x, to_y = inside.shape[1] / size[0], inside.shape[0] / size[1]
    cover = np.asarray(
        Image.fromarray(inside.astype(np.uint8) * 255).resize(
            ((right - left) * SHARPER, (bottom - top) * SHARPER),
            Image.Resampling.BILINEAR,
            box=(left * to_x, top * to_y, right * to_x, bottom * to_y),
        )
    )
    # Half of a pixel; less where the whole region is smaller than a pixel, which has to be seen too.
    region = cover > min(127, int(cover.max()) // 2)
    edge = region & ~binary_erosion(region, iterations=CONTOUR)
    if dashed:
        edge &= np.add.outer(np.arange(len(edge)), np.arange(edge.shape[1])) % DASH < DASH // 2
    parts = [edge[row::SHARPER, column::SHARPER] for row in range(SHARPER) for column in range(SHARPER)]
    strength = np.sum(parts, axis=0, dtype=np.float32) / len(parts)
    return (slice(top, bottom), slice(left, right)), strength


def _span(indices: np.ndarray, scale: float, size: int) -> tuple[int, int]:
    """First and past-the-last pixel of a picture that sorted indices and their neighbours reach."""
    return max(0, math.floor((indices[0] - 1) * scale)), min(size, math.ceil((indices[-1] + 2) * scale))


def _joined(panels: list[Image.Image], names: list[tuple[int, str]]) -> Image.Image:
    """The panels side by side over a line or more with the names of the labels in their colours."""
    font = ImageFont.load_default(size=13)
    width = sum(panel.width for panel in panels)
    places, x, y = [], MARGIN, panels[0].height
    for _, name in names:
        needed = 20 + round(font.getlength(name)) + MARGIN
        if x > MARGIN and x + needed > width:
            x, y = MARGIN, y + MARGIN
        places.append((x, y))
        x += needed
    picture = Image.new("RGB", (width, y + MARGIN if names else y))
    draw = ImageDraw.Draw(picture)
    left = 0
    for panel in panels:
        picture.paste(panel, (left, 0))
        left += panel.width
    for (index, name), (x, y) in zip(names, places, strict=True):
        for start in (0, 6) if _is_dashed(index) else (0, 4):
            draw.rectangle((x + start, y + 5, x + start + (3 if _is_dashed(index) else 9), y + 7), fill=_colour(index))
        draw.text((x + 20, y + 6), name, fill=TEXT, font=font, anchor="lm")
    return picture


def _colour(index: int) -> tuple[int, int, int]:
    return COLOURS[index % len(COLOURS)]


def _is_dashed(index: int) -> bool:
    return index // len(COLOURS) % 2 == 1
