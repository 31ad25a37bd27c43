"""The augmentations of slices, chosen by the recipe's ``augment``."""

from __future__ import annotations

from math import radians

from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ToTensord,
    Transform,
)

from medkd.data.turns import RandTurnd
from medkd.errors import UserError


def slice_augmentation(augment: bool | str, size: int) -> Transform | None:
    """The augmentation of ``image`` and ``label`` of a slice that a recipe asks for.

    Args:
        augment: False for none. True for what differs between scanners and patients: rotation, scale, shift and mild
            changes of intensity, but no flips, since the side of the body tells the spleen from the liver. ``turns``
            for flips and quarter turns, which the kept outputs of a teacher can follow.
        size: side of the slice in pixels.

    Raises:
        UserError: it is none of these.
    """
    if augment is False:
        return None
    keys = ("image", "label")
    if augment == "turns":
        return RandTurnd(keys, allow_missing_keys=True)
    if augment is not True:
        raise UserError(f"augment is {augment!r}: choose true, false or turns.")
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
