"""MobileNetV2 as a segmenter, a student of EMKD: inverted residuals to an eighth of the resolution and a 1x1 head."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from torch import nn
from torch.nn import functional as F

from medkd.networks.sizes import crop_like, pad_to_multiple

# Per stage: expansion, channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 1), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def conv_unit(source: int, target: int, kernel: int, stride: int = 1, groups: int = 1) -> Convolution:
    """Convolution without bias, batch norm, ReLU6."""
    return Convolution(
        2,
        source,
        target,
        strides=stride,
        kernel_size=kernel,
        groups=groups,
        act=("relu6", {"inplace": True}),
        norm="batch",
        bias=False,
    )


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, filter each channel by itself, narrow by a linear 1x1 convolution.

    A block that changes neither channels nor resolution is residual.

    Args:
        source: channels of the input.
        target: channels of the output.
        stride: 1 or 2, of the channel-wise convolution.
        expansion: how much wider the middle is than the input; 1 leaves the widening out.
    """

    def __init__(self, source: int, target: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = source * expansion
        self.residual = stride == 1 and source == target
        self.branch = nn.Sequential(
            *([conv_unit(source, middle, 1)] if expansion > 1 else []),
            conv_unit(middle, middle, 3, stride=stride, groups=middle),
            nn.Conv2d(middle, target, 1, bias=False),
            nn.BatchNorm2d(target),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, source, H, W)`` to ``(B, target, H / stride, W / stride)``."""
        return x + self.branch(x) if self.residual else self.branch(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 with output stride 8, a 1x1 head and bilinear upsampling; returns raw logits.

    The output stride comes from leaving out two of the paper's strides, those of the 24- and of the 64-channel stage,
    without any dilation, as in the published code of EMKD. Any input size is accepted: it is zero-padded at the far end
    to the next multiple of 8 and the logits are cropped back. A one-channel image is repeated to three channels, as in
    the published code, so that it counts the same.

    It has 2,226,434 parameters with 1 or 3 channels in and 2 classes. The published code has 2,228,996: it builds the
    linear classifier of image recognition, of 2,562 parameters, and never calls it; here it is left out.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.

    Reference: Sandler et al. 2018, arXiv 1801.04381, Table 2; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        self.stem_channels = 3 if in_channels == 1 else in_channels
        self.stem = conv_unit(self.stem_channels, 32, 3, stride=2)
        self.stages = nn.Sequential()
        source = 32
        for expansion, width, blocks, stride in STAGES:
            stage = nn.Sequential(InvertedResidual(source, width, stride, expansion))
            stage.extend(InvertedResidual(width, width, 1, expansion) for _ in range(blocks - 1))
            self.stages.append(stage)
            source = width
        self.last = conv_unit(source, 1280, 1)
        self.head = nn.Conv2d(1280, out_channels, 1)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/8 and 1/8 of the input's size.

        There is no decoder; its place is taken by the 1280 channels that the head reads.
        """
        return {"encoder": "stages.2", "bottleneck": "stages.6", "decoder": "last"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        image = pad_to_multiple(x, 8).expand(-1, self.stem_channels, -1, -1)
        scores = self.head(self.last(self.stages(self.stem(image))))
        return crop_like(F.interpolate(scores, scale_factor=8.0, mode="bilinear", align_corners=True), x)
