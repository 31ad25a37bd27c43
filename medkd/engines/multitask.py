"""What MONAI's trainer needs to train a multi-task teacher in one forward pass per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from torch import nn

from medkd.networks import reconstructs


class PrepareMultiTaskBatch(PrepareBatch):
    """Makes image and label the target, and asks a network that can for the reconstruction too.

    Args:
        network: that will be trained.
    """

    def __init__(self, network: nn.Module) -> None:
        self.arguments = {"reconstruct": True} if reconstructs(network) else {}

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[()], dict[str, Any]]:
        target = {
            key: batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs)
            for key in ("image", "label")
            if key in batchdata
        }
        return target["image"], target, (), dict(self.arguments)
