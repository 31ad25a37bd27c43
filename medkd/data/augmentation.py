"""The augmentations of slices, chosen by the recipe's ``augment``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import radians
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandAffineGrid,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    ScaleIntensityRanged,
    ToTensord,
    Transform,
)

from medkd.data.turns import RandTurnd
from medkd.errors import UserError

KEYS = ("image", "label")


class RandThinSlicesd(RandomizableTransform, MapTransform):
    """Shows a slice in place of its neighbours too, as they are where slices are thin.

    Args:
        keys: of images ``(C, H, W)`` whose middle channel is the slice itself.
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.1) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change an item, or leave it as it is."""
        self.randomize(None)
        item = dict(data)
        for key in self.key_iterator(item) if self._do_transform else ():
            image: torch.Tensor = item[key]
            item[key] = image[len(image) // 2].expand_as(image).clone()
        return item


class _RandSizeGrid(RandAffineGrid):
    """MONAI's, which scales every axis by itself, with a factor that all axes share."""

    def __init__(self, sizes: tuple[float, float], **ranges: Any) -> None:
        super().__init__(**ranges)
        self.sizes = sizes

    def randomize(self, data: Any | None = None) -> None:
        super().randomize(data)
        size = self.R.uniform(*self.sizes)
        self.scale_params = [size * scale for scale in self.scale_params or ()]


class _UntrackedCompose(Compose):
    """MONAI's, without the history that lets transforms be undone, which costs more than a third of their time."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tracked = get_track_meta()
        set_track_meta(False)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            set_track_meta(tracked)


def slice_augmentation(augment: bool | str, size: int) -> Transform | None:
    """The augmentation of ``image`` and ``label`` of a slice that a recipe asks for.

    Args:
        augment: False for none. True for what differs between patients, mildly: rotation, scale, shift and changes of
            intensity, but no flips, since the side of the body tells the spleen from the liver. ``strong`` for more of
            it, and for what differs between scanners: noise, blur, resolution, contrast, thickness of slices. ``turns``
            for flips and quarter turns, which the kept outputs of a teacher can follow.
        size: side of the slice in pixels.

    Raises:
        UserError: it is none of these.
    """
    if augment is False:
        return None
    if augment == "turns":
        return RandTurnd(KEYS, allow_missing_keys=True)
    if augment is not True and augment != "strong":
        raise UserError(f"augment is {augment!r}: choose true, false, strong or turns.")
    return _UntrackedCompose([*(_mild(size) if augment is True else _strong(size)), _to_tensor()])


def _mild(size: int) -> list[Transform]:
    return [
        _affine(prob=0.8, degrees=12, scale=(-0.15, 0.15), shift=0.06 * size),
        RandScaleIntensityd(keys="image", factors=0.1, prob=0.5),
        RandShiftIntensityd(keys="image", offsets=0.05, prob=0.5),
        RandAdjustContrastd(keys="image", gamma=(0.8, 1.25), prob=0.3),
    ]


def _strong(size: int) -> list[Transform]:
    return [
        RandThinSlicesd("image"),
        # Patients differ in size more than in shape.
        _affine(prob=0.9, degrees=15, scale=(-0.07, 0.07), shift=0.08 * size, sizes=(0.8, 1.25)),
        RandSimulateLowResolutiond(
            keys="image", prob=0.15, downsample_mode="area", upsample_mode="bilinear", zoom_range=(0.5, 1.0)
        ),
        RandGaussianSmoothd(keys="image", sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2), prob=0.15),
        RandGaussianNoised(keys="image", prob=0.25, std=0.08),
        RandScaleIntensityd(keys="image", factors=0.2, prob=0.5),
        RandShiftIntensityd(keys="image", offsets=0.08, prob=0.5),
        RandAdjustContrastd(keys="image", gamma=(0.7, 1.5), prob=0.3),
        # As a window leaves no scan brighter or darker.
        ScaleIntensityRanged(keys="image", a_min=0.0, a_max=1.0, b_min=0.0, b_max=1.0, clip=True),
    ]


def _affine(
    prob: float, degrees: float, scale: tuple[float, float], shift: float, sizes: tuple[float, float] | None = None
) -> Transform:
    """Turns, scales and shifts; ``scale`` is drawn for each axis and added to 1, ``sizes`` for both and multiplied."""
    # MONAI maps the places of the result back: a scale above 1 shows the patient smaller.
    ranges: dict[str, Any] = {
        "rotate_range": radians(degrees), "scale_range": (scale, scale), "translate_range": (shift, shift),
    }  # fmt: skip
    affine = RandAffined(
        keys=KEYS, prob=prob, mode=("bilinear", "nearest"), padding_mode="zeros", allow_missing_keys=True, **ranges
    )
    if sizes is not None:
        affine.rand_affine.rand_affine_grid = _RandSizeGrid(sizes, **ranges)
    return affine


def _to_tensor() -> Transform:
    return ToTensord(keys=KEYS, track_meta=False, allow_missing_keys=True)
