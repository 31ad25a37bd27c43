"""Figures on masks and reconstructions, and what chance allows to say about them."""

from __future__ import annotations

from medkd.metrics.discrete import labels_from_logits
from medkd.metrics.overlap import OverlapCounts
from medkd.metrics.reconstruction import psnr
from medkd.metrics.statistics import PairedDifference, holm, one_way_anova, paired_difference, smallest_p

__all__ = [
    "OverlapCounts",
    "PairedDifference",
    "holm",
    "labels_from_logits",
    "one_way_anova",
    "paired_difference",
    "psnr",
    "smallest_p",
]
