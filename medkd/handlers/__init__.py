"""What hangs on a trainer."""

from __future__ import annotations

from medkd.handlers.checkpoint import RunCheckpointHandler
from medkd.handlers.distillation import DistillationHandler
from medkd.handlers.history import HistoryHandler
from medkd.handlers.mixed_slices import MixedSlicesHandler
from medkd.handlers.progress import ProgressHandler
from medkd.handlers.seed import EpochSeedHandler, seed_worker
from medkd.handlers.validation import LastEpochValidationHandler

__all__ = [
    "DistillationHandler",
    "EpochSeedHandler",
    "HistoryHandler",
    "LastEpochValidationHandler",
    "MixedSlicesHandler",
    "ProgressHandler",
    "RunCheckpointHandler",
    "seed_worker",
]
