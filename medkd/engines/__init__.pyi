from .cached_teacher import CachedTeacher
from .distillation import DistillationTrainer
from .frozen_teacher import FrozenTeacher
from .label_volumes import label_volumes
from .multitask import PrepareMultiTaskBatch
from .precision import AutocastInferer, mixed_precision_pays
from .saved_model import (
    SavedModel,
    load_model,
    load_teacher,
    run_split_file,
    saved_network,
    trained_or_shipped,
)
from .schedule import learning_rate_schedule
from .setup import prepare_network
from .taps import FeatureTaps, find_tap, tap_channels
from .teacher_cache import TeacherCache
from .weight_average import average_models

__all__ = [
    "AutocastInferer",
    "CachedTeacher",
    "DistillationTrainer",
    "FeatureTaps",
    "FrozenTeacher",
    "PrepareMultiTaskBatch",
    "SavedModel",
    "TeacherCache",
    "average_models",
    "find_tap",
    "label_volumes",
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
