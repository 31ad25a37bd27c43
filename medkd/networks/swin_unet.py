"""Swin-Unet: a U-shape of shifted-window transformers, without any convolution between patch embedding and head."""

from __future__ import annotations

import torch
from monai.networks.blocks import PatchEmbed
from monai.networks.layers import trunc_normal_
from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformerBlock, compute_mask, get_window_size
from torch import nn

from medkd.networks.sizes import crop_like, pad_to_multiple

WINDOW = (7, 7)
SHIFT = (3, 3)
LEVELS = 4
PATCH = 4
# Published: 3, 6, 12 and 24 heads from the finest to the coarsest level.
HEAD_CHANNELS = 32


def on_channels(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer that wants the channels last to ``(B, C, H, W)``."""
    # Axes counted from the front: the ONNX exporter misreads movedim(1, -1).
    return layer(x.movedim(1, 3)).movedim(3, 1)


class SwinStage(nn.Module):
    """Two transformer blocks over windows of 7x7 positions, the second over windows shifted by 3.

    A map that no whole number of windows covers is zero-padded at the far end and cropped back.

    Args:
        dim: channels of the map.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        heads = max(1, dim // HEAD_CHANNELS)
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(dim, heads, window_size=WINDOW, shift_size=shift) for shift in ((0, 0), SHIFT)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform ``(B, dim, H, W)``; returns the same shape."""
        padded = pad_to_multiple(x, WINDOW[0])
        size = padded.shape[2:]
        # An axis of one window is not shifted; MONAI's blocks expect the mask to agree with them on that.
        window, shift = get_window_size(size, WINDOW, SHIFT)
        mask = compute_mask(size, window, shift, x.device)
        tokens = padded.movedim(1, 3)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return crop_like(tokens.movedim(3, 1), x)


class PatchExpand(nn.Module):
    """Enlarges a map by handing each position's channels out to a square of positions, then layer norm.

    Args:
        source: channels of the input.
        target: channels of the output.
        scale: how many times longer each side becomes.
    """

    def __init__(self, source: int, target: int, scale: int) -> None:
        super().__init__()
        self.expand = nn.Linear(source, target * scale**2, bias=False)
        self.shuffle = nn.PixelShuffle(scale)
        self.norm = nn.LayerNorm(target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, source, H, W)`` to ``(B, target, scale * H, scale * W)``."""
        return on_channels(self.norm, self.shuffle(on_channels(self.expand, x)))


class SwinUNet(nn.Module):
    """Swin-Unet with two blocks per level; returns raw logits.

    The encoder merges patches of 2x2, the decoder expands them and concatenates ``[up, skip]``, where a skip is what
    the encoder's level gets, not what it makes. Any input size is accepted: it is zero-padded at the far end to the
    next multiple of 32 and the logits are cropped back; sizes that are multiples of 224 need no padding inside.

    It has 27,168,900 parameters with 3 channels in and 9 classes, as published. The published code repeats a
    one-channel image to three channels, starts from weights of ImageNet and drops up to a fifth of the residual
    branches at random during training; here a one-channel image has an embedding of its own, the weights start at
    random (truncated normal of 0.02, as the published code's do where it has no others) and every branch is kept.

    Args:
        in_channels: channels of the image.
        out_channels: classes, or 1 for binary segmentation by one logit.
        width: channels of a patch of 4x4, twice as many on each coarser level.

    Reference: Cao et al. 2021, arXiv 2105.05537; Liu et al. 2021, arXiv 2103.14030 (shifted windows).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1, width: int = 96) -> None:
        super().__init__()
        dims = [width * 2**level for level in range(LEVELS)]
        self.multiple = PATCH * 2 ** (LEVELS - 1)
        self.embed = PatchEmbed(PATCH, in_channels, width, spatial_dims=2)
        self.encoder = nn.ModuleList(SwinStage(dim) for dim in dims)
        self.merges = nn.ModuleList(PatchMerging(dim, spatial_dims=2) for dim in dims[:-1])
        self.norm = nn.LayerNorm(dims[-1])

        self.expands = nn.ModuleList(PatchExpand(2 * dim, dim, scale=2) for dim in dims[-2::-1])
        self.fuses = nn.ModuleList(nn.Linear(2 * dim, dim) for dim in dims[-2::-1])
        self.decoder = nn.ModuleList(SwinStage(dim) for dim in dims[-2::-1])
        self.decoder_norm = nn.LayerNorm(width)
        self.last_expand = PatchExpand(width, width, scale=PATCH)
        self.head = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.apply(_initialise)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/32 and all of the input's size."""
        return {"encoder": "encoder.0", "bottleneck": f"encoder.{LEVELS - 1}", "decoder": "last_expand"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        level = self.embed(pad_to_multiple(x, self.multiple))
        skips = []
        for stage, merge in zip(self.encoder, self.merges, strict=False):
            skips.append(level)
            level = on_channels(merge, stage(level))
        level = on_channels(self.norm, self.encoder[-1](level))
        for expand, fuse, stage, skip in zip(self.expands, self.fuses, self.decoder, reversed(skips), strict=True):
            level = stage(on_channels(fuse, torch.cat([expand(level), skip], dim=1)))
        level = self.last_expand(on_channels(self.decoder_norm, level))
        return crop_like(self.head(level), x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
