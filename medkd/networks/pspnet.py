"""PSPNet, a teacher of EMKD: a dilated ResNet-50 whose last map is joined by its averages over grids of bins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets.resnet import ResNetBottleneck
from torch import nn
from torch.nn import functional as F

from medkd.networks.sizes import crop_like, pad_to_multiple

BINS = (1, 2, 3, 6)


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch norm of a pooled map that also trains on a single value per channel.

    One value has no spread to be normalised by; such a batch, one sample pooled to one bin, is normalised by the
    running statistics and leaves them as they are.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` of shape ``(B, C, H, W)``."""
        by_batch = self.training and x.shape[0] * x.shape[2] * x.shape[3] > 1
        # As the parent does it, spelled out: TorchScript knows no super().
        if by_batch:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        mean, variance, momentum = self.running_mean, self.running_var, self.momentum
        return F.batch_norm(x, mean, variance, self.weight, self.bias, by_batch, momentum, self.eps)  # type: ignore[arg-type]


def average_bins(x: torch.Tensor, bins: int) -> torch.Tensor:
    """Average ``(B, C, H, W)`` over a grid of ``bins`` by ``bins`` cells that cover it, sharing rows where they must.

    It equals ``torch.nn.AdaptiveAvgPool2d(bins)``, and is written out because that has no form in ONNX for maps that
    ``bins`` does not divide.
    """
    rows, columns = _averages(int(x.shape[2]), bins, x), _averages(int(x.shape[3]), bins, x)
    return rows @ x @ columns.T


def _averages(size: int, bins: int, like: torch.Tensor) -> torch.Tensor:
    """The matrix ``(bins, size)`` that averages an axis over its cells."""
    matrix = like.new_zeros(bins, size)
    for index in range(bins):
        start, stop = size * index // bins, -(-size * (index + 1) // bins)
        matrix[index, start:stop] = 1 / (stop - start)
    return matrix


class PooledContext(nn.Module):
    """The context of a map on one grid: average over bins, 1x1 convolution, batch norm, ReLU, enlarge to the map.

    Args:
        in_channels: channels of the map.
        out_channels: channels of the context.
        bins: cells of the grid along an axis.
    """

    def __init__(self, in_channels: int, out_channels: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.norm = PooledBatchNorm(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        context = F.relu(self.norm(self.conv(average_bins(x, self.bins))))
        return F.interpolate(context, x.shape[2:], mode="bilinear", align_corners=True)


def conv_unit(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> Convolution:
    """Convolution without bias, batch norm, ReLU."""
    return Convolution(
        2,
        in_channels,
        out_channels,
        strides=stride,
        kernel_size=kernel_size,
        act="relu",
        norm="batch",
        dilation=dilation,
        bias=False,
    )


def bottleneck_stage(
    in_channels: int, width: int, blocks: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)
) -> nn.Sequential:
    """A stage of ResNet-50 from MONAI's bottleneck blocks; its output has ``4 * width`` channels.

    Args:
        in_channels: channels of the input.
        width: channels of the 3x3 convolutions.
        blocks: how many blocks.
        stride: of the first block.
        dilations: of the 3x3 convolution of the first block and of those of the others.
    """
    out_channels = width * ResNetBottleneck.expansion
    shortcut = nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
    stage = nn.Sequential(ResNetBottleneck(in_channels, width, spatial_dims=2, stride=stride, downsample=shortcut))
    stage.extend(ResNetBottleneck(out_channels, width, spatial_dims=2) for _ in range(blocks - 1))
    for index, block in enumerate(stage):
        dilation = dilations[min(index, 1)]
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)  # type: ignore[union-attr, assignment]
    return stage


class PSPNet(nn.Module):
    """PSPNet on a ResNet-50 with a stem of three convolutions and output stride 8; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 8 and the logits are cropped
    back. It has 46,706,626 parameters with 3 channels in and 2 classes; the published code of EMKD repeats a
    one-channel image to three channels, here the first convolution takes ``in_channels``. As there, the paper's
    auxiliary loss on the fourth stage is left out.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: widths of the four stages, whose maps have four times as many channels.

    Reference: Zhao et al. 2017, arXiv 1612.01105, Figure 3; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, channels: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        first, second, third, fourth = channels
        deepest = 4 * fourth
        self.stem = nn.Sequential(
            conv_unit(in_channels, first, 3, stride=2),
            conv_unit(first, first, 3),
            conv_unit(first, 2 * first, 3),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.layer1 = bottleneck_stage(2 * first, first, blocks=3)
        self.layer2 = bottleneck_stage(4 * first, second, blocks=4, stride=2)
        self.layer3 = bottleneck_stage(4 * second, third, blocks=6, dilations=(1, 2))
        self.layer4 = bottleneck_stage(4 * third, fourth, blocks=3, dilations=(2, 4))
        self.pyramid = nn.ModuleList(PooledContext(deepest, deepest // len(BINS), bins) for bins in BINS)
        self.fuse = conv_unit(2 * deepest, fourth, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.head = nn.Conv2d(fourth, out_channels, kernel_size=1)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/8 and 1/8 of the input's size."""
        return {"encoder": "layer1", "bottleneck": "layer4", "decoder": "fuse"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        deep = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(pad_to_multiple(x, 8))))))
        maps = [deep]
        for context in self.pyramid:
            maps.append(context(deep))
        fused = self.fuse(torch.cat(maps, dim=1))
        logits = self.head(self.dropout(fused))
        return crop_like(F.interpolate(logits, scale_factor=8.0, mode="bilinear", align_corners=True), x)
