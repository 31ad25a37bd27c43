"""ENet, a student of EMKD: bottleneck blocks at low resolution, and a decoder that unpools to remembered places."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple

WIDTH = 16
DROPOUT = 0.1

# The blocks that widen the view at an eighth of the image's resolution.
CONTEXT: tuple[dict[str, Any], ...] = (
    {},
    {"dilation": 2},
    {"asymmetric": True},
    {"dilation": 4},
    {},
    {"dilation": 8},
    {"asymmetric": True},
    {"dilation": 16},
)


class InitialBlock(nn.Module):
    """Halves the image: a strided convolution beside a max pool, concatenated to 16 channels.

    Args:
        in_channels: channels of the image; the convolution makes the rest of the 16.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, WIDTH - in_channels, 3, stride=2, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.activation = nn.Sequential(nn.BatchNorm2d(WIDTH), nn.PReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, 16, H / 2, W / 2)``."""
        return self.activation(torch.cat([self.conv(x), self.pool(x)], dim=1))


def bottleneck_branch(source: int, target: int, *middle: nn.Module) -> nn.Sequential:
    """1x1 convolution to a quarter of ``target``, ``middle``, 1x1 convolution to ``target``, dropout."""
    inner = target // 4
    return nn.Sequential(
        nn.Conv2d(source, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.PReLU(),
        *middle,
        nn.BatchNorm2d(inner),
        nn.PReLU(),
        nn.Conv2d(inner, target, 1, bias=False),
        nn.BatchNorm2d(target),
        nn.Dropout2d(DROPOUT),
    )


class Bottleneck(nn.Module):
    """Residual block at one resolution; its middle is a 3x3 convolution, dilated or not, or a 5x1 and a 1x5 one.

    Args:
        channels: channels of the input and of the output.
        dilation: of the 3x3 convolution.
        asymmetric: take the 5x1 and 1x5 pair in place of the 3x3 convolution.
    """

    def __init__(self, channels: int, dilation: int = 1, asymmetric: bool = False) -> None:
        super().__init__()
        inner = channels // 4
        middle = [nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)]
        if asymmetric:
            middle = [
                nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False),
                nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False),
            ]
        self.branch = bottleneck_branch(channels, channels, *middle)
        self.activation = nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, channels, H, W)`` to the same shape."""
        return self.activation(x + self.branch(x))


class DownBottleneck(nn.Module):
    """Residual block that halves the map and tells the places of its maxima.

    Args:
        source: channels of the input.
        target: channels of the output.
    """

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        inner = target // 4
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.shortcut = nn.Sequential(nn.Conv2d(source, target, 1, bias=False), nn.BatchNorm2d(target))
        self.branch = bottleneck_branch(source, target, nn.Conv2d(inner, inner, 2, stride=2, bias=False))
        self.activation = nn.PReLU()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map ``(B, source, H, W)`` to ``(B, target, H / 2, W / 2)``, with the places ``(B, source, H / 2, W / 2)``."""
        pooled, places = self.pool(x)
        return self.activation(self.shortcut(pooled) + self.branch(x)), places


class UpBottleneck(nn.Module):
    """Residual block that doubles the map and puts its shortcut back where the maxima were.

    Args:
        source: channels of the input.
        target: channels of the output, those of the map whose maxima were kept.
    """

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        inner = target // 4
        self.shortcut = nn.Sequential(nn.Conv2d(source, target, 1, bias=False), nn.BatchNorm2d(target))
        self.branch = bottleneck_branch(source, target, nn.ConvTranspose2d(inner, inner, 2, stride=2, bias=False))
        self.activation = nn.PReLU()

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Map ``(B, source, H, W)`` to ``(B, target, 2 H, 2 W)``; ``places`` come from :class:`DownBottleneck`."""
        return self.activation(unpool(self.shortcut(x), places) + self.branch(x))


def unpool(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Double ``(B, C, H, W)``: every value goes to its place in the flattened ``(2 H, 2 W)`` grid, zeros elsewhere."""
    batch, channels, height, width = x.shape
    # A scatter rather than max_unpool2d: it is deterministic on a GPU and has a counterpart in ONNX.
    grid = x.new_zeros(batch, channels, 4 * height * width)
    return grid.scatter(2, places.flatten(2), x.flatten(2)).reshape(batch, channels, 2 * height, 2 * width)


class ENet(nn.Module):
    """ENet as EMKD trains it; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 8 and the logits are cropped
    back. A one-channel image is repeated to three channels, as in the published code, so that it counts the same.

    It has 353,761 parameters with 1 or 3 channels in and 2 classes, as in the published code, which however builds the
    second plain block of stage 3, of 17,795 parameters, and never calls it. Here it is called, as the paper has it, so
    the multiply-adds are 1.064 G at 384x384 and not the published 1.02 G. Against the paper, the shortcut of a halving
    block is a 1x1 convolution and not zero channels, every activation is a PReLU of one slope, and dropout is 0.1
    throughout, all as in the published code.

    Args:
        in_channels: channels of the image, 15 at most.
        out_channels: classes, or 1 for binary segmentation by one logit.

    Raises:
        UserError: more than 15 channels in.

    Reference: Paszke et al. 2016, arXiv 1606.02147, Table 1; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        if in_channels >= WIDTH:
            raise UserError(f"ENet cannot take {in_channels} channels in: give it at most {WIDTH - 1}.")
        self.stem_channels = 3 if in_channels == 1 else in_channels
        self.initial = InitialBlock(self.stem_channels)
        self.down1 = DownBottleneck(WIDTH, 64)
        self.stage1 = nn.Sequential(*(Bottleneck(64) for _ in range(4)))
        self.down2 = DownBottleneck(64, 128)
        self.stage2 = nn.Sequential(*(Bottleneck(128, **kind) for kind in CONTEXT))
        self.stage3 = nn.Sequential(*(Bottleneck(128, **kind) for kind in CONTEXT))
        self.up4 = UpBottleneck(128, 64)
        self.stage4 = nn.Sequential(Bottleneck(64), Bottleneck(64))
        self.up5 = UpBottleneck(64, WIDTH)
        self.stage5 = Bottleneck(WIDTH)
        self.head = nn.ConvTranspose2d(WIDTH, out_channels, 2, stride=2, bias=False)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/8 and 1/2 of the input's size."""
        return {"encoder": "stage1", "bottleneck": "stage3", "decoder": "stage5"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        image = pad_to_multiple(x, 8).expand(-1, self.stem_channels, -1, -1)
        quarter, half_places = self.down1(self.initial(image))
        eighth, quarter_places = self.down2(self.stage1(quarter))
        eighth = self.stage3(self.stage2(eighth))
        quarter = self.stage4(self.up4(eighth, quarter_places))
        half = self.stage5(self.up5(quarter, half_places))
        return crop_like(self.head(half), x)
