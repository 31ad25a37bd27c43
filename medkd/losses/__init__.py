"""Losses: modules on tensors, one idea per file."""

from __future__ import annotations

from medkd.losses.contrastive_feature import ContrastiveFeatureLoss
from medkd.losses.dice_bce import DiceBCELoss
from medkd.losses.feature_mse import FeatureMSELoss
from medkd.losses.info_nce import InfoNCELoss
from medkd.losses.multi_task import MultiTaskLoss
from medkd.losses.prediction_map import PredictionMapLoss

__all__ = [
    "ContrastiveFeatureLoss",
    "DiceBCELoss",
    "FeatureMSELoss",
    "InfoNCELoss",
    "MultiTaskLoss",
    "PredictionMapLoss",
]
