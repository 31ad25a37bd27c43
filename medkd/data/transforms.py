"""The one pre-processing of medkd and its way back, shared by training, evaluation and inference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medkd.data.body import body_box
from medkd.data.grid import SliceGrid
from medkd.data.volume import Volume
from medkd.errors import UserError

# What a command line that cannot say None calls the window that each scan gives itself.
PERCENTILES = "percentiles"
# How many channels a slice has for a network, by how they are made.
CHANNELS = {"neighbours": 3, "replicated": 3, "single": 1}
FIELDS_OF_VIEW = ("scan", "body")

# As many slices as the processor's cache holds a few of.
SLICES_AT_A_TIME = 8


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan on the grid the networks work on, and the way back.

    Attributes:
        image: ``(size, size, Z)`` float32, 0 to 1, in RAS order.
        label: integer label map on the same grid, or None.
        grid: where the slices lie in the scan.
    """

    image: np.ndarray
    label: np.ndarray | None
    grid: SliceGrid

    def to_scan_grid(self, prediction: np.ndarray) -> np.ndarray:
        """Bring a prediction ``(C, size, size, Z)`` to the grid and axis order of the scan, ``(C, X, Y, Z)``.

        In-plane it is interpolated linearly, so give logits, not masks.
        """
        return self.grid.to_scan(prediction)

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """The label map ``(X, Y, Z)`` uint8 on the grid of the scan for logits ``(C, size, size, Z)``."""
        mask = np.zeros(self.grid.shape, np.uint8, order="F")
        for start in range(0, self.grid.count, SLICES_AT_A_TIME):
            part = slice(start, start + SLICES_AT_A_TIME)
            self.grid.label_slices(mask, part, np.moveaxis(logits[..., part], 3, 0))
        return mask


@dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes the slices a network sees. Saved with every model.

    Attributes:
        size: in-plane matrix; the longer side of the field of view is resized to it, the shorter one padded.
        window: HU that become 0 and 1, what lies outside is clipped; None or ``percentiles``, for MRI, which has no
            fixed unit, takes the 0.5th and the 99.5th percentile of each scan.
        channels: ``neighbours`` stacks the slice below, the slice and the slice above; ``replicated`` repeats the slice
            three times, as MTMS-KD publishes; ``single`` is the slice alone, for networks that take one channel.
        field_of_view: ``scan`` shows all of a slice; ``body`` what :func:`~medkd.data.body.body_box` finds, so that a
            patient fills the square whatever the field of view; for CT.

    Raises:
        UserError: a value that makes no sense.
    """

    size: int = 256
    window: tuple[float, float] | None = (-125.0, 275.0)
    channels: str = "neighbours"
    field_of_view: str = "scan"

    def __post_init__(self) -> None:
        if self.size < 16:
            raise UserError(f"size {self.size} is too small for a slice: give 16 or more pixels.")
        if isinstance(self.window, str) and self.window in (PERCENTILES, "null", "None"):
            object.__setattr__(self, "window", None)
        if self.window is not None:
            if isinstance(self.window, str):
                raise UserError(f"window {self.window!r} is not known: give two values in HU, or {PERCENTILES}.")
            if len(self.window) != 2 or not self.window[0] < self.window[1]:
                raise UserError(f"window {list(self.window)} is not a range of HU: give the lower value first.")
            object.__setattr__(self, "window", (float(self.window[0]), float(self.window[1])))
        if self.channels not in CHANNELS:
            raise UserError(f"channels {self.channels!r} is not known: choose {', '.join(CHANNELS)}.")
        if self.field_of_view not in FIELDS_OF_VIEW:
            raise UserError(f"field_of_view {self.field_of_view!r} is not known: choose {', '.join(FIELDS_OF_VIEW)}.")
        if self.field_of_view == "body" and self.window is None:
            raise UserError("field_of_view body tells air from body by HU: give a window in HU, or field_of_view scan.")

    @property
    def in_channels(self) -> int:
        """How many channels the networks are given."""
        return CHANNELS[self.channels]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """The pre-processing that :meth:`to_dict` described."""
        try:
            return cls(**content)
        except TypeError as error:
            raise UserError(
                f"the preprocessing {dict(content)} cannot be read ({error}): train the model again."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "window": self.window and list(self.window)}

    def key(self) -> str:
        """A short hash of everything that changes the stored slices (how they are stacked does not)."""
        content: dict[str, Any] = {"size": self.size, "window": self.window and list(self.window), "version": 1}
        if self.field_of_view != "scan":
            content |= {"field_of_view": self.field_of_view, "body_version": 2}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def apply(self, image: Volume, label: Volume | None = None) -> PreparedScan:
        """Turn a scan to RAS order, window it, and fit its axial slices into a square without distorting them.

        The window comes before the resize, so that padding values far below air cannot bleed into the body. Slices that
        shrink are averaged over the area of the new pixels, others interpolated linearly.

        Args:
            image: the scan in HU.
            label: its label map on the same grid.
        """
        grid = self.grid(image)
        prepared_label = None
        if label is not None:
            labels = grid.nearest_to_square(np.moveaxis(grid.seen(label.array), 2, 0))
            prepared_label = np.moveaxis(labels, 0, 2)
        slices = np.concatenate([part for _, part in self.slices(image, grid)])
        return PreparedScan(np.moveaxis(slices, 0, 2), prepared_label, grid)

    def grid(self, image: Volume) -> SliceGrid:
        """Where the slices of a scan lie."""
        grid = SliceGrid(image.array.shape, image.affine, self.size)
        if self.field_of_view == "scan":
            return grid
        box = body_box(grid.to_ras(image.array), grid.spacing)
        return SliceGrid(image.array.shape, image.affine, self.size, box)

    def slices(self, image: Volume, grid: SliceGrid) -> Iterator[tuple[slice, np.ndarray]]:
        """The slices of a scan from feet to head, some at a time, as :meth:`apply` prepares them.

        Yields:
            Which they are, and ``(B, size, size)`` float32.
        """
        scan = np.moveaxis(grid.seen(image.array), 2, 0)
        low, high = self.window or _own_window(image.array)
        for start in range(0, len(scan), SLICES_AT_A_TIME):
            part = scan[start : start + SLICES_AT_A_TIME].astype(np.float32)
            part -= np.float32(low)
            part *= np.float32(1 / (high - low))
            yield slice(start, start + len(part)), grid.to_square(np.clip(part, 0, 1, out=part))


def stack_channels(slices: np.ndarray, index: int, channels: str) -> np.ndarray:
    """The input channels for one slice.

    Args:
        slices: ``(Z, H, W)``.
        index: which slice; the first and last stand in for their missing neighbours.
        channels: see :class:`Preprocessing`.

    Returns:
        ``(C, H, W)`` float32.
    """
    if channels != "neighbours":
        rows = [index] * CHANNELS[channels]
    else:
        rows = [max(index - 1, 0), index, min(index + 1, len(slices) - 1)]
    return np.stack([slices[row] for row in rows]).astype(np.float32)


def prepared_slices(prepared: PreparedScan, channels: str) -> Iterator[tuple[slice, np.ndarray]]:
    """The input channels of a prepared scan, some slices at a time; see :func:`stacked_slices`."""
    slices = np.moveaxis(prepared.image, 2, 0)
    parts = (slice(start, start + SLICES_AT_A_TIME) for start in range(0, len(slices), SLICES_AT_A_TIME))
    return stacked_slices(((part, slices[part]) for part in parts), channels)


def stacked_slices(parts: Iterable[tuple[slice, np.ndarray]], channels: str) -> Iterator[tuple[slice, np.ndarray]]:
    """The input channels of slices that come some at a time, in order.

    Args:
        parts: which slices, and ``(B, size, size)``.
        channels: see :class:`Preprocessing`.

    Yields:
        Which slices, and ``(B, C, size, size)`` as :func:`stack_channels` makes them.
    """
    if channels != "neighbours":
        for which, slices in parts:
            yield which, np.repeat(slices[:, None], CHANNELS[channels], axis=1)
        return
    # The last slice of a part has its neighbour in the next one, so each waits for that.
    waiting: tuple[slice, np.ndarray] | None = None
    below: np.ndarray | None = None
    for which, slices in parts:
        if waiting is not None:
            yield waiting[0], _with_neighbours(waiting[1], below, slices[0])
            below = waiting[1][-1]
        waiting = which, slices
    if waiting is not None:
        yield waiting[0], _with_neighbours(waiting[1], below, None)


def _with_neighbours(slices: np.ndarray, below: np.ndarray | None, above: np.ndarray | None) -> np.ndarray:
    first = slices[0] if below is None else below
    last = slices[-1] if above is None else above
    rows = np.concatenate([first[None], slices, last[None]])
    return np.stack([rows[:-2], rows[1:-1], rows[2:]], axis=1)


def _own_window(array: np.ndarray) -> tuple[float, float]:
    """The intensities between which nearly all of a scan lies; all of it where nearly all is one value."""
    low, high = np.percentile(array, (0.5, 99.5))
    return (float(low), float(high)) if low < high else (float(array.min()), float(array.max()))
