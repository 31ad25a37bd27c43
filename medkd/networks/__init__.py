"""Teachers and students; all return raw logits of the input's size."""

from __future__ import annotations

from medkd.networks.multitask_unet import MultiTaskUNet
from medkd.networks.registry import (
    NetworkEntry,
    count_macs,
    count_parameters,
    create_network,
    describe_network,
    format_networks,
    network_definition,
    network_entry,
    network_names,
    reconstructs,
    register_network,
)
from medkd.networks.unet import UNet
from medkd.networks.zoo import ENTRIES

__all__ = [
    "ENTRIES",
    "MultiTaskUNet",
    "NetworkEntry",
    "UNet",
    "count_macs",
    "count_parameters",
    "create_network",
    "describe_network",
    "format_networks",
    "network_definition",
    "network_entry",
    "network_names",
    "reconstructs",
    "register_network",
]
