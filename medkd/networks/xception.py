"""Xception-65, the backbone of DeepLabV3+: residual blocks of separable convolutions, dilated to output stride 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from medkd.networks.pspnet import conv_unit

MIDDLE_BLOCKS = 16


def separable_conv(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A 3x3 convolution of each channel by itself, batch norm, a 1x1 convolution; no bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, dilation, dilation, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
    )


class XceptionBlock(nn.Module):
    """Three times (ReLU, separable convolution, batch norm), added to a shortcut.

    The shortcut is the input, or a 1x1 convolution with batch norm of it where channels or size change. It leaves
    before the ReLU; the published code of EMKD has a ReLU that works in place and so rectifies the shortcut too.

    Args:
        channels: of the input and after each of the three convolutions.
        stride: of the last convolution.
        dilation: of all three.
        normalise_second: whether batch norm follows the second convolution.

    Reference: Chollet 2017, arXiv 1610.02357, Figure 5.
    """

    def __init__(
        self, channels: Sequence[int], stride: int = 1, dilation: int = 1, normalise_second: bool = True
    ) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or first != fourth:
            self.shortcut = nn.Sequential(
                nn.Conv2d(first, fourth, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(fourth)
            )
        self.residual = nn.Sequential(
            nn.ReLU(),
            separable_conv(first, second, dilation=dilation),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            separable_conv(second, third, dilation=dilation),
            nn.BatchNorm2d(third) if normalise_second else nn.Identity(),
            nn.ReLU(),
            separable_conv(third, fourth, stride, dilation),
            nn.BatchNorm2d(fourth),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, channels[0], H, W)`` to ``(B, channels[-1], H / stride, W / stride)``."""
        return self.shortcut(x) + self.residual(x)


class Xception65(nn.Module):
    """The modified aligned Xception with 65 layers at output stride 8, without its classifier.

    The published code of EMKD, followed here, has no batch norm behind the convolution of the exit block that changes
    the channels, and none of the ReLUs that the paper puts behind every channel-wise convolution.

    Args:
        in_channels: channels of the image.
        channels: of the two convolutions of the stem, the three entry blocks (the last also for the middle blocks), the
            exit block, the exit convolutions and the last of these.

    Reference: Chen et al. 2018, arXiv 1802.02611, Figure 4.
    """

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        stem1, stem2, quarter, eighth, middle, exit1, exit2, deepest = channels
        self.stem = nn.Sequential(conv_unit(in_channels, stem1, 3, stride=2), conv_unit(stem1, stem2, 3))
        self.low = nn.Sequential(XceptionBlock((stem2, quarter, quarter, quarter), stride=2), nn.ReLU())
        self.entry = nn.Sequential(
            XceptionBlock((quarter, eighth, eighth, eighth), stride=2),
            XceptionBlock((eighth, middle, middle, middle)),
        )
        self.middle = nn.Sequential(*(XceptionBlock([middle] * 4, dilation=2) for _ in range(MIDDLE_BLOCKS)))
        self.exit = nn.Sequential(
            XceptionBlock((middle, middle, exit1, exit1), dilation=2, normalise_second=False),
            nn.ReLU(),
            *(separable_conv(exit1, exit2, dilation=4), nn.BatchNorm2d(exit2), nn.ReLU()),
            *(separable_conv(exit2, exit2, dilation=4), nn.BatchNorm2d(exit2), nn.ReLU()),
            *(separable_conv(exit2, deepest, dilation=4), nn.BatchNorm2d(deepest), nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The maps at 1/4, with ``channels[2]``, and at 1/8, with ``channels[-1]``, of ``(B, in_channels, H, W)``."""
        low = self.low(self.stem(x))
        return low, self.exit(self.middle(self.entry(low)))
