"""FANet: a U-Net that also looks at the mask it predicted before."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple
from medkd.networks.unet import ConvBlock


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions whose 1x1 shortcut is weighted per channel by squeeze and excitation.

    Args:
        in_channels: channels of the input map.
        out_channels: channels of the output map.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvBlock(2, in_channels, out_channels, convs=1),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1), nn.BatchNorm2d(out_channels))
        # The published reduction is by the number of channels: one hidden unit.
        self.excitation = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(out_channels, 1, kernel_size=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(1, out_channels, kernel_size=1, bias=False),
            nn.Sigmoid(),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        shortcut = self.shortcut(x)
        return self.relu(self.body(x) + shortcut * self.excitation(shortcut))


class MixPool(nn.Module):
    """Attention by a mask: half of the output sees the whole map, half only the union of two masks.

    One mask is the fed-back one, the other is found from the map itself. Their union is ``a + b - a * b``: the logical
    or on masks of zeros and ones.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own_mask = nn.Sequential(
            ConvBlock(2, channels, channels, convs=1), nn.Conv2d(channels, 1, kernel_size=1), nn.Sigmoid()
        )
        self.attended = ConvBlock(2, channels, channels // 2, convs=1)
        self.whole = ConvBlock(2, channels, channels - channels // 2, convs=1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Mix ``x`` of shape ``(B, channels, H, W)`` with ``mask`` ``(B, 1, H, W)``; returns the shape of ``x``."""
        own = self.own_mask(x)
        return torch.cat([self.attended(x * (own + mask - own * mask)), self.whole(x)], dim=1)


class FANet(nn.Module):
    """Feedback attention network: the foreground it predicted before steers its attention in the next pass.

    Called with an image alone it starts from a soft threshold of the image, runs, and feeds its own prediction back,
    ``iterations`` passes in all. Only the last pass keeps a gradient. Called with a previous mask it runs once.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of ``2 ** levels`` and the logits
    are cropped back.

    Args:
        in_channels: channels of the image.
        out_channels: classes, the first of them the background, or 1 for binary segmentation by one logit.
        channels: channels of each encoder level; the decoder ends with half of the first.
        iterations: passes where no previous mask is given.

    Raises:
        UserError: fewer than two levels of channels, fewer than 4 channels, or ``iterations`` below 1.

    Reference:
        Tomar et al. 2021, arXiv 2103.17235, "FANet: A Feedback Attention Network for Improved Biomedical Image
        Segmentation" (7,720,266 parameters). The published code thresholds the mask that a MixPool finds, which leaves
        the weights of that mask without a gradient; here it stays soft. That code starts from an Otsu threshold, feeds
        back the thresholded prediction of an earlier epoch in training and runs ten passes in testing.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128, 256),
        iterations: int = 2,
    ) -> None:
        super().__init__()
        if len(channels) < 2 or min(channels) < 4:
            raise UserError(f"channels={list(channels)} is too little: give two levels or more, of 4 channels or more.")
        if iterations < 1:
            raise UserError(f"iterations={iterations} runs no pass: give 1 or more.")
        self.iterations = iterations
        self.multiple = 2 ** len(channels)
        self.encoder = nn.ModuleList(
            self._stage(source, target) for source, target in pairwise([in_channels, *channels])
        )
        self.encoder_mixes = nn.ModuleList(MixPool(width) for width in channels)
        self.pools = nn.ModuleList(nn.MaxPool2d(kernel_size=2) for _ in channels)
        widths = [*reversed(channels), channels[0] // 2]
        self.upsamples = nn.ModuleList(
            nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1) for width in widths[:-1]
        )
        self.decoder = nn.ModuleList(self._stage(2 * source, target) for source, target in pairwise(widths))
        self.decoder_mixes = nn.ModuleList(MixPool(width) for width in widths[1:])
        self.head = nn.Conv2d(widths[-1] + 1, out_channels, kernel_size=1)

    @staticmethod
    def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(ResidualBlock(in_channels, out_channels), ResidualBlock(out_channels, out_channels))

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path; a tap sees the last pass."""
        last = len(self.pools) - 1
        return {
            "encoder": f"pools.{min(1, last - 1)}",
            "bottleneck": f"pools.{last}",
            "decoder": f"decoder_mixes.{last}",
        }

    def forward(self, x: torch.Tensor, previous_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Segment an image.

        Args:
            x: image ``(B, in_channels, H, W)``.
            previous_mask: foreground ``(B, 1, H, W)`` from 0 to 1, for a single pass.

        Returns:
            Logits ``(B, out_channels, H, W)``.

        Raises:
            UserError: ``previous_mask`` does not fit the image.
        """
        if previous_mask is None:
            mask = soft_threshold(x)
            with torch.no_grad():
                for _ in range(self.iterations - 1):
                    mask = foreground(self._one_pass(x, mask))
        else:
            given, needed = list(previous_mask.shape), [x.shape[0], 1, x.shape[2], x.shape[3]]
            if given != needed:
                raise UserError(f"previous_mask has the shape {given}: give one channel of the image's size, {needed}.")
            mask = previous_mask
        return self._one_pass(x, mask)

    def _one_pass(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x, mask = pad_to_multiple(image, self.multiple), pad_to_multiple(mask, self.multiple)
        skips, masks = [], []
        for stage, mix, pool in zip(self.encoder, self.encoder_mixes, self.pools, strict=True):
            x = stage(x)
            skips.append(x)
            masks.append(mask)
            x = pool(mix(x, mask))
            mask = F.max_pool2d(mask, kernel_size=2)
        for upsample, stage, mix in zip(self.upsamples, self.decoder, self.decoder_mixes, strict=True):
            mask = masks.pop()
            x = mix(stage(torch.cat([upsample(x), skips.pop()], dim=1)), mask)
        return crop_like(self.head(torch.cat([x, mask], dim=1)), image)


def soft_threshold(image: torch.Tensor) -> torch.Tensor:
    """The first mask ``(B, 1, H, W)``: sigmoid of each image's grey values in standard deviations from their mean."""
    grey = image.mean(dim=1, keepdim=True)
    centred = grey - grey.mean(dim=(2, 3), keepdim=True)
    deviation = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
    return torch.sigmoid(centred / (deviation + 1e-6))


def foreground(logits: torch.Tensor) -> torch.Tensor:
    """Probability ``(B, 1, H, W)`` of anything but background, from logits of one channel or of classes."""
    if logits.shape[1] == 1:
        return torch.sigmoid(logits)
    return 1 - torch.softmax(logits, dim=1)[:, :1]
