"""What an exported file says of itself."""

from __future__ import annotations

import torch
from torch import nn

from medkd.data.transforms import Preprocessing
from medkd.engines.saved_model import SavedModel


def network_name(model: SavedModel) -> str:
    """The network's name without a path of modules."""
    return str(model.network["name"]).rpartition(".")[2]


def organs(model: SavedModel) -> str:
    """The names of the labels but the background."""
    return ", ".join(name for value, name in model.labels.items() if value)


def input_channel_names(preprocessing: Preprocessing) -> list[str]:
    """What each channel of the input is."""
    if preprocessing.channels == "neighbours":
        return ["slice below", "slice", "slice above"]
    return ["slice"] * preprocessing.in_channels


def output_channel_names(model: SavedModel, channels: int) -> list[str]:
    """What each channel of the logits is."""
    names = [model.labels[value] for value in sorted(model.labels)]
    return [f"logit of {name}" for name in (names[1:] if channels == 1 else names)]


def random_slices(channels: int, height: int, width: int, batch: int = 1) -> torch.Tensor:
    """An input of a network, the same at every call."""
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def other_sizes(size: int) -> list[tuple[int, int]]:
    """Image sizes beside ``size`` x ``size``: one that can be halved as often, and one that cannot be halved."""
    odd = size | 1
    return [(2 * size, size + 2 * (size // 4)), (odd, odd + 2)]


def logits_of(network: nn.Module, slices: torch.Tensor) -> torch.Tensor | None:
    """What the network says to an input; None where it does not take one of this size."""
    try:
        with torch.inference_mode():
            return network(slices)
    except Exception:  # each network has its own way to refuse a size
        return None


def is_free_in_size(network: nn.Module, preprocessing: Preprocessing) -> bool:
    """Whether the network takes images of any other size than those of the pre-processing."""
    shapes = other_sizes(preprocessing.size)
    return any(logits_of(network, random_slices(preprocessing.in_channels, *shape)) is not None for shape in shapes)
