"""ESPNet, a student of EMKD: spatial pyramids of dilated convolutions and a decoder as wide as the classes."""

from __future__ import annotations

import torch
from torch import nn

from medkd.networks.sizes import crop_like, pad_to_multiple

DILATIONS = (1, 2, 4, 8, 16)


class NormActivation(nn.Sequential):
    """Batch norm and a PReLU with a slope per channel.

    Args:
        channels: channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels, eps=1e-3), nn.PReLU(channels))


class PyramidBlock(nn.Module):
    """Efficient spatial pyramid: reduce the channels, look at five dilations at once, fuse, concatenate.

    Every dilated map but the first is added to the next wider one before the concatenation, which takes the gridding of
    dilated convolutions away. A block that changes neither channels nor resolution is residual.

    Args:
        source: channels of the input.
        target: channels of the output, at least 5.
        stride: 1, with a 1x1 reduction, or 2, with a 3x3 reduction that halves the map.
    """

    def __init__(self, source: int, target: int, stride: int = 1) -> None:
        super().__init__()
        width = target // len(DILATIONS)
        first = target - width * (len(DILATIONS) - 1)
        kernel = 1 if stride == 1 else 3
        self.residual = stride == 1 and source == target
        self.reduce = nn.Conv2d(source, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.dilated = nn.ModuleList(
            nn.Conv2d(width, first if dilation == 1 else width, 3, padding=dilation, dilation=dilation, bias=False)
            for dilation in DILATIONS
        )
        self.activation = NormActivation(target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, source, H, W)`` to ``(B, target, H / stride, W / stride)``."""
        reduced = self.reduce(x)
        maps = [conv(reduced) for conv in self.dilated]
        for index in range(2, len(maps)):
            maps[index] = maps[index - 1] + maps[index]
        merged = torch.cat(maps, dim=1)
        return self.activation(x + merged if self.residual else merged)


class ESPNet(nn.Module):
    """ESPNet with its light decoder; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 8 and the logits are cropped
    back. A one-channel image is repeated to three channels, as in the published code, so that it counts the same:
    183,725 parameters with 2 classes. The decoder has as many channels as there are classes, so its map is a thin one
    to distil.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        p: residual pyramid blocks at a quarter of the image's resolution.
        q: residual pyramid blocks at an eighth.

    Reference: Mehta et al. 2018, arXiv 1803.06815, Figure 4; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, p: int = 2, q: int = 3) -> None:
        super().__init__()
        self.stem_channels = 3 if in_channels == 1 else in_channels
        half, quarter, classes = 16 + self.stem_channels, 128 + self.stem_channels, out_channels
        self.halve = nn.AvgPool2d(3, stride=2, padding=1)

        self.stem = nn.Sequential(
            nn.Conv2d(self.stem_channels, 16, 3, stride=2, padding=1, bias=False), NormActivation(16)
        )
        self.merge1 = NormActivation(half)
        self.down2 = PyramidBlock(half, 64, stride=2)
        self.level2 = nn.Sequential(*(PyramidBlock(64, 64) for _ in range(p)))
        self.merge2 = NormActivation(quarter)
        self.down3 = PyramidBlock(quarter, 128, stride=2)
        self.level3 = nn.Sequential(*(PyramidBlock(128, 128) for _ in range(q)))
        self.merge3 = NormActivation(256)

        self.up3 = nn.Sequential(
            nn.Conv2d(256, classes, 1, bias=False),
            nn.BatchNorm2d(classes, eps=1e-3),
            nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False),
        )
        self.skip2 = nn.Conv2d(quarter, classes, 1, bias=False)
        self.up2 = nn.Sequential(
            NormActivation(2 * classes),
            PyramidBlock(2 * classes, 5),
            nn.ConvTranspose2d(5, classes, 2, stride=2, bias=False),
            NormActivation(classes),
        )
        self.up1 = nn.Sequential(nn.Conv2d(half + classes, classes, 3, padding=1, bias=False), NormActivation(classes))
        self.head = nn.ConvTranspose2d(classes, classes, 2, stride=2, bias=False)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/8 and 1/2 of the input's size."""
        return {"encoder": "merge2", "bottleneck": "merge3", "decoder": "up1"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        image = pad_to_multiple(x, 8).expand(-1, self.stem_channels, -1, -1)
        half_image = self.halve(image)
        half = self.merge1(torch.cat([self.stem(image), half_image], dim=1))
        down = self.down2(half)
        quarter = self.merge2(torch.cat([self.level2(down), down, self.halve(half_image)], dim=1))
        down = self.down3(quarter)
        eighth = self.merge3(torch.cat([down, self.level3(down)], dim=1))

        quarter = self.up2(torch.cat([self.skip2(quarter), self.up3(eighth)], dim=1))
        half = self.up1(torch.cat([quarter, half], dim=1))
        return crop_like(self.head(half), x)
