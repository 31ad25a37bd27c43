"""The one pre-processing of medkd and its way back, shared by training, evaluation and inference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, Orientation, Resize, ScaleIntensityRange, SpatialPad
from monai.utils import TraceKeys

from medkd.data.nifti import Volume
from medkd.errors import UserError

# What a command line that cannot say None calls the window that each scan gives itself.
PERCENTILES = "percentiles"
# How many channels a slice has for a network, by how they are made.
CHANNELS = {"neighbours": 3, "replicated": 3, "single": 1}


@dataclass(frozen=True)
class PreparedScan:
    """A scan on the grid the networks work on, and the steps that lead back.

    Attributes:
        image: ``(1, size, size, Z)``, 0 to 1, in RAS order.
        label: integer label map on the same grid, or None.
        steps: the geometric transforms that were applied to ``image``, in order.
    """

    image: MetaTensor
    label: MetaTensor | None
    steps: Sequence[InvertibleTransform]

    def to_scan_grid(self, prediction: torch.Tensor) -> torch.Tensor:
        """Bring a prediction ``(C, size, size, Z)`` to the grid and axis order of the scan, ``(C, X, Y, Z)``.

        In-plane it is interpolated linearly, so give logits, not masks.
        """
        result = MetaTensor(prediction, affine=self.image.affine)
        result.applied_operations = deepcopy(self.image.applied_operations)
        for record in result.applied_operations:
            # The steps may have come from another process, where they were other objects.
            record[TraceKeys.ID] = TraceKeys.NONE
            if record[TraceKeys.CLASS_NAME] == "Resize":
                # Cells were averaged on the way in; undoing that by repetition would give steps at every edge.
                record[TraceKeys.EXTRA_INFO]["mode"] = "trilinear"
        for step in reversed(self.steps):
            result = step.inverse(result)
        return result.as_tensor()


@dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes the slices a network sees. Saved with every model.

    Attributes:
        size: in-plane matrix; the longer side of the field of view is resized to it, the shorter one padded.
        window: HU that become 0 and 1, what lies outside is clipped; None or ``percentiles``, for MRI, which has no
            fixed unit, takes the 0.5th and the 99.5th percentile of each scan.
        channels: ``neighbours`` stacks the slice below, the slice and the slice above; ``replicated`` repeats the slice
            three times, as MTMS-KD publishes; ``single`` is the slice alone, for networks that take one channel.

    Raises:
        UserError: a value that makes no sense.
    """

    size: int = 256
    window: tuple[float, float] | None = (-125.0, 275.0)
    channels: str = "neighbours"

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
        content = {"size": self.size, "window": self.window and list(self.window), "version": 1}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def apply(self, image: Volume, label: Volume | None = None) -> PreparedScan:
        """Turn a scan to RAS order, window it, and fit its axial slices into a square without distorting them.

        The window comes before the resize, so that padding values far below air cannot bleed into the body. Slices that
        shrink are averaged over the area of the new pixels, others interpolated linearly.

        Args:
            image: the scan in HU.
            label: its label map on the same grid.
        """
        orient = Orientation("RAS", labels=None)
        oriented = _meta(orient(as_metatensor(image)))
        inside = self._inside(oriented)
        pad = SpatialPad((self.size, self.size, oriented.shape[3]))
        shrinks = all(target <= source for target, source in zip(inside[:2], oriented.shape[1:3], strict=True))
        resize = Resize(inside, mode="area" if shrinks else "trilinear")
        window = self.window or _own_window(oriented)
        windowed = ScaleIntensityRange(*window, b_min=0.0, b_max=1.0, clip=True)(oriented)
        prepared_label = None
        if label is not None:
            nearest = Resize(inside, mode="nearest-exact")
            prepared_label = _meta(pad(nearest(Orientation("RAS", labels=None)(as_metatensor(label)))))
        return PreparedScan(_meta(pad(resize(_meta(windowed)))), prepared_label, (orient, resize, pad))

    def _inside(self, oriented: MetaTensor) -> tuple[int, int, int]:
        """The matrix that holds the scan inside the square, from its extent in millimetres."""
        width, height = (n * float(mm) for n, mm in zip(oriented.shape[1:3], oriented.pixdim[:2], strict=True))
        longest = max(width, height)
        x, y = (max(1, round(self.size * side / longest)) for side in (width, height))
        return x, y, oriented.shape[3]


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


def _own_window(image: MetaTensor) -> tuple[float, float]:
    """The intensities between which nearly all of a scan lies; all of it where nearly all is one value."""
    array = image.numpy()
    low, high = np.percentile(array, (0.5, 99.5))
    return (float(low), float(high)) if low < high else (float(array.min()), float(array.max()))


def _meta(result: Any) -> MetaTensor:
    """MONAI's transforms declare wider types than the tensor with affine that they return."""
    return cast(MetaTensor, result)


def as_metatensor(volume: Volume) -> MetaTensor:
    """The volume as MONAI's ``(1, X, Y, Z)`` float tensor with its affine."""
    array = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
    return MetaTensor(array[None], affine=torch.from_numpy(np.asarray(volume.affine, dtype=np.float64)))
