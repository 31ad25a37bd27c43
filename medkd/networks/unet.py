"""The U-Net family of MTMS-KD: one class serves the full U-Net and the tiny students S1 and S2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import nn

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple


class ConvBlock(nn.Sequential):
    """A chain of (3x3 convolution with bias, batch norm, ReLU); the first one changes the channels.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input map.
        out_channels: channels of the output map.
        convs: how many convolutions.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, convs: int) -> None:
        layers: list[nn.Module] = []
        for index in range(convs):
            source = in_channels if index == 0 else out_channels
            layers.append(Conv[Conv.CONV, spatial_dims](source, out_channels, kernel_size=3, padding=1))
            layers.append(Norm[Norm.BATCH, spatial_dims](out_channels))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Decoder(nn.Module):
    """The expanding path: transposed convolution, concatenation ``[up, skip]``, convolution block, per level.

    Args:
        spatial_dims: 2 or 3.
        channels: channels from the first encoder level to the bottleneck.
        convs: convolutions per block.
    """

    def __init__(self, spatial_dims: int, channels: Sequence[int], convs: int) -> None:
        super().__init__()
        self.upsamples = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for low, high in zip(reversed(channels[1:]), reversed(channels[:-1]), strict=True):
            self.upsamples.append(Conv[Conv.CONVTRANS, spatial_dims](low, high, kernel_size=2, stride=2))
            self.blocks.append(ConvBlock(spatial_dims, 2 * high, high, convs))

    def forward(self, x: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """Climb from the bottleneck map to full resolution; ``skips`` go from fine to coarse."""
        for level, (upsample, block) in enumerate(zip(self.upsamples, self.blocks, strict=True)):
            x = block(torch.cat([upsample(x), skips[-1 - level]], dim=1))
        return x


class UNet(nn.Module):
    """U-Net with batch norm, max pooling and transposed convolutions; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of ``2 ** levels`` and the logits
    are cropped back.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: channels of each encoder level and, last, of the bottleneck.
        convs_per_block: convolutions per block, 2 in the full networks and 1 in the tiny ones.
        spatial_dims: 2 or 3.

    Raises:
        UserError: fewer than two levels of channels.

    Reference: Ronneberger et al. 2015, arXiv 1505.04597; as built in Biswas 2024, arXiv 2406.03173, chapter 3.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        convs_per_block: int = 2,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise UserError(
                f"channels={list(channels)} describes no level: give two numbers or more, such as 16 32 64."
            )
        self.multiple = 2 ** (len(channels) - 1)
        self.encoder = nn.ModuleList()
        self.pools = nn.ModuleList()
        source = in_channels
        for width in channels[:-1]:
            self.encoder.append(ConvBlock(spatial_dims, source, width, convs_per_block))
            self.pools.append(Pool[Pool.MAX, spatial_dims](kernel_size=2))
            source = width
        self.bottleneck = ConvBlock(spatial_dims, source, channels[-1], convs_per_block)
        self.decoder = Decoder(spatial_dims, channels, convs_per_block)
        self.head = Conv[Conv.CONV, spatial_dims](channels[0], out_channels, kernel_size=1)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path (thesis chapter 3.3)."""
        return {
            "encoder": f"pools.{min(1, len(self.pools) - 1)}",
            "bottleneck": "bottleneck",
            "decoder": f"decoder.blocks.{len(self.decoder.blocks) - 1}",
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, *spatial)``; returns logits ``(B, out_channels, *spatial)``."""
        padded = pad_to_multiple(x, self.multiple)
        bottleneck, skips = self.encode(padded)
        return crop_like(self.head(self.decoder(bottleneck, skips)), x)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The bottleneck map and the skip maps (taken before each pool), from fine to coarse."""
        skips = []
        for block, pool in zip(self.encoder, self.pools, strict=True):
            x = block(x)
            skips.append(x)
            x = pool(x)
        return self.bottleneck(x), skips
