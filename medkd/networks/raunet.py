"""RAUNet, a teacher of EMKD and PNCD: a ResNet-34 encoder and a light decoder with attention on its skips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medkd.networks.pspnet import PooledBatchNorm
from medkd.networks.resnet_segmenter import ResidualEncoder
from medkd.networks.sizes import crop_like, pad_to_multiple


class AugmentedAttention(nn.Module):
    """Add a skip to the decoder's map, its channels weighted by what the whole of both maps holds.

    ``w = softmax_c(conv(relu(bn(conv(mean(high)))) + relu(bn(conv(mean(low))))))`` over the channels, and the result is
    ``high + w * relu(bn(conv(low)))``; all convolutions are 1x1.

    Args:
        channels: of both maps.

    Reference: Ni et al. 2019, arXiv 1909.10360, section 2, and its published code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.high = nn.Sequential(nn.Conv2d(channels, channels, 1), PooledBatchNorm(channels), nn.ReLU())
        self.low = nn.Sequential(nn.Conv2d(channels, channels, 1), PooledBatchNorm(channels), nn.ReLU())
        self.weigh = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Softmax(dim=1))
        self.skip = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """Join the decoder's map ``high`` and the skip ``low``, both ``(B, channels, H, W)``, to one of their shape."""
        pooled_high, pooled_low = high.mean((2, 3), keepdim=True), low.mean((2, 3), keepdim=True)
        weight = self.weigh(self.high(pooled_high) + self.low(pooled_low))
        return high + weight * self.skip(low)


class UpBlock(nn.Sequential):
    """LinkNet's decoder block: narrow to a quarter, double the size, widen; batch norm and ReLU after each.

    Args:
        in_channels: channels of the input, divisible by 4.
        out_channels: channels of the output, of twice the size.

    Reference: Chaurasia and Culurciello 2017, arXiv 1707.03718, Figure 3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        middle = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, middle, kernel_size=1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.ConvTranspose2d(middle, middle, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, out_channels, kernel_size=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class RAUNet(nn.Module):
    """RAUNet: ResNet-34, LinkNet's decoder, augmented attention in place of plain skips; returns raw logits.

    EMKD and PNCD call it RA-UNet and cite Jin et al. 2020, a 3-D network of another structure; what the published code
    of EMKD builds is this one. Any input size is accepted: it is zero-padded at the far end to the next multiple of 32
    and the logits are cropped back. It has 22,143,394 parameters with 3 channels in and 2 classes. The published code
    repeats a one-channel image to three channels, here the first convolution takes ``in_channels``; it also returns
    log-probabilities where there are several classes, here they are logits.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: channels of the four encoder stages, each divisible by 4.

    Reference: Ni et al. 2019, arXiv 1909.10360, section 2; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, channels: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        first, second, third, fourth = channels
        narrow = first // 2
        self.encoder = ResidualEncoder(in_channels, channels, blocks=(3, 4, 6, 3))
        self.decoder4 = UpBlock(fourth, third)
        self.attention3 = AugmentedAttention(third)
        self.decoder3 = UpBlock(third, second)
        self.attention2 = AugmentedAttention(second)
        self.decoder2 = UpBlock(second, first)
        self.attention1 = AugmentedAttention(first)
        self.decoder1 = UpBlock(first, first)
        # From h / 2: the transposed convolution gives h + 1, the 3x3 convolution h - 1, the 2x2 convolution h.
        self.head = nn.Sequential(
            nn.ConvTranspose2d(first, narrow, kernel_size=3, stride=2),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, kernel_size=3),
            nn.ReLU(),
            nn.Conv2d(narrow, out_channels, kernel_size=2, padding=1),
        )

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/32 and 1/2 of the input's size."""
        return {"encoder": "encoder.layer1", "bottleneck": "encoder.layer4", "decoder": "decoder1"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        fine, middle, coarse, deep = self.encoder(pad_to_multiple(x, 32))
        up = self.attention3(self.decoder4(deep), coarse)
        up = self.attention2(self.decoder3(up), middle)
        up = self.attention1(self.decoder2(up), fine)
        return crop_like(self.head(self.decoder1(up)), x)
