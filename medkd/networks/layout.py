"""The order of a network's weights in memory."""

from __future__ import annotations

import torch
from torch import nn

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(network: nn.Module) -> nn.Module:
    """Put the weights of 2-D and 3-D convolutions in channels-last order, which they run fastest in, in place."""
    for parameter in network.parameters():
        if parameter.ndim in _CHANNELS_LAST:
            parameter.data = parameter.data.to(memory_format=_CHANNELS_LAST[parameter.ndim])
    return network
