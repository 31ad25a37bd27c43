"""Attention U-Net, a rival of PNCD: MONAI's network with this project's arguments, padding and taps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import AttentionUnet
from torch import jit

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple


class AttentionUNet(AttentionUnet):
    """U-Net whose skips pass through attention gates; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of ``2 ** levels`` and the logits
    are cropped back.

    It has 31,739,250 parameters with 1 channel in and 2 classes, against 34,877,486 of the code that PNCD compares
    with. MONAI halves by strided convolutions and enlarges by transposed ones, where that code pools and interpolates;
    and it merges by one convolution with instance norm and PReLU, where that code has two with batch norm and ReLU.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: channels of each encoder level and, last, of the bottleneck; four numbers or more.
        spatial_dims: 2 or 3.

    Raises:
        UserError: fewer than four levels of channels.

    Reference: Oktay et al. 2018, arXiv 1804.03999.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        spatial_dims: int = 2,
    ) -> None:
        if len(channels) < 4:
            raise UserError(
                f"channels={list(channels)} has no level at 1/4 of the size but the deepest: give four or more."
            )
        super().__init__(spatial_dims, in_channels, out_channels, channels, strides=(2,) * (len(channels) - 1))
        self.multiple = 2 ** (len(channels) - 1)

    # TorchScript compiles properties, and cannot repeat a string.
    @property
    @jit.unused
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path.

        Every level's module holds the next one: ``submodule.0`` halves the map, ``submodule.1`` is the level below, and
        the last ``submodule`` is the bottleneck. The encoder is tapped at 1/4 of the input's size.
        """
        return {
            "encoder": "model.1.submodule.1.submodule.0",
            "bottleneck": "model.1" + ".submodule.1" * (len(self.channels) - 2) + ".submodule",
            "decoder": "model.1",
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, *spatial)``; returns logits ``(B, out_channels, *spatial)``."""
        return crop_like(self.model(pad_to_multiple(x, self.multiple)), x)
