"""ResNet-18 as a segmenter, a student of EMKD and PNCD: the residual encoder, a 1x1 head, bilinear upsampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.resnet import ResNet
from torch import nn
from torch.nn import functional as F

from medkd.networks.sizes import crop_like, pad_to_multiple


class ResidualEncoder(ResNet):
    """MONAI's 2-D ResNet of basic blocks without its classifier, laid out as He et al. print it.

    Args:
        in_channels: channels of the image.
        channels: channels of the four stages; the stem has those of the first.
        blocks: residual blocks of the four stages.

    Reference: He et al. 2016, arXiv 1512.03385, Table 1.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__(
            "basic",
            list(blocks),
            list(channels),
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            shortcut_type="B",
            bias_downsample=False,
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        """The maps of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the image ``(B, in_channels, H, W)``."""
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        fine = self.layer1(x)
        middle = self.layer2(fine)
        coarse = self.layer3(middle)
        return [fine, middle, coarse, self.layer4(coarse)]


class ResNet18(nn.Module):
    """ResNet-18 whose last map is scored by a 1x1 convolution and enlarged 32 times; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 32 and the logits are cropped
    back. It has 11,177,538 parameters with 3 channels in and 2 classes; the published code repeats a one-channel image
    to three channels, here the first convolution takes ``in_channels``.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: channels of the four stages.

    Reference: He et al. 2016, arXiv 1512.03385; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, channels: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        self.encoder = ResidualEncoder(in_channels, channels, blocks=(2, 2, 2, 2))
        self.head = nn.Conv2d(channels[-1], out_channels, kernel_size=1)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/32 and 1/32 of the input's size.

        There is no decoder; its place is taken by the last block, whose map the head reads.
        """
        return {"encoder": "encoder.layer1", "bottleneck": "encoder.layer4.0", "decoder": "encoder.layer4.1"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        logits = self.head(self.encoder(pad_to_multiple(x, 32))[-1])
        return crop_like(F.interpolate(logits, scale_factor=32.0, mode="bilinear", align_corners=True), x)
