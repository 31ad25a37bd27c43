"""T1, the multi-task teacher of MTMS-KD: one encoder, a decoder that segments and one that reconstructs the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv

from medkd.networks.sizes import crop_like, pad_to_multiple
from medkd.networks.unet import Decoder, UNet


class MultiTaskUNet(UNet):
    """U-Net with a second decoder that reconstructs the input; both share the encoder and its skips.

    The reconstruction decoder only runs when it is asked for, so a frozen teacher costs what a plain U-Net costs.

    Args:
        in_channels: channels of the image, also of its reconstruction.
        out_channels: classes, or 1 for binary segmentation by one logit.
        channels: channels of each encoder level and, last, of the bottleneck.
        convs_per_block: convolutions per block.
        spatial_dims: 2 or 3.

    Reference: Biswas 2024, arXiv 2406.03173, chapter 3.2 (T1: 43,236,036 parameters).
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        convs_per_block: int = 2,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(in_channels, out_channels, channels, convs_per_block, spatial_dims)
        self.reconstruction_decoder = Decoder(spatial_dims, channels, convs_per_block)
        self.reconstruction_head = Conv[Conv.CONV, spatial_dims](channels[0], in_channels, kernel_size=1)

    def forward(  # type: ignore[override]
        self, x: torch.Tensor, reconstruct: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Segment, and reconstruct if asked to.

        Args:
            x: image ``(B, in_channels, *spatial)``.
            reconstruct: also run the reconstruction decoder.

        Returns:
            Logits ``(B, out_channels, *spatial)``; with ``reconstruct`` a pair of them and the reconstruction
            ``(B, in_channels, *spatial)``.
        """
        bottleneck, skips = self.encode(pad_to_multiple(x, self.multiple))
        logits = crop_like(self.head(self.decoder(bottleneck, skips)), x)
        if not reconstruct:
            return logits
        reconstruction = self.reconstruction_head(self.reconstruction_decoder(bottleneck, skips))
        return logits, crop_like(reconstruction, x)
