"""Figures on masks and reconstructions."""

from __future__ import annotations

from medkd.metrics.discrete import labels_from_logits
from medkd.metrics.overlap import OverlapCounts
from medkd.metrics.reconstruction import psnr

__all__ = ["OverlapCounts", "labels_from_logits", "psnr"]
