"""UNet++: MONAI's network with one output and without what only deep supervision would use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import BasicUNetPlusPlus
from torch import nn

from medkd.networks.sizes import crop_like, pad_to_multiple


class UNetPlusPlus(BasicUNetPlusPlus):
    """2-D UNet++ with batch norm and ReLU, segmented by its last node alone.

    MONAI's network with 1 channel in and 2 classes counts 36,450,632 parameters; 390 of them are the three heads of
    deep supervision, which are never trained without it and are left out here: 36,450,242. The code of EMKD, which
    upsamples bilinearly where MONAI has transposed convolutions, counts 36,628,546. EMKD and its followers print
    20.6 M, but the multiply-adds beside that figure (310 G at 384x384) are those of the network of 36.6 M; this one has
    294 G.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 16 and the logits are cropped
    back.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        features: channels of the five encoder levels and, last, of the map before the head.

    Reference: Zhou et al. 2018, arXiv 1807.10165; Zhou et al. 2019, arXiv 1912.05074.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        features: Sequence[int] = (64, 128, 256, 512, 1024, 64),
    ) -> None:
        super().__init__(2, in_channels, out_channels, features, act="relu", norm="batch")
        # MONAI's forward pass calls the heads of deep supervision even where their results are not returned.
        self.final_conv_0_1 = nn.Identity()
        self.final_conv_0_2 = nn.Identity()
        self.final_conv_0_3 = nn.Identity()

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path; ``encoder`` is the map after the 2nd pool."""
        return {"encoder": "conv_2_0.max_pooling", "bottleneck": "conv_4_0", "decoder": "upcat_0_4"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        return crop_like(super().forward(pad_to_multiple(x, 16))[0], x)
