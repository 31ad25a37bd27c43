"""DCSAU-Net: a U-Net of residual split-attention blocks behind one block that conserves the primary features."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple


class PrimaryFeatures(nn.Module):
    """The PFC block: 7x7 convolution, then a depthwise 7x7 with a residual and a 1x1; each with ReLU, batch norm.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the map.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.entry = self._layer(in_channels, out_channels, kernel_size=7)
        self.depthwise = self._layer(out_channels, out_channels, kernel_size=7, groups=out_channels)
        self.pointwise = self._layer(out_channels, out_channels, kernel_size=1)

    @staticmethod
    def _layer(in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups),
            nn.ReLU(inplace=True),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        x = self.entry(x)
        return self.pointwise(x + self.depthwise(x))


class SplitAttention(nn.Module):
    """Two branches, the second one convolution deeper, mixed per channel by weights found from their pooled sum.

    Args:
        channels: channels of input and output, an even number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 32)
        self.branches = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(inplace=True),
        )
        self.deepen = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, kernel_size=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 2 * channels, kernel_size=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, channels, H, W)`` to the same shape."""
        shallow, other = self.branches(x).chunk(2, dim=1)
        deep = self.deepen(shallow + other)
        weights = self.attention(shallow + deep).unflatten(1, (2, -1)).softmax(dim=1)
        return weights[:, 0] * shallow + weights[:, 1] * deep


class CSABlock(nn.Module):
    """Residual bottleneck of expansion 4 around a split attention.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map, a multiple of 8.
        smooth: average over 3x3 behind the attention.
    """

    def __init__(self, in_channels: int, out_channels: int, smooth: bool = False) -> None:
        super().__init__()
        width = out_channels // 4
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            SplitAttention(width),
            nn.AvgPool2d(kernel_size=3, stride=1, padding=1) if smooth else nn.Identity(),
            nn.Conv2d(width, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return self.relu(self.body(x) + self.shortcut(x))


class DCSAUNet(nn.Module):
    """DCSAU-Net: PFC block, four levels of two CSA blocks down and four up, bilinear upsampling; raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 16 and the logits are cropped
    back. The attention normalises one number per sample and channel over the batch, so it trains on two samples or
    more.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        width: channels at full resolution, a multiple of 8; the deepest map has eight times as many.

    Raises:
        UserError: ``width`` is not a multiple of 8.

    Reference:
        Xu et al. 2023, "DCSAU-Net: A deeper and more compact split-attention U-shape network for medical image
        segmentation", Computers in Biology and Medicine 154, arXiv 2202.00972. The official code counts 2,598,785
        parameters with 3 channels in and 1 out; papers that compare with it print 6.3 M. That code draws the
        convolutions of the CSA blocks from He's normal distribution, this network has PyTorch's default.
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, width: int = 64) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise UserError(f"width={width} cannot be split into the groups of the blocks: give a multiple of 8.")
        down = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        up = [4 * width, 2 * width, width, width]
        self.primary = PrimaryFeatures(in_channels, width)
        self.pools = nn.ModuleList(nn.MaxPool2d(kernel_size=2) for _ in down[1:])
        # The published blocks next to full resolution, the first and the last, do not smooth.
        self.encoder = nn.ModuleList(
            self._stage(source, target, smooth=level > 0) for level, (source, target) in enumerate(pairwise(down))
        )
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        # The map from below always has as many channels as the skip beside it.
        self.decoder = nn.ModuleList(
            self._stage(2 * skip, target, smooth=level < len(up) - 1)
            for level, (skip, target) in enumerate(zip(reversed(down[:-1]), up, strict=True))
        )
        self.head = nn.Conv2d(width, out_channels, kernel_size=1)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, smooth: bool) -> nn.Sequential:
        return nn.Sequential(CSABlock(in_channels, out_channels, smooth), CSABlock(out_channels, out_channels))

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path; ``encoder`` is the map after the 2nd pool."""
        return {"encoder": "pools.1", "bottleneck": "encoder.3", "decoder": "decoder.3"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        image = x
        x = self.primary(pad_to_multiple(x, 16))
        skips = []
        for pool, stage in zip(self.pools, self.encoder, strict=True):
            skips.append(x)
            x = stage(pool(x))
        for level, stage in enumerate(self.decoder):
            x = stage(torch.cat([skips[-1 - level], self.upsample(x)], dim=1))
        return crop_like(self.head(x), image)
