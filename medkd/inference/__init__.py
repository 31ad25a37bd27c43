"""Trained models at work: masks, measurements, evaluation."""

from __future__ import annotations

from medkd.inference.evaluation import evaluate, format_evaluation
from medkd.inference.files import mask_path, segment_files
from medkd.inference.segmenter import Segmentation, Segmenter

__all__ = ["Segmentation", "Segmenter", "evaluate", "format_evaluation", "mask_path", "segment_files"]
