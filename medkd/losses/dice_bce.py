"""The segmentation loss of teachers and students: Dice plus cross entropy."""

from __future__ import annotations

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.maps import at_least_float32, full_precision

# One voxel's worth: the Dice of a batch without the organ is then not flat at 1, it falls as the last false positives
# go, and it is 0 when none is left. Beside an organ of thousands of voxels, one more changes nothing.
_SMOOTHING = 1.0


class DiceBCELoss(nn.Module):
    """Weighted sum of soft Dice and cross entropy for binary and multi-class logits.

    One logit: sigmoid Dice and binary cross entropy. More: softmax Dice, averaged over all classes with the background,
    and categorical cross entropy.

    Dice is pooled over the batch: ``1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)``, with the sums over all samples.
    Most slices of an abdominal scan do not hold the organ, and the Dice of such a slice alone is flat near 1 whatever
    the network predicts there; pooled, its false positives weigh as much as those of any other slice. It stays finite
    when a class, or all foreground, is absent.

    Args:
        dice_weight: weight of the Dice term; 0 leaves it out.
        bce_weight: weight of the cross entropy term; 0 leaves it out (the student's loss of MTMS-KD).

    Raises:
        UserError: a weight is negative, or both are 0.

    Reference:
        Biswas 2024, arXiv 2406.03173, teacher loss ``DiceBCE(seg) + lambda_rec MSE(rec, x)`` and student loss Dice;
        Milletari et al. 2016, "V-Net".
    """

    def __init__(self, dice_weight: float = 1.0, bce_weight: float = 1.0) -> None:
        super().__init__()
        if min(dice_weight, bce_weight) < 0 or dice_weight + bce_weight == 0:
            raise UserError(
                f"dice_weight={dice_weight} and bce_weight={bce_weight} leave nothing to minimise: "
                "give weights of 0 or more, at least one of them positive."
            )
        self.dice_weight = dice_weight
        self.bce_weight = bce_weight
        self.binary_dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=_SMOOTHING, smooth_dr=_SMOOTHING)
        self.multiclass_dice = DiceLoss(
            softmax=True, to_onehot_y=True, batch=True, smooth_nr=_SMOOTHING, smooth_dr=_SMOOTHING
        )

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compare logits with class indices.

        Args:
            logits: ``(B, C, *spatial)``, before sigmoid or softmax.
            label: class indices ``(B, 1, *spatial)``, integer or float; 0 or 1 where ``C == 1``, else 0 to ``C - 1``.

        Returns:
            the loss, a scalar in float32 or wider (a sum over voxels does not fit float16).

        Raises:
            UserError: the shapes do not match, or the label holds a class the logits do not have.
        """
        _check(logits, label)
        logits = at_least_float32(logits)
        binary = logits.shape[1] == 1
        loss = logits.new_zeros(())
        with full_precision(logits.device):
            if self.dice_weight > 0:
                dice = self.binary_dice if binary else self.multiclass_dice
                loss = loss + self.dice_weight * dice(logits, label)
            if self.bce_weight > 0:
                if binary:
                    entropy = F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))
                else:
                    entropy = F.cross_entropy(logits, label.squeeze(1).long())
                loss = loss + self.bce_weight * entropy
        return loss


def _check(logits: Tensor, label: Tensor) -> None:
    if label.shape != (logits.shape[0], 1, *logits.shape[2:]):
        raise UserError(
            f"label has shape {tuple(label.shape)} and the logits {tuple(logits.shape)}: "
            "give class indices of shape (B, 1, *spatial) at the size of the logits."
        )
    highest = max(logits.shape[1] - 1, 1)
    lowest_found, highest_found = label.min().item(), label.max().item()
    if lowest_found < 0 or highest_found > highest:
        raise UserError(
            f"label holds classes {lowest_found:g} to {highest_found:g} but {logits.shape[1]} logit(s) know 0 to "
            f"{highest}: merge the classes of the label or give the network more outputs."
        )
