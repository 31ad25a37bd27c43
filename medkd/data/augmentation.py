"""The one augmentation of slices: what differs between scanners and patients, never left and right swapped."""

from __future__ import annotations

from math import radians

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ToTensord,
)


def slice_augmentation(size: int) -> Compose:
    """Rotation, scale, shift and mild changes of intensity on ``image`` and ``label`` of a slice.

    No flips: the side of the body tells the spleen from the liver.

    Args:
        size: side of the slice in pixels.
    """
    keys = ("image", "label")
    return Compose(
        [
            RandAffined(
                keys=keys,
                prob=0.8,
                rotate_range=radians(12),
                scale_range=(0.15, 0.15),
                translate_range=(0.06 * size, 0.06 * size),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
                allow_missing_keys=True,
            ),
            RandScaleIntensityd(keys="image", factors=0.1, prob=0.5),
            RandShiftIntensityd(keys="image", offsets=0.05, prob=0.5),
            RandAdjustContrastd(keys="image", gamma=(0.8, 1.25), prob=0.3),
            ToTensord(keys=keys, track_meta=False, allow_missing_keys=True),
        ]
    )
