"""ERFNet, a student of EMKD: residual blocks of factorised convolutions, dilated at an eighth of the resolution."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from medkd.errors import UserError
from medkd.networks.sizes import crop_like, pad_to_multiple

WIDTH = 16


class DownBlock(nn.Module):
    """Halves the map: a strided convolution beside a max pool, concatenated.

    Args:
        source: channels of the input.
        target: channels of the output; the convolution makes what the pool does not.
    """

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(source, target - source, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(target, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, source, H, W)`` to ``(B, target, H / 2, W / 2)``."""
        return F.relu(self.norm(torch.cat([self.conv(x), self.pool(x)], dim=1)))


class UpBlock(nn.Sequential):
    """Doubles the map: 3x3 transposed convolution, batch norm, ReLU.

    Args:
        source: channels of the input.
        target: channels of the output.
    """

    def __init__(self, source: int, target: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(source, target, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(target, eps=1e-3),
            nn.ReLU(inplace=True),
        )


class FactorisedBlock(nn.Module):
    """Residual block of two factorised convolutions (3x1, then 1x3), the second one dilated: "non-bottleneck-1D".

    Args:
        channels: channels of the input and of the output.
        dropout: rate of channel dropout at the end of the branch.
        dilation: of the second factorised convolution.
    """

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(channels, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)),
            nn.BatchNorm2d(channels, eps=1e-3),
            nn.Dropout2d(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, channels, H, W)`` to the same shape."""
        return F.relu(x + self.branch(x))


class ERFNet(nn.Module):
    """ERFNet; returns raw logits.

    Any input size is accepted: it is zero-padded at the far end to the next multiple of 8 and the logits are cropped
    back.

    It has 2,062,872 parameters with 1 channel in and 2 classes. The published code has 2,063,130: it builds the 1x1
    convolution that scores the encoder's map when the encoder is trained alone, of 258 parameters, and never calls it;
    here it is left out.

    Args:
        in_channels: channels of the image, 15 at most.
        out_channels: classes, or 1 for binary segmentation by one logit.

    Raises:
        UserError: more than 15 channels in.

    Reference: Romera et al. 2017, IEEE T-ITS 19(1), Table I; as built in Qin et al. 2021 (EMKD), IEEE TMI 40(12).
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 1) -> None:
        super().__init__()
        if in_channels >= WIDTH:
            raise UserError(f"ERFNet cannot take {in_channels} channels in: give it at most {WIDTH - 1}.")
        self.initial = DownBlock(in_channels, WIDTH)
        self.encoder = nn.Sequential(DownBlock(WIDTH, 64), *(FactorisedBlock(64, dropout=0.03) for _ in range(5)))
        self.bottleneck = nn.Sequential(
            DownBlock(64, 128),
            *(FactorisedBlock(128, dropout=0.3, dilation=dilation) for dilation in 2 * (2, 4, 8, 16)),
        )
        self.decoder = nn.Sequential(
            UpBlock(128, 64),
            FactorisedBlock(64),
            FactorisedBlock(64),
            UpBlock(64, WIDTH),
            FactorisedBlock(WIDTH),
            FactorisedBlock(WIDTH),
        )
        self.head = nn.ConvTranspose2d(WIDTH, out_channels, 2, stride=2)

    @property
    def taps(self) -> dict[str, str]:
        """Where distillation taps features: scale name to module path, at 1/4, 1/8 and 1/2 of the input's size."""
        return {"encoder": "encoder", "bottleneck": "bottleneck", "decoder": "decoder"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``x`` of shape ``(B, in_channels, H, W)``; returns logits ``(B, out_channels, H, W)``."""
        quarter = self.encoder(self.initial(pad_to_multiple(x, 8)))
        return crop_like(self.head(self.decoder(self.bottleneck(quarter))), x)
