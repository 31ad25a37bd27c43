"""Trainers, feature taps and trained models on disk."""

from __future__ import annotations

from medkd.engines.cached_teacher import CachedTeacher
from medkd.engines.distillation import DistillationTrainer
from medkd.engines.frozen_teacher import FrozenTeacher
from medkd.engines.multitask import PrepareMultiTaskBatch
from medkd.engines.precision import AutocastInferer, mixed_precision_pays
from medkd.engines.saved_model import (
    SavedModel,
    load_model,
    load_teacher,
    run_split_file,
    saved_network,
    trained_or_shipped,
)
from medkd.engines.schedule import learning_rate_schedule
from medkd.engines.setup import prepare_network
from medkd.engines.taps import FeatureTaps, find_tap, tap_channels
from medkd.engines.teacher_cache import TeacherCache

__all__ = [
    "AutocastInferer",
    "CachedTeacher",
    "DistillationTrainer",
    "FeatureTaps",
    "FrozenTeacher",
    "PrepareMultiTaskBatch",
    "SavedModel",
    "TeacherCache",
    "find_tap",
    "learning_rate_schedule",
    "load_model",
    "load_teacher",
    "mixed_precision_pays",
    "prepare_network",
    "run_split_file",
    "saved_network",
    "tap_channels",
    "trained_or_shipped",
]
