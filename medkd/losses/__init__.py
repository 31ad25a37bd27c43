"""Losses: modules on tensors, one idea per file."""

from __future__ import annotations

from medkd.losses.as_published import FixedProjectorsLoss, OneChannelPredictionMapLoss, RedrawnProjectorsLoss
from medkd.losses.attention_transfer import AttentionTransferLoss
from medkd.losses.class_guided_contrastive import ClassGuidedContrastiveLoss, class_guided_contrastive
from medkd.losses.contrastive_feature import ContrastiveFeatureLoss
from medkd.losses.contrastive_representation import ContrastiveRepresentationLoss
from medkd.losses.dice_bce import DiceBCELoss
from medkd.losses.hint import HintLoss
from medkd.losses.holistic_adversarial import HolisticAdversarialLoss
from medkd.losses.importance_map import ImportanceMapLoss
from medkd.losses.info_nce import InfoNCELoss
from medkd.losses.intra_class_variation import IntraClassVariationLoss
from medkd.losses.local_consistency import LocalConsistencyLoss
from medkd.losses.multi_task import MultiTaskLoss
from medkd.losses.pairwise_affinity import PairwiseAffinityLoss
from medkd.losses.pixelwise_soft_target import PixelwiseSoftTargetLoss
from medkd.losses.prediction_map import PredictionMapLoss
from medkd.losses.region_affinity import RegionAffinityLoss
from medkd.losses.similarity_preserving import SimilarityPreservingLoss

# What the thesis calls the hint of FitNets.
FeatureMSELoss = HintLoss

__all__ = [
    "AttentionTransferLoss",
    "ClassGuidedContrastiveLoss",
    "ContrastiveFeatureLoss",
    "ContrastiveRepresentationLoss",
    "DiceBCELoss",
    "FeatureMSELoss",
    "FixedProjectorsLoss",
    "HintLoss",
    "HolisticAdversarialLoss",
    "ImportanceMapLoss",
    "InfoNCELoss",
    "IntraClassVariationLoss",
    "LocalConsistencyLoss",
    "MultiTaskLoss",
    "OneChannelPredictionMapLoss",
    "PairwiseAffinityLoss",
    "PixelwiseSoftTargetLoss",
    "PredictionMapLoss",
    "RedrawnProjectorsLoss",
    "RegionAffinityLoss",
    "SimilarityPreservingLoss",
    "class_guided_contrastive",
]
