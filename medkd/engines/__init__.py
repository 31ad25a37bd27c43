"""Trainers, feature taps and trained models on disk."""

from __future__ import annotations

from medkd.engines.distillation import DistillationTrainer
from medkd.engines.multitask import PrepareMultiTaskBatch
from medkd.engines.saved_model import SavedModel, load_model, load_teacher, run_split_file
from medkd.engines.schedule import learning_rate_schedule
from medkd.engines.setup import prepare_network
from medkd.engines.taps import FeatureTaps, find_tap, tap_channels

__all__ = [
    "DistillationTrainer",
    "FeatureTaps",
    "PrepareMultiTaskBatch",
    "SavedModel",
    "find_tap",
    "learning_rate_schedule",
    "load_model",
    "load_teacher",
    "prepare_network",
    "run_split_file",
    "tap_channels",
]
