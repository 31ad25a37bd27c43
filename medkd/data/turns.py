"""Flips and quarter turns of slices: the augmentation that what is known of a slice can follow exactly."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from medkd.errors import UserError

TURNS = 8


class RandTurnd(RandomizableTransform, MapTransform):
    """Turns a slice at random by 0 to 3 quarter turns, mirrored or not, and notes which of the 8 it was in ``turn``.

    Where the side of the body matters, as for the spleen, this asks more of a network than patients do.

    Args:
        keys: maps ``(C, N, N)`` that are turned alike.
        prob: of any turn at all.
        allow_missing_keys: whether an item may lack some of the keys.

    Raises:
        UserError: a map is not square.
    """

    def __init__(self, keys: KeysCollection, prob: float = 1.0, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.code = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the next turn."""
        super().randomize(None)
        code = int(self.R.randint(TURNS))
        self.code = code if self._do_transform else 0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn an item."""
        self.randomize()
        item = dict(data)
        for key in self.key_iterator(item):
            if item[key].shape[-1] != item[key].shape[-2]:
                raise UserError(f"a slice of {tuple(item[key].shape[-2:])} pixels cannot be turned: make it square.")
            item[key] = turn(item[key], self.code)
        item["turn"] = self.code
        return item


def turn(array: torch.Tensor, code: int) -> torch.Tensor:
    """Mirror the last axis if ``code`` is 4 or more, then rotate the last two axes by ``code % 4`` quarter turns."""
    mirrored = array.flip(-1) if code >= TURNS // 2 else array
    return mirrored.rot90(code % 4, (-2, -1))


def turn_back(array: torch.Tensor, code: int) -> torch.Tensor:
    """Undo :func:`turn`."""
    rotated = array.rot90(-(code % 4), (-2, -1))
    return rotated.flip(-1) if code >= TURNS // 2 else rotated
