"""How well a mask overlaps the truth: counts that add up over slices or volumes, and the figures made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OverlapCounts:
    """Voxels that prediction and truth share or not; counts of several volumes are pooled by adding them.

    Where truth and prediction are both empty all figures are 1; a figure whose denominator is 0 otherwise is 0.

    Attributes:
        true_positive: in both.
        false_positive: in the prediction only.
        false_negative: in the truth only.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0

    @classmethod
    def of(cls, prediction: np.ndarray, truth: np.ndarray) -> OverlapCounts:
        """Count two boolean arrays of one shape."""
        shared = int(np.count_nonzero(prediction & truth))
        return cls(shared, int(np.count_nonzero(prediction)) - shared, int(np.count_nonzero(truth)) - shared)

    def __add__(self, other: OverlapCounts) -> OverlapCounts:
        return OverlapCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
        )

    @property
    def dice(self) -> float:
        """``2 TP / (2 TP + FP + FN)``."""
        return self._ratio(2 * self.true_positive, self.false_positive + self.false_negative)

    @property
    def iou(self) -> float:
        """``TP / (TP + FP + FN)``."""
        return self._ratio(self.true_positive, self.false_positive + self.false_negative)

    @property
    def precision(self) -> float:
        """``TP / (TP + FP)``."""
        return self._ratio(self.true_positive, self.false_positive)

    @property
    def recall(self) -> float:
        """``TP / (TP + FN)``."""
        return self._ratio(self.true_positive, self.false_negative)

    def figures(self) -> dict[str, float]:
        """Dice, IoU, precision and recall."""
        return {"dice": self.dice, "iou": self.iou, "precision": self.precision, "recall": self.recall}

    def _ratio(self, agreed: int, wrong: int) -> float:
        if agreed + wrong > 0:
            return agreed / (agreed + wrong)
        return 1.0 if self.false_positive + self.false_negative == 0 else 0.0
