"""What a scan may be like that a model was not trained on, made from scans whose spleen is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import ndimage

from medkd.data import Volume, volume_from_array
from medkd.data.grid import SliceGrid

AIR, FAT, MUSCLE, BONE = -1000.0, -90.0, 50.0, 700.0
BODY = -100.0  # HU above which a voxel of the windowed data is no air


@dataclass(frozen=True)
class LabelledScan:
    """A scan and its spleen in RAS order.

    Attributes:
        image: ``(X, Y, Z)`` float32, HU.
        spleen: ``(X, Y, Z)`` bool.
        spacing: voxel size in mm.
    """

    image: np.ndarray
    spleen: np.ndarray
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, image: Volume, label: Volume) -> LabelledScan:
        """From a scan and its label map, 1 for the spleen."""
        grid = SliceGrid(image.array.shape, image.affine, size=1)
        scan, mask = (grid.to_ras(volume.array) for volume in (image, label))
        return cls(scan.astype(np.float32), mask == 1, grid.spacing)

    def volume(self) -> Volume:
        """The scan, to be segmented."""
        return volume_from_array(self.image, np.diag([*self.spacing, 1.0]))

    def slices(self, kept: slice) -> LabelledScan:
        """Some of its axial slices."""
        return replace(self, image=self.image[:, :, kept], spleen=self.spleen[:, :, kept])

    def extent(self) -> tuple[int, int]:
        """The first slice with spleen, and the one after the last."""
        rows = np.flatnonzero(self.spleen.any(axis=(0, 1)))
        return int(rows[0]), int(rows[-1]) + 1


Shift = Callable[[LabelledScan], LabelledScan]


def _full_range(scan: LabelledScan) -> LabelledScan:
    """The window of the data opened: air and what is denser than 275 HU as a scanner gives them."""
    image = np.where(scan.image <= scan.image.min() + 2, AIR, scan.image)
    return replace(scan, image=np.where(image >= 270, image + BONE, image).astype(np.float32))


def _offset(hu: float, scan: LabelledScan) -> LabelledScan:
    """All but air, which the data has cut off, brighter or darker."""
    return replace(scan, image=np.where(scan.image > scan.image.min(), scan.image + hu, scan.image).astype(np.float32))


def _noise(sigma: float, scan: LabelledScan) -> LabelledScan:
    noise = np.random.default_rng(0).normal(0, sigma, scan.image.shape)
    return replace(scan, image=(scan.image + noise).astype(np.float32))


def _blur(mm: float, scan: LabelledScan) -> LabelledScan:
    sigma = [mm / scan.spacing[0], mm / scan.spacing[1], 0]
    return replace(scan, image=ndimage.gaussian_filter(scan.image, sigma))


def _washed_out(share: float, scan: LabelledScan) -> LabelledScan:
    """Soft tissue with a share of its contrast, as without contrast agent: what exceeds 40 HU is drawn to it."""
    return replace(scan, image=np.where(scan.image > 40, 40 + share * (scan.image - 40), scan.image))


def _coarse_pixels(factor: int, scan: LabelledScan) -> LabelledScan:
    """Pixels that are averages over squares of ``factor`` pixels; the spleen is where most of the square is."""
    return _averaged(scan, (factor, factor, 1))


def _thick_slices(factor: int, scan: LabelledScan) -> LabelledScan:
    """Slices that are averages of ``factor`` slices."""
    return _averaged(scan, (1, 1, factor))


def _averaged(scan: LabelledScan, factors: tuple[int, int, int]) -> LabelledScan:
    cut = tuple(slice(0, n - n % factor) for n, factor in zip(scan.image.shape, factors, strict=True))

    def means(array: np.ndarray) -> np.ndarray:
        kept = array[cut]
        blocks = [part for n, factor in zip(kept.shape, factors, strict=True) for part in (n // factor, factor)]
        return np.asarray(kept.reshape(blocks).mean(axis=(1, 3, 5)))

    x, y, z = (mm * factor for mm, factor in zip(scan.spacing, factors, strict=True))
    return LabelledScan(means(scan.image), means(scan.spleen.astype(np.float32)) >= 0.5, (x, y, z))


def _thin_slices(factor: int, scan: LabelledScan) -> LabelledScan:
    """``factor`` slices for each, interpolated."""
    zoom = (1, 1, factor)
    image = ndimage.zoom(scan.image, zoom, order=1, grid_mode=True, mode="nearest")
    spleen = ndimage.zoom(scan.spleen.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest") >= 0.5
    x, y, z = scan.spacing
    return LabelledScan(image, spleen, (x, y, z / factor))


def _wide(share: float, scan: LabelledScan) -> LabelledScan:
    """A field of view wider by a share, air around."""
    pads = [(round(share * n / 2),) * 2 for n in scan.image.shape[:2]] + [(0, 0)]
    return replace(
        scan,
        image=np.pad(scan.image, pads, constant_values=scan.image.min()),
        spleen=np.pad(scan.spleen, pads),
    )


def _tight(scan: LabelledScan) -> LabelledScan:
    """A field of view that ends with the body, from side to side and from front to back."""
    # Opened, so that table and clothes do not count.
    body = ndimage.binary_opening(scan.image[:, :, scan.image.shape[2] // 2] > BODY, iterations=3)
    box = tuple(slice(rows[0], rows[-1] + 1) for rows in (np.flatnonzero(body.any(axis=axis)) for axis in (1, 0)))
    return replace(scan, image=scan.image[box], spleen=scan.spleen[box])


def _rotated(degrees: float, scan: LabelledScan) -> LabelledScan:
    """Lying obliquely on the table."""
    image = ndimage.rotate(scan.image, degrees, reshape=False, order=1, cval=float(scan.image.min()))
    spleen = ndimage.rotate(scan.spleen.astype(np.float32), degrees, reshape=False, order=1) >= 0.5
    return replace(scan, image=image, spleen=spleen)


def _arms_down(scan: LabelledScan) -> LabelledScan:
    """An arm at each side, of muscle and fat with a bone inside, in a field of view wide enough for both."""
    wide = _wide(0.4, scan)
    image = wide.image.copy()
    body = np.flatnonzero((image > BODY).any(axis=(1, 2)))
    places = [np.arange(n) * mm for n, mm in zip(image.shape[:2], wide.spacing[:2], strict=True)]
    x, y = np.meshgrid(*places, indexing="ij")
    for edge, outwards in ((body[0], -1), (body[-1], 1)):
        centre = (edge * wide.spacing[0] + outwards * 45, y.mean())
        distance = np.hypot((x - centre[0]) / 38, (y - centre[1]) / 45)
        for radius, hu in ((1.0, FAT), (0.85, MUSCLE), (0.3, BONE)):
            image[distance < radius] = hu
    return replace(wide, image=image)


def _part_of_spleen(start: float, end: float, scan: LabelledScan) -> LabelledScan:
    """A scan that begins and ends within the spleen, at shares of its height."""
    low, high = scan.extent()
    return scan.slices(slice(low + round(start * (high - low)), max(low + round(end * (high - low)), low + 1)))


def _middle_slices(count: int, scan: LabelledScan) -> LabelledScan:
    low, high = scan.extent()
    start = max((low + high - count) // 2, 0)
    return scan.slices(slice(start, start + count))


def _below(scan: LabelledScan) -> LabelledScan:
    """What lies 20 mm and more below the spleen."""
    return scan.slices(slice(0, max(scan.extent()[0] - round(20 / scan.spacing[2]), 1)))


def _above(scan: LabelledScan) -> LabelledScan:
    """What lies 5 mm and more above the spleen: lungs, heart, the dome of the liver."""
    return scan.slices(slice(min(scan.extent()[1] + round(5 / scan.spacing[2]), scan.image.shape[2] - 1), None))


def _without_spleen(scan: LabelledScan) -> LabelledScan:
    """The spleen and its rim filled with fat, as if it had been taken out."""
    rim = ndimage.binary_dilation(scan.spleen, iterations=2)
    fat = np.random.default_rng(0).normal(FAT, 15, scan.image.shape)
    return replace(scan, image=np.where(rim, fat, scan.image).astype(np.float32), spleen=np.zeros_like(scan.spleen))


# Group -> what is shifted -> how. A scan without spleen asks for an empty mask, all others for the spleen.
SHIFTS: dict[str, dict[str, Shift]] = {
    "": {"as it is": lambda scan: scan},
    "intensities": {
        "full range of HU": _full_range,
        "20 HU brighter": partial(_offset, 20),
        "20 HU darker": partial(_offset, -20),
        "noise of 20 HU": partial(_noise, 20),
        "noise of 50 HU": partial(_noise, 50),
        "blurred by 1.5 mm": partial(_blur, 1.5),
        "blurred by 3 mm": partial(_blur, 3),
        "half of the contrast": partial(_washed_out, 0.5),
        "a fifth of the contrast": partial(_washed_out, 0.2),
    },
    "grid": {
        "pixels 2 times as wide": partial(_coarse_pixels, 2),
        "pixels 4 times as wide": partial(_coarse_pixels, 4),
        "slices 2 times as thick": partial(_thick_slices, 2),
        "slices 3 times as thick": partial(_thick_slices, 3),
        "slices 3 times as thin": partial(_thin_slices, 3),
    },
    "patient": {
        "field of view 40 % wider": partial(_wide, 0.4),
        "field of view cut to the body": _tight,
        "turned by 10 degrees": partial(_rotated, 10),
        "turned by -10 degrees": partial(_rotated, -10),
        "arms down": _arms_down,
    },
    "coverage": {
        "lower half of the spleen": partial(_part_of_spleen, 0, 0.5),
        "upper half of the spleen": partial(_part_of_spleen, 0.5, 1),
        "5 slices through the spleen": partial(_middle_slices, 5),
        "1 slice through the spleen": partial(_middle_slices, 1),
    },
    "no spleen": {
        "below the spleen": _below,
        "above the spleen": _above,
        "spleen replaced by fat": _without_spleen,
    },
}
