"""A student of the size of S1 that sees the whole slice: a deep U-Net of depthwise separable convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple


class SeparableBlock(nn.Module):
    """Depthwise convolution, pointwise convolution, batch norm, ReLU; where the channels stay, its input is added.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        kernel_size: of the depthwise convolution, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.residual = in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the size of ``x``, ``(B, in_channels, H, W)``."""
        y = F.relu(self.norm(self.pointwise(self.depthwise(x))))
        return x + y if self.residual else y


class TinyUNet(nn.Module):
    """U-Net of depthwise separable 5x5 convolutions, deep and narrow; returns raw logits.

    S1 spends its parameters on full 3x3 convolutions and sees about 20 pixels. Separable ones cost a fifth, so that
    the same number of parameters reaches down to where a 5x5 kernel spans a slice of 128 pixels. The full resolution,
    where most of the time goes, has one full convolution on either side and few channels.

    Unlike in the reference, norm and ReLU come once a block, behind the pointwise convolution.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of ``2 ** levels`` and the logits
    are cropped back.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: channels at full resolution, of each level below and, last, of the bottleneck.
        kernel_size: of the depthwise convolutions, odd.

    Raises:
        UserError: fewer than two levels of channels, or an even kernel.

    Reference: Howard et al. 2017, arXiv 1704.04861, for the convolutions; Ronneberger et al. 2015, arXiv 1505.04597.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (8, 16, 32, 40, 48, 48),
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise UserError(f"channels={list(channels)} describes no level: give two numbers or more, such as 8 16 32.")
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size={kernel_size} would shift the map: give an odd number.")
        self.multiple = 2 ** (len(channels) - 1)
        steps = list(pairwise(channels))
        self.stem = _full_block(in_channels, channels[0])
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(_separable_blocks(high, low, kernel_size) for high, low in steps)
        self.projections = nn.ModuleList(nn.Conv2d(low, high, 1, bias=False) for high, low in reversed(steps))
        self.decoder = nn.ModuleList(_separable_blocks(2 * high, high, kernel_size) for high, _ in reversed(steps[1:]))
        self.decoder.append(_full_block(2 * channels[0], channels[0]))
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path."""
        return {
            "encoder": "encoder.0" if len(self.encoder) > 1 else "stem",
            "bottleneck": f"encoder.{len(self.encoder) - 1}",
            "decoder": f"decoder.{len(self.decoder) - 1}",
        }

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Segment ``image`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        x = self.stem(pad_to_multiple(image, self.multiple))
        skips = []
        for level in self.encoder:
            skips.append(x)
            x = level(self.pool(x))
        for index, (project, level) in enumerate(zip(self.projections, self.decoder, strict=True)):
            # Projected before it grows, which is a quarter of the work.
            above = F.interpolate(project(x), scale_factor=2.0, mode="nearest")
            x = level(torch.cat([above, skips[-1 - index]], dim=1))
        return crop_like(self.head(x), image)


def _full_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


def _separable_blocks(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        SeparableBlock(in_channels, out_channels, kernel_size), SeparableBlock(out_channels, out_channels, kernel_size)
    )
