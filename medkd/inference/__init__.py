"""Trained models at work: masks, measurements, evaluation."""

from __future__ import annotations

from medkd.inference.evaluation import evaluate, format_evaluation
from medkd.inference.files import mask_path, scan_files, scan_items, segment_files
from medkd.inference.segmenter import Segmentation, Segmenter, save_mask
from medkd.inference.transforms import LabelScanGridd, PrepareScand, SaveMaskd

__all__ = [
    "LabelScanGridd",
    "PrepareScand",
    "SaveMaskd",
    "Segmentation",
    "Segmenter",
    "evaluate",
    "format_evaluation",
    "mask_path",
    "save_mask",
    "scan_files",
    "scan_items",
    "segment_files",
]
