"""A split by slices, as MTMS-KD publishes, to show what it hides: the test patients have slices in the training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import numpy as np

from medkd.data.slices import SliceDataset, SliceVolume
from medkd.errors import UserError


def held_out_slices(name: str, count: int, share: float = 0.2, seed: int = 0) -> np.ndarray:
    """Which axial slices of a volume are left out of the training and tested on.

    The draw is random and depends on the arguments alone, so training and evaluation draw the same.

    Args:
        name: of the case.
        count: its number of axial slices.
        share: to leave out, above 0 and below 1; at least one slice is.
        seed: of the draw.

    Returns:
        ``(count,)`` bool from inferior to superior (the rows of :class:`~medkd.data.slices.SliceVolume`), true for the
        slices left out.

    Raises:
        UserError: the volume has no slice, or the share is out of range.
    """
    if count < 1 or not 0 < share < 1:
        raise UserError(f"no share of {share} can be left out of {count} slices: give 0.2 of one slice or more.")
    digest = hashlib.sha256(f"{name}|{count}|{share}|{seed}".encode()).digest()
    # RandomState, because numpy guarantees its stream for good and that of newer generators not.
    order = np.random.RandomState(np.frombuffer(digest, "<u4")).permutation(count)
    held_out = np.zeros(count, dtype=bool)
    held_out[order[: max(1, round(share * count))]] = True
    return held_out


class SliceSplitDataset(SliceDataset):
    """The slices of some volumes without those of :func:`held_out_slices`, on which the same patients are tested.

    With ``channels="neighbours"`` the split leaks once more: the neighbours of a slice that is tested on were trained
    on, and those of a training slice show held-out slices to the network, without their label. A split by slices of
    images that were stacked beforehand does the same.

    Args:
        volumes: prepared cases.
        channels: as for :class:`~medkd.data.slices.SliceDataset`.
        transform: likewise.

    Reference:
        Biswas 2024, arXiv 2406.03173: 2920 slices for training, 730 of the same patients for the test.
    """

    def __init__(
        self,
        volumes: Sequence[SliceVolume],
        channels: str = "neighbours",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(volumes, channels, transform)
        self.kept = ~np.concatenate([held_out_slices(volume.name, len(volume.image)) for volume in self.volumes])
        self.index = list(compress(self.index, self.kept))

    def foreground(self) -> np.ndarray:
        """As for :class:`~medkd.data.slices.SliceDataset`, of the slices that are left."""
        return super().foreground()[self.kept]
