"""How well an exported network agrees with the trained one on real slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from medkd.data.decathlon import Case
from medkd.data.nifti import read_image
from medkd.data.slices import scan_channels
from medkd.engines.saved_model import SavedModel
from medkd.errors import UserError
from medkd.metrics import OverlapCounts, labels_from_logits

# Rounding may turn a few pixels on the edge of a mask; more than that is another network.
THRESHOLD = 0.999
MOST_VOLUMES = 3
SLICES_AT_A_TIME = 16

Predictor = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Agreement:
    """What two networks have in common.

    Attributes:
        dice: of their masks, by label name, over all slices together.
        logit_difference: the largest, over all pixels and channels.
        slices: how many were compared.
        volumes: how many they came from.
        unseen: labels that prove nothing and have no Dice: neither network shows them, or the trained one shows nothing
            else.
    """

    dice: dict[str, float]
    logit_difference: float
    slices: int
    volumes: int
    unseen: tuple[str, ...] = ()

    @property
    def lowest_dice(self) -> float:
        """Dice of the label that agrees least."""
        return min(self.dice.values())

    def __str__(self) -> str:
        """All figures in one line."""
        dice = ", ".join(
            [f"{name} {value:.4f}" for name, value in self.dice.items()] + [f"{name} not seen" for name in self.unseen]
        )
        return (
            f"Dice of the masks {dice}, largest difference of the logits {self.logit_difference:.2g}, "
            f"{self.slices} slices of {self.volumes} volumes"
        )


def compare(reference: Predictor, exported: Predictor, model: SavedModel, cases: Sequence[Case]) -> Agreement:
    """Run two networks over every slice of the first cases, three at most.

    Args:
        reference: takes slices ``(B, C, size, size)``, returns logits ``(B, classes, size, size)``.
        exported: the same, as its user would run it.
        model: gives the pre-processing and the labels.
        cases: their labels are not needed.

    Raises:
        UserError: an image cannot be used, or no label is seen.
    """
    counts = {name: OverlapCounts() for value, name in model.labels.items() if value}
    difference = torch.zeros(())
    slices = voxels = 0
    cases = cases[:MOST_VOLUMES]
    for case in cases:
        for batch in _slices(case, model).split(SLICES_AT_A_TIME):
            with torch.inference_mode():
                logits, others = reference(batch), exported(batch)
            # NaN spreads through torch.maximum, it would be lost in Python's max.
            difference = torch.maximum(difference, (logits - others).abs().max())
            mask, other = (labels_from_logits(part.transpose(0, 1)).numpy() for part in (logits, others))
            for value, name in model.labels.items():
                if value:
                    counts[name] += OverlapCounts.of(other == value, mask == value)
            slices += len(batch)
            voxels += mask.size
    dice = {
        name: count.dice
        for name, count in counts.items()
        if count != OverlapCounts() and count.true_positive + count.false_negative < voxels
    }
    if not dice:
        raise UserError(
            f"the network finds none of {', '.join(counts)} on {slices} slices, or nothing else, which proves nothing "
            "about the export: give --data with scans that show it, or train the network longer."
        )
    unseen = tuple(name for name in counts if name not in dice)
    return Agreement(dice, float(difference), slices, len(cases), unseen)


def _slices(case: Case, model: SavedModel) -> torch.Tensor:
    """All slices of a case as the network sees them, ``(Z, C, size, size)``."""
    prepared = model.preprocessing.apply(read_image(case.image))
    return scan_channels(prepared, model.preprocessing.channels).permute(3, 0, 1, 2).contiguous()
