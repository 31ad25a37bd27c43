"""DeepLabV3+, a teacher of EMKD: dilated Xception-65, dilated convolutions side by side, a decoder with one skip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from medkd.networks.pspnet import PooledContext, conv_unit
from medkd.networks.sizes import crop_like, pad_to_multiple
from medkd.networks.xception import Xception65

XCEPTION_CHANNELS = (32, 64, 128, 256, 728, 1024, 1536, 2048)
RATES = (12, 24, 36)
SKIP_CHANNELS = 48


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 and three dilated 3x3 convolutions beside the mean of the whole map.

    Args:
        in_channels: channels of the map.
        out_channels: channels of each of the five branches and of the result.

    Reference: Chen et al. 2017, arXiv 1706.05587, Figure 5, with the rates of output stride 8.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_unit(in_channels, out_channels, 1)])
        self.branches.extend(conv_unit(in_channels, out_channels, 3, dilation=rate) for rate in RATES)
        self.branches.append(PooledContext(in_channels, out_channels, bins=1))
        self.project = conv_unit(len(self.branches) * out_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return self.project(torch.cat([branch(x) for branch in self.branches], dim=1))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ on Xception-65 with output stride 8; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 8 and the logits are cropped
    back. The published code of EMKD, followed here, reduces the skip by a 3x3 convolution where the paper has a 1x1,
    and uses full convolutions in pyramid and decoder where the paper's best has separable ones.

    It has 54,746,962 parameters with 1 channel in and 2 classes. The published code has 56,795,962: it builds the
    classifier of image recognition, of 2,049,000 parameters, and never calls it; here it is left out.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        backbone_channels: of the parts of :class:`~medkd.networks.xception.Xception65`.
        decoder_channels: channels of the pyramid and the decoder.

    Reference: Chen et al. 2018, arXiv 1802.02611, Figure 2; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        backbone_channels: Sequence[int] = XCEPTION_CHANNELS,
        decoder_channels: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = Xception65(in_channels, backbone_channels)
        self.pyramid = nn.Sequential(AtrousPyramid(backbone_channels[-1], decoder_channels), nn.Dropout(0.5))
        self.skip = conv_unit(backbone_channels[2], SKIP_CHANNELS, 3)
        self.decoder = nn.Sequential(
            conv_unit(decoder_channels + SKIP_CHANNELS, decoder_channels, 3),
            nn.Dropout(0.5),
            conv_unit(decoder_channels, decoder_channels, 3),
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Conv2d(decoder_channels, out_channels, kernel_size=1)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/8 and 1/4 of the input's size."""
        return {"encoder": "backbone.low", "bottleneck": "backbone.exit", "decoder": "decoder"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        low, deep = self.backbone(pad_to_multiple(x, 8))
        context = F.interpolate(self.pyramid(deep), low.shape[2:], mode="bilinear", align_corners=True)
        features = self.decoder(torch.cat([context, self.skip(low)], dim=1))
        logits = self.head(self.dropout(features))
        return crop_like(F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=True), x)
