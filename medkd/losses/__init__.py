"""Losses: modules on tensors, one idea per file."""

from __future__ import annotations

from medkd.losses.contrastive_feature import ContrastiveFeatureLoss
from medkd.losses.dice_bce import DiceBCELoss
from medkd.losses.hint import HintLoss
from medkd.losses.info_nce import InfoNCELoss
from medkd.losses.multi_task import MultiTaskLoss
from medkd.losses.prediction_map import PredictionMapLoss

# What the thesis calls the hint of FitNets.
FeatureMSELoss = HintLoss

__all__ = [
    "ContrastiveFeatureLoss",
    "DiceBCELoss",
    "FeatureMSELoss",
    "HintLoss",
    "InfoNCELoss",
    "MultiTaskLoss",
    "PredictionMapLoss",
]
