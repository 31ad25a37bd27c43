"""T2, the transformer teacher of MTMS-KD: convolutions, a vision transformer at the bottom, two decoders."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import nn

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple
from medkd.networks.unet import ConvBlock
from medkd.networks.vision_transformer import LINEAR_MODE, VisionTransformer


def conv_norm(
    spatial_dims: int, source: int, target: int, kernel: int, stride: int = 1, dilation: int = 1, relu: bool = True
) -> Convolution:
    """Convolution without bias, batch norm and, unless told otherwise, ReLU."""
    return Convolution(
        spatial_dims,
        source,
        target,
        strides=stride,
        kernel_size=kernel,
        dilation=dilation,
        act="relu" if relu else None,
        norm="batch",
        bias=False,
    )


class Bottleneck(nn.Module):
    """Residual block that halves the map: 1x1, 3x3 of dilation 3, 1x1, all as wide as the output.

    Args:
        spatial_dims: 2 or 3.
        source: channels of the input.
        target: channels of the output.
    """

    def __init__(self, spatial_dims: int, source: int, target: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(spatial_dims, source, target, 1),
            conv_norm(spatial_dims, target, target, 3, stride=2, dilation=3),
            conv_norm(spatial_dims, target, target, 1, relu=False),
        )
        self.shortcut = conv_norm(spatial_dims, source, target, 1, stride=2, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, source, *spatial)`` to ``(B, target, *spatial / 2)``."""
        return torch.relu(self.branch(x) + self.shortcut(x))


class UpsamplingDecoder(nn.Module):
    """The expanding path: linear upsampling, concatenation ``[skip, up]``, two convolutions, per level.

    Args:
        spatial_dims: 2 or 3.
        width: channels of the finest skip; the others have twice and four times as many, like the input.
    """

    def __init__(self, spatial_dims: int, width: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode=LINEAR_MODE[spatial_dims], align_corners=True)
        self.blocks = nn.ModuleList(
            ConvBlock(spatial_dims, source, target, convs=2)
            for source, target in ((8 * width, 2 * width), (4 * width, width), (2 * width, width // 2))
        )
        # The finest level has no skip.
        self.blocks.append(ConvBlock(spatial_dims, width // 2, width // 8, convs=2))

    def forward(self, x: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """Climb from the bottleneck map to full resolution; ``skips`` go from fine to coarse."""
        for level, block in enumerate(self.blocks):
            x = self.upsample(x)
            if level < len(skips):
                x = torch.cat([skips[-1 - level], x], dim=1)
            x = block(x)
        return x


class MultiTaskTransUNet(nn.Module):
    """TransUNet with a second decoder that reconstructs the input; both share the encoder and its skips.

    The transformer of the published code cuts its 16x16 map into patches of 16: it sees one token and CLS, so it
    attends to nothing in space, and 134.5 million parameters sit in the two projections of that token.
    ``tokens="published"`` is that network, 172,625,028 parameters with 3 channels in and 1 out; it only takes images of
    the size it was built for. ``tokens="spatial"`` makes every position of the map a token (38,735,748 parameters) and
    takes any size: images are zero-padded at the far end to the next multiple of 16 and the logits are cropped back.

    The reconstruction decoder only runs when it is asked for, so a frozen teacher costs what a plain TransUNet costs.

    Args:
        in_channels: channels of the image, also of its reconstruction.
        out_channels: classes, or 1 for binary segmentation by one logit.
        width: channels of the stem, 8 or more; all other widths are multiples or fractions of it.
        tokens: ``published`` or ``spatial``.
        image_size: length of each side of the images, a multiple of 16; in spatial mode only the grid of the learned
            position embeddings depends on it.
        spatial_dims: 2 or 3.

    Raises:
        UserError: an argument is out of range.

    Reference: Biswas 2024, arXiv 2406.03173, chapter 3.2 (T2); Chen et al. 2021, arXiv 2102.04306 (TransUNet).
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        width: int = 128,
        tokens: str = "published",
        image_size: int = 256,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        if tokens not in ("published", "spatial"):
            raise UserError(f"tokens={tokens!r} is no way to cut the map: choose published or spatial.")
        if image_size < 16 or image_size % 16:
            raise UserError(f"image_size={image_size} cannot be halved four times: choose a multiple of 16.")
        if width < 8:
            raise UserError(f"width={width} leaves the last decoder level without channels: choose 8 or more.")
        self.image_size = image_size
        self.multiple = 16
        self.stem = conv_norm(spatial_dims, in_channels, width, 7, stride=2)
        self.stages = nn.ModuleList(Bottleneck(spatial_dims, width * scale, width * scale * 2) for scale in (1, 2, 4))
        self.transformer = VisionTransformer(
            8 * width,
            grid=(image_size // self.multiple,) * spatial_dims,
            whole_map=tokens == "published",
            dim=2 * width,
            mlp_dim=16 * width,
        )
        self.bottleneck = ConvBlock(spatial_dims, 8 * width, 4 * width, convs=1)
        self.decoder = UpsamplingDecoder(spatial_dims, width)
        self.head = Conv[Conv.CONV, spatial_dims](width // 8, out_channels, kernel_size=1)
        self.reconstruction_decoder = UpsamplingDecoder(spatial_dims, width)
        self.reconstruction_head = Conv[Conv.CONV, spatial_dims](width // 8, in_channels, kernel_size=1)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/16 and all of the input's size."""
        return {"encoder": "stages.0", "bottleneck": "bottleneck", "decoder": "decoder.blocks.3"}

    def forward(self, x: torch.Tensor, reconstruct: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Segment, and reconstruct if asked to.

        Args:
            x: image ``(B, in_channels, *spatial)``.
            reconstruct: also run the reconstruction decoder.

        Returns:
            Logits ``(B, out_channels, *spatial)``; with ``reconstruct`` a pair of them and the reconstruction
            ``(B, in_channels, *spatial)``.

        Raises:
            UserError: the published tokens do not fit the image's size.
        """
        padded = pad_to_multiple(x, self.multiple)
        self._check_size(x, padded)
        bottleneck, skips = self.encode(padded)
        logits = crop_like(self.head(self.decoder(bottleneck, skips)), x)
        if not reconstruct:
            return logits
        reconstruction = self.reconstruction_head(self.reconstruction_decoder(bottleneck, skips))
        return logits, crop_like(reconstruction, x)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The bottleneck map and the skip maps at 1/2, 1/4 and 1/8 of the size, from fine to coarse."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return self.bottleneck(self.transformer(maps[-1])), maps[:-1]

    def _check_size(self, x: torch.Tensor, padded: torch.Tensor) -> None:
        needed = [self.image_size] * (x.ndim - 2)
        if self.transformer.whole_map and list(padded.shape[2:]) != needed:
            given = "x".join([str(int(size)) for size in x.shape[2:]])
            wanted = "x".join([str(size) for size in needed])
            raise UserError(
                f"tokens='published' needs images of {wanted}, these are {given}: resize them, build the network with "
                "another image_size, or use tokens='spatial', which takes any size."
            )
