"""UNet++: MONAI's network with one output and without what only deep supervision would use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import BasicUNetPlusPlus

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
        del self.final_conv_0_1, self.final_conv_0_2, self.final_conv_0_3

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path; ``encoder`` is the map after the 2nd pool."""
        return {"encoder": "conv_2_0.max_pooling", "bottleneck": "conv_4_0", "decoder": "upcat_0_4"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        # Written out: MONAI's forward pass runs the heads left out here, and TorchScript knows no super().
        full = [self.conv_0_0(pad_to_multiple(x, 16))]

        half = [self.conv_1_0(full[0])]
        full.append(self.upcat_0_1(half[0], full[0]))

        quarter = [self.conv_2_0(half[0])]
        half.append(self.upcat_1_1(quarter[0], half[0]))
        full.append(self.upcat_0_2(half[1], torch.cat(full, dim=1)))

        eighth = [self.conv_3_0(quarter[0])]
        quarter.append(self.upcat_2_1(eighth[0], quarter[0]))
        half.append(self.upcat_1_2(quarter[1], torch.cat(half, dim=1)))
        full.append(self.upcat_0_3(half[2], torch.cat(full, dim=1)))

        deepest = self.conv_4_0(eighth[0])
        eighth.append(self.upcat_3_1(deepest, eighth[0]))
        quarter.append(self.upcat_2_2(eighth[1], torch.cat(quarter, dim=1)))
        half.append(self.upcat_1_3(quarter[2], torch.cat(half, dim=1)))
        full.append(self.upcat_0_4(half[3], torch.cat(full, dim=1)))

        return crop_like(self.final_conv_0_4(full[-1]), x)
