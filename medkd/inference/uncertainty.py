"""How unsure a network is of what it found."""

from __future__ import annotations

import numpy as np


class Uncertainty:
    """The mean entropy of the network's probabilities over the pixels of each label, slice by slice.

    It is 0 where the network is certain and 1 where all classes are equally likely to it (entropy over its largest
    value). It tells nothing of errors the network is sure of. Measured on the grid of the network, before
    post-processing.

    Args:
        labels: value to name, the background 0 with it.
    """

    def __init__(self, labels: dict[int, str]) -> None:
        self._labels = {value: name for value, name in labels.items() if value}
        self._sums = dict.fromkeys(self._labels, 0.0)
        self._counts = dict.fromkeys(self._labels, 0)

    def add(self, logits: np.ndarray) -> None:
        """Take in logits ``(B, C, size, size)``; one channel says foreground above 0, more are classes."""
        if logits.shape[1] == 1:
            found = logits[:, 0] > 0
            # The logit of the background is 0 where there is one channel.
            classes = np.stack([np.zeros(int(found.sum()), np.float32), logits[:, 0][found]])
            values = np.ones(classes.shape[1], int)
        else:
            largest = logits.argmax(axis=1)
            found = largest > 0
            classes, values = np.moveaxis(logits, 1, 0)[:, found], largest[found]
        unsure = _entropy(classes)
        for value in self._labels:
            self._sums[value] += float(unsure[values == value].sum())
            self._counts[value] += int((values == value).sum())

    def figures(self) -> dict[str, float | None]:
        """Label to its mean entropy; None where nothing was found."""
        return {
            name: round(self._sums[value] / self._counts[value], 4) if self._counts[value] else None
            for value, name in self._labels.items()
        }


def _entropy(logits: np.ndarray) -> np.ndarray:
    """Of the softmax over the first axis, divided by its largest value."""
    shifted = logits.astype(np.float64) - logits.max(axis=0)
    weights = np.exp(shifted)
    total = weights.sum(axis=0)
    # -sum p log p, where log p = shifted - log(total).
    entropy = np.log(total) - (weights * shifted).sum(axis=0) / total
    return np.asarray(entropy / np.log(len(logits)))
