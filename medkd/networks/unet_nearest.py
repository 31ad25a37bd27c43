"""The U-Net of EMKD's experiments: nearest upsampling and a convolution in place of the transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medkd.networks.unet import ConvBlock, UNet


class NearestUNet(UNet):
    """2-D U-Net whose decoder doubles the size by nearest neighbours, then convolves (3x3, batch norm, ReLU).

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: channels of each encoder level and, last, of the bottleneck.

    Raises:
        UserError: fewer than two levels of channels.

    Reference:
        Ronneberger et al. 2015, arXiv 1505.04597; as built in the code of Qin et al. 2021, IEEE TMI 40(12), "Efficient
        Medical Image Segmentation Based on Knowledge Distillation" (34,525,954 parameters with 1 channel in and 2
        classes). That code concatenates skip and upsampled map in the other order, which only reorders weights.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__(in_channels, out_channels, channels)
        self.decoder.upsamples = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), ConvBlock(2, low, high, convs=1))
            for low, high in zip(reversed(channels[1:]), reversed(channels[:-1]), strict=True)
        )
